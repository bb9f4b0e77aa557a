"""An online preference iteration, compared with TRL's online DPO trainer (``trl.experimental.online_dpo``): seconds of theirs over ours.

An iteration, on both sides: the same prompts, two responses each at temperature 1, the same reward of every response, one pair per prompt,
log-probs under the same fixed pi_ref, and the same number of optimiser steps of the same size on DPO's loss; float32, two threads, a
random Llama. Start-up and a first iteration are not counted on either side. The sides differ in this: TRL samples from the policy of every
single step, with transformers, and computes all log-probs in one padded batch. Our engines sample all prompts of the iteration from pi_t
and receive pi_{t+1} at its end; it is checked and saved to disk within the measured time. TRL saves nothing.

TRL's settings are its fastest: no gradient checkpointing (which would also switch its key-value cache off), no bfloat16, no logging, 64
responses in a batch. Responses have different lengths, as answers do (``end_early``); where all run to the limit, so that TRL pads nothing,
the ratio is about 1.3 at 15M. TRL's vLLM mode is for GPUs: in vLLM's CPU build the weights of ``load_weights`` do not reach the packed
copies that the engine samples from.

The sides take turns within one run of ours: before each of its iterations, the run waits until TRL has finished one. Waiting threads of
both sides sleep, because on a machine with other work most of the measured time would be spinning.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.different_words import preferences, rewards
from benchmarks.figure import Figure
from benchmarks.models import END, SHAPES, make_policy
from raypref.config import RunConfig
from raypref.metrics.progress import Callback

THREADS = 2
SAMPLES = 3
PAIRS = 32
"""In one optimiser step; twice as many responses are one batch of TRL's."""
STEPS = {"260k": 4, "15m": 2}
"""In one iteration."""
BARS = {"260k": 0.0, "15m": 1.5}
PROMPT_TOKENS, RESPONSE_TOKENS = 16, 64
HEAD_WIDTH = 32
MICRO_BATCH_TOKENS = 8 * (PROMPT_TOKENS + 2 * RESPONSE_TOKENS)
"""Eight pairs: as many logits as the learner keeps for its backward pass."""
BETA, LR, MAX_GRAD_NORM = 0.1, 1e-6, 1.0
TIMEOUT_S = 1800


def main(arguments: Sequence[str]) -> int:
    import ray

    if importlib.util.find_spec("trl") is None:
        print("trl: TRL is not installed (the extra `bench`)", file=sys.stderr)
        return 0
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    ray.init(address="local", num_cpus=4 * THREADS, num_gpus=3, include_dashboard=False, log_to_driver=False)  # counted, not real
    try:
        for size, bar in BARS.items():
            with tempfile.TemporaryDirectory() as folder:
                pairs = measure(Path(folder), size)
            theirs, ours = (median(side) for side in zip(*pairs, strict=True))
            unit = f"seconds of TRL's iteration ({theirs:.2f}) over those of ours ({ours:.2f}), {STEPS[size]} steps of {PAIRS} pairs"
            Figure(f"iteration_over_trl_{size}", median(a / b for a, b in pairs), bar, unit, SAMPLES).show()
    finally:
        ray.shutdown()
    return 0


def measure(directory: Path, size: str) -> list[tuple[float, float]]:
    """Seconds of TRL's iteration and of ours, turn by turn."""
    import ray

    import raypref
    from actors.learner.deepspeed_setup import learner_env

    make_policy(directory / "policy", size)
    cut_heads(directory / "policy")
    end_early(directory / "policy", SHAPES[size]["vocab_size"])
    texts = make_prompts(PAIRS * STEPS[size], SHAPES[size]["vocab_size"])
    env = {"num_cpus": 0, "runtime_env": {"env_vars": learner_env("cpu", THREADS)}}
    peer = ray.remote(OnlineDPO).options(**env).remote(directory, texts, STEPS[size])
    turns = Turns(peer, STEPS[size])
    try:
        raypref.run(run_config(directory, size), prompts=texts * (SAMPLES + 2), oracle=preferences, callbacks=[turns])
    except TurnsOver:
        return list(zip(turns.theirs, turns.ours, strict=True))
    finally:
        ray.kill(peer)
    raise AssertionError("the run ended before the last turn")


def run_config(directory: Path, size: str) -> RunConfig:
    """``SAMPLES`` iterations, one before them in which the models warm up, and one after them that never starts."""
    cpus = {"cpus": THREADS}
    return RunConfig.parse(
        {
            "output_dir": str(directory / "run"),
            "policy": {"path": str(directory / "policy"), "dtype": "float32", "max_context_tokens": 2 * (PROMPT_TOKENS + RESPONSE_TOKENS)},
            "data": {"chat_template": False, "shuffle": False},
            "loop": {"iterations": SAMPLES + 2, "prompts_per_iteration": PAIRS * STEPS[size]},
            "rollout": {"responses": 2, "max_tokens": RESPONSE_TOKENS},
            "selection": {"type": "best_worst", "all_equal": "keep"},
            "loss": {"type": "dpo", "beta": BETA},
            "learner": {
                "global_batch": PAIRS,
                "micro_batch_tokens": MICRO_BATCH_TOKENS,
                "zero_stage": 0,
                "max_grad_norm": MAX_GRAD_NORM,
                "optimizer": {"lr": LR},
                "schedule": {"type": "constant", "warmup_ratio": 0.0},
            },
            "placement": {"device": "cpu", "learner": cpus, "rollout": cpus, "reference": cpus, "oracle": {"gpus": 0}},
            "evaluation": {"every": 0},
        }
    )


class TurnsOver(Exception):
    """The last turn has been measured, and the run need not go on."""


class Turns(Callback):
    """Lets TRL do an iteration before each of ours, while all our roles are idle, and measures both."""

    def __init__(self, peer: Any, steps: int) -> None:
        self.theirs: list[float] = []
        self.ours: list[float] = []
        self._peer = peer
        self._expected = steps
        self._steps = 0
        self._start = 0.0

    def on_iteration(self, iteration: int) -> None:
        import ray

        end, finished = time.perf_counter(), iteration - 1
        if finished > 0 and self._steps != self._expected:
            raise RuntimeError(f"trl: our iteration took {self._steps} optimiser steps, TRL's {self._expected}")
        if finished > 1:
            self.ours.append(end - self._start)
        if finished > SAMPLES:
            raise TurnsOver
        theirs = ray.get(self._peer.iterate.remote(), timeout=TIMEOUT_S)
        if finished > 0:
            self.theirs.append(theirs)
        self._steps, self._start = 0, time.perf_counter()

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._steps += 1


class OnlineDPO:
    """TRL's trainer, in its own process."""

    def __init__(self, directory: Path, prompts: list[str], steps: int) -> None:
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

        self._marks = marks = list[float]()
        self._steps = steps

        class Clock(TrainerCallback):
            def on_train_begin(self, *arguments: Any, **more: Any) -> None:
                marks.append(time.perf_counter())

            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                marks.append(time.perf_counter())

        self._trainer = OnlineDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(directory / "policy", dtype="float32"),
            reward_funcs=rewards,
            args=OnlineDPOConfig(
                output_dir=str(directory / "trl"),
                per_device_train_batch_size=PAIRS,
                max_steps=steps,
                max_new_tokens=RESPONSE_TOKENS,
                max_length=PROMPT_TOKENS + RESPONSE_TOKENS + 1,
                temperature=1.0,
                beta=[BETA],
                learning_rate=LR,
                max_grad_norm=MAX_GRAD_NORM,
                lr_scheduler_type="constant",
                optim="adamw_torch_fused",
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=AutoTokenizer.from_pretrained(directory / "policy"),
            callbacks=[Clock()],
        )

    def iterate(self) -> float:
        """Seconds from the start of the first step to the end of the last."""
        self._marks.clear()
        self._trainer.train()
        if len(self._marks) != self._steps + 1:
            raise RuntimeError(f"trl: {len(self._marks) - 1} steps; expected {self._steps}")
        return self._marks[-1] - self._marks[0]


def make_prompts(count: int, vocabulary: int) -> list[str]:
    """Random words."""
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(3, vocabulary)}" for _ in range(PROMPT_TOKENS)) for _ in range(count)]


def end_early(policy: Path, vocabulary: int) -> None:
    """Declare one word in ``RESPONSE_TOKENS`` an end token: two responses in three end before the limit, after 40 tokens on average."""
    from transformers import GenerationConfig

    GenerationConfig(eos_token_id=list(range(END, vocabulary, RESPONSE_TOKENS))).save_pretrained(policy)


def cut_heads(policy: Path) -> None:
    """Set the heads' width to one that vLLM has CPU kernels for; the weights' shapes do not depend on it."""
    from transformers import LlamaConfig

    config = LlamaConfig.from_pretrained(policy)
    heads, rest = divmod(config.hidden_size, HEAD_WIDTH)
    assert not rest
    config.num_attention_heads = config.num_key_value_heads = heads
    config.head_dim = HEAD_WIDTH
    config.save_pretrained(policy)

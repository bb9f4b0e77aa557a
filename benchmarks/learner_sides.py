"""The sides of ``benchmarks.learner``: each trains a model on the same pairs and measures how long its steps take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import END
from benchmarks.preference_pairs import make_pairs
from raypref.config import RunConfig
from raypref.losses.sppo import SPPO
from raypref.sections import LearnerConfig, LoopConfig, PolicyConfig
from raypref.training import collation, micro_batches
from raypref.types import Example, TokenSequence

PAIRS = 16
"""Of one optimiser step."""
ETA = 1000.0
LOSS = SPPO(eta=ETA, against="pair", labels="hard")
TRL_PAIRS = 4
"""Of one of TRL's micro-batches."""
LR = 1e-6
MAX_GRAD_NORM = 1.0
MICRO_BATCH_TOKENS = 2048
LEARNER: dict[str, Any] = {
    "global_batch": PAIRS,
    "micro_batch_tokens": MICRO_BATCH_TOKENS,
    "max_grad_norm": MAX_GRAD_NORM,
    "optimizer": {"lr": LR},
    "schedule": {"type": "constant", "warmup_ratio": 0.0},
}


Batches = list[tuple[Example, ...]]


def make_batches(steps: int, vocabulary: int, probe: Callable[[list[TokenSequence]], list[np.ndarray]]) -> Batches:
    """The pairs of ``steps`` steps; ``probe`` gives the per-token log-probs under pi_t, the model at the start."""
    pairs = make_pairs(PAIRS * steps, vocabulary, END, ETA)
    logps = iter(probe(collation.sequences(pairs)))
    scored = [replace(pair, previous_logps=np.array([next(logps).sum() for _ in pair.response_ids])) for pair in pairs]
    return [tuple(scored[start : start + PAIRS]) for start in range(0, len(scored), PAIRS)]


class Learner:
    """A learner of one rank."""

    def __init__(self, policy: Path, vocabulary: int, steps: int, zero_stage: int) -> None:
        from actors.learner.rank import LearnerRank

        config = RunConfig(
            policy=PolicyConfig(path=str(policy), dtype="float32"),
            learner=LearnerConfig.parse(LEARNER | {"zero_stage": zero_stage}),
            loss=LOSS,
            loop=LoopConfig(iterations=1),
            output_dir=policy.parent,
        )
        self._rank = LearnerRank(config, device="cpu", rank=0, world_size=1)
        self._rank.start(self._rank.listen())
        self._rank.begin_iteration(0, 1)
        self._batches = make_batches(steps, vocabulary, self._rank.probe)

    def first_gradient_norm(self) -> float:
        return self._rank.step([(0, PAIRS)], self._batches[0])["grad_norm"]

    def seconds(self) -> float:
        """One step on each batch."""
        start = time.perf_counter()
        for batch in self._batches:
            self._rank.step([(0, PAIRS)], batch)
        return time.perf_counter() - start


class Bare:
    """The same computation in plain torch."""

    def __init__(self, policy: Path, vocabulary: int, steps: int) -> None:
        import torch

        from actors.policy_model import load_model
        from raypref.training.logprobs import per_token_logps
        from raypref.training.packing import packing_of

        self._model = load_model(PolicyConfig(path=str(policy), dtype="float32"), torch.device("cpu"), trainable=True)
        self._packing = packing_of(self._model)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        self._batches = make_batches(steps, vocabulary, lambda items: per_token_logps(self._model, items, MICRO_BATCH_TOKENS))

    def first_gradient_norm(self) -> float:
        return self._step(self._batches[0])

    def seconds(self) -> float:
        """One step on each batch."""
        start = time.perf_counter()
        for batch in self._batches:
            self._step(batch)
        return time.perf_counter() - start

    def _step(self, batch: tuple[Example, ...]) -> float:
        """Returns the gradient's norm."""
        import torch

        from raypref.training.logprobs import response_logps

        self._optimizer.zero_grad()
        items = [collation.sequences([example]) for example in batch]
        for micro in micro_batches.plan_micro_batches(items, 1, MICRO_BATCH_TOKENS, self._packing)[0]:
            chosen = [batch[k] for k in micro.examples]
            logps, _ = response_logps(self._model, collation.sequences(chosen))
            (LOSS(collation.collate(chosen, logps, LOSS.needs)).loss.sum() / len(batch)).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self._model.parameters(), MAX_GRAD_NORM))
        self._optimizer.step()
        return norm


class Trl:
    """TRL's ``DPOTrainer``. It reads text: the pairs' tokens as words; it appends the end token to each response itself."""

    def __init__(self, policy: Path, vocabulary: int, steps: int) -> None:
        from datasets import Dataset, disable_progress_bars
        from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
        from trl import DPOConfig, DPOTrainer

        disable_progress_bars()
        self._clock = clock = Clock()

        class Timed(TrainerCallback):
            def on_step_begin(self, *arguments: Any, **more: Any) -> None:
                clock.start()

            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                clock.stop()

            def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
                clock.norms.extend([logs["grad_norm"]] if "grad_norm" in logs else [])

        self._trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(policy, dtype="float32"),
            args=DPOConfig(
                output_dir=str(policy.parent / "trl"),
                loss_type="sppo_hard",
                beta=1 / ETA,
                gradient_checkpointing=False,
                precompute_ref_log_probs=True,
                bf16=False,
                use_cpu=True,
                learning_rate=LR,
                max_grad_norm=MAX_GRAD_NORM,
                lr_scheduler_type="constant",
                optim="adamw_torch_fused",
                num_train_epochs=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                per_device_train_batch_size=TRL_PAIRS,
                gradient_accumulation_steps=PAIRS // TRL_PAIRS,
                train_sampling_strategy="sequential",
                logging_steps=1,
            ),
            train_dataset=Dataset.from_list([_as_text(pair) for pair in make_pairs(PAIRS * steps, vocabulary, END, ETA)]),
            processing_class=AutoTokenizer.from_pretrained(policy),
            callbacks=[Timed()],
        )

    def first_gradient_norm(self) -> float:
        self._trainer.train()
        return self._clock.norms[0]

    def seconds(self) -> float:
        """One step on each batch."""
        self._clock.seconds = 0.0
        self._trainer.train()
        return self._clock.seconds


class Clock:
    """Sums the seconds between its starts and stops."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.norms: list[float] = []
        self._started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started


def _as_text(pair: Example) -> dict[str, str]:
    prompt, *responses = (" ".join(f"w{token}" for token in ids) for ids in (pair.prompt_ids[0], *(ids[:-1] for ids in pair.response_ids)))
    return {"prompt": prompt, "chosen": " " + responses[0], "rejected": " " + responses[1]}

"""The optimiser's state on real DeepSpeed engines: what it weighs, and moved out between steps (on a CPU nothing moves: tests/gpu)."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from transformers import AutoConfig

from actors.learner.rank import LearnerRank
from raypref import types
from raypref.plan.learner_memory import gradient_bytes, learner_memory, optimizer_bytes, parameter_bytes
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape
from raypref.sections import LearnerConfig, PlacementConfig, PolicyConfig
from tests.learner_bench import Bench, Benches, Square, make_examples, run_config

pytestmark = pytest.mark.integration

BATCHES = [make_examples(9, seed=seed) for seed in range(3)]


@pytest.fixture
def bench(benches: Benches) -> Bench:
    return benches[2]


def tell(bench: Bench, method: str) -> None:
    ray.get([getattr(rank, method).remote() for rank in bench.ranks], timeout=60)


@pytest.mark.parametrize(
    "settings", [{"zero_stage": 1}, {"zero_stage": 2}, {"zero_stage": 3}, {"zero_stage": 3, "optimizer": {"type": "rmsprop"}}]
)
def test_a_run_with_the_state_moved_out_between_steps(bench: Bench, policy: PolicyConfig, settings: dict[str, Any], tmp_path: Path) -> None:
    """To the bit the run without it. A probe in between works, and a checkpoint that is saved there."""
    bench.become(policy, settings)
    for batch in BATCHES:
        bench.step(*batch)
    expected = bench.parameters()

    bench.become(policy, settings)
    bench.step(*BATCHES[0])
    tell(bench, "offload")
    bench.call("probe", [types.TokenSequence(BATCHES[0][0].prompt_ids[0], BATCHES[0][0].response_ids[0])])
    bench.call("save", tmp_path / "away")
    for batch in BATCHES[1:]:
        tell(bench, "offload")
        tell(bench, "reload")
        tell(bench, "reload")
        bench.step(*batch)
    check_equal(bench.parameters(), expected)

    bench.become(policy, settings)
    tell(bench, "offload")
    tell(bench, "reload")
    bench.call("load", tmp_path / "away")
    for batch in BATCHES[1:]:
        bench.step(*batch)
    check_equal(bench.parameters(), expected)


def test_an_iteration_begun_while_the_state_is_away_starts_the_optimiser_anew(bench: Bench, policy: PolicyConfig) -> None:
    bench.become(policy, {"zero_stage": 2})
    bench.step(*BATCHES[0])
    bench.call("begin_iteration", 1, 5)
    bench.step(*BATCHES[1])
    expected = bench.parameters()
    bench.become(policy, {"zero_stage": 2})
    bench.step(*BATCHES[0])
    tell(bench, "offload")
    bench.call("begin_iteration", 1, 5)
    tell(bench, "reload")
    bench.step(*BATCHES[1])
    check_equal(bench.parameters(), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_memory_model_against_what_deepspeed_holds(bench: Bench, policy: PolicyConfig, dtype: Any, stage: Any) -> None:
    """Two ranks after a step, within 1%: DeepSpeed pads the shares of a tiny model by some elements."""
    chosen = policy.model_copy(update={"dtype": dtype})
    bench.become(chosen, {"zero_stage": stage})
    bench.step(*BATCHES[0])
    shape = ModelShape.of(AutoConfig.from_pretrained(policy.path))
    job = Job(shape, 4 if dtype == "float32" else 2, zero_stage=stage, ranks=2, micro_batch_tokens=60)
    for weights in ray.get([rank.__ray_call__.remote(weigh) for rank in bench.ranks], timeout=60):
        assert weights["parameters"] == pytest.approx(parameter_bytes(job), rel=0.01)
        assert weights["optimizer"] == pytest.approx(optimizer_bytes(job), rel=0.01)
        if stage == 3:
            assert weights["gradients"] == pytest.approx(gradient_bytes(job), rel=0.01)
        elif stage == 1 and dtype == "bfloat16":
            assert weights["gradients"] == pytest.approx(4 * shape.parameters, rel=0.01)


def weigh(rank: Any) -> dict[str, int]:
    """Bytes of a rank's tensors; gradients as far as they stay between steps. Runs in the rank's process."""
    optimizer = rank._engine.optimizer
    names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
    (masters,) = [getattr(optimizer, name) for name in names if getattr(optimizer, name, None)]
    moments = [tensor for state in rank._optimizer.state.values() for tensor in state.values() if tensor.dim()]
    gradients = [getattr(optimizer, "grad_partitions_flat_buffer", None), *getattr(optimizer, "fp32_groups_gradients_flat", [])]
    return {
        "parameters": sum(getattr(parameter, "ds_tensor", parameter).nbytes for parameter in rank._engine.module.parameters()),
        "optimizer": sum(tensor.nbytes for tensor in (*masters, *moments)),
        "gradients": sum(tensor.nbytes for tensor in gradients if tensor is not None),
    }


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


VOCABULARY, WIDTH = 2048, 256


@pytest.fixture(scope="module")
def medium_policy(policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    """4.9 million parameters in six blocks: passes whose tensors outweigh what no model of memory would count."""
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("medium")
    shutil.copytree(policy.path, directory, dirs_exist_ok=True)
    shape = {"hidden_size": WIDTH, "intermediate_size": 704, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 6}
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **shape)).save_pretrained(directory)
    return policy.model_copy(update={"path": str(directory)})


@pytest.mark.parametrize(
    ("changed", "learner"),
    [
        ({"dtype": "bfloat16"}, {"zero_stage": 2}),
        ({"dtype": "bfloat16", "gradient_checkpointing": True}, {"zero_stage": 2}),
        ({"dtype": "bfloat16"}, {"zero_stage": 1}),
        ({"dtype": "bfloat16", "gradient_checkpointing": True}, {"zero_stage": 3}),
        ({"dtype": "float32"}, {"zero_stage": 2, "optimizer": {"type": "rmsprop"}}),
        ({"dtype": "bfloat16", "lora": {"rank": 8}}, {"zero_stage": 2}),
    ],
    ids=["2", "2-checkpointing", "1", "3-checkpointing", "2-float32-rmsprop", "2-lora"],
)
def test_the_memory_model_against_the_peak_of_a_step(
    bench: Bench, medium_policy: PolicyConfig, changed: dict[str, Any], learner: dict[str, Any]
) -> None:
    """Two ranks, each with two passes of 1028 tokens, by what torch's allocator gave out: within 15%."""
    chosen = PolicyConfig.parse(medium_policy.model_dump() | changed)
    settings = {"micro_batch_tokens": 1028, **learner}
    bench.become(chosen, settings)
    config = run_config(chosen, LearnerConfig.parse(settings), Square(), bench.output_dir)
    placement = PlacementConfig.parse({"device": "cpu", "learner": {"ranks": 2}})
    shape = ModelShape.of(AutoConfig.from_pretrained(chosen.path), chosen.lora)
    job = Job.of(config.model_copy(update={"placement": placement}), shape, row_tokens=257)
    modelled = learner_memory(job, "train").gpu_bytes
    for peak in ray.get([rank.__ray_call__.remote(peak_of_a_step, pairs(16)) for rank in bench.ranks], timeout=120):
        assert modelled == pytest.approx(peak, rel=0.15)


def pairs(count: int) -> tuple[types.Example, ...]:
    """Prompts of 65 tokens and two responses of 97: rows of 257 inputs."""
    rng = np.random.default_rng(0)

    def pair(index: int) -> types.Example:
        prompt, *responses = (rng.integers(3, VOCABULARY, size).astype(np.int32) for size in (65, 97, 97))
        sides: dict[str, Any] = {"prompt_ids": (prompt,) * 2, "response_ids": tuple(responses)}
        targets = {"targets": np.zeros(2), "previous_logps": np.full(2, -740.0)}
        return types.Example(prompt_index=index, prompt_id=str(index), policy_version=0, **sides, **targets)

    return tuple(map(pair, range(count)))


def peak_of_a_step(rank: Any, batch: tuple[types.Example, ...]) -> int:
    """Bytes that torch's allocator had given out at most during the second step of a rank that starts anew. Runs in the rank's process."""
    import gc

    from torch.profiler import ProfilerActivity, profile

    settings = {"config": rank._run, "device": "cpu", "rank": rank._rank, "world_size": rank._world_size}
    rank.close()
    gc.collect()

    def changes(*calls: Any) -> list[int]:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            for call in calls:
                call()
        events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
        return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]

    def step() -> None:
        rank.step([(0, len(batch))], batch)

    held = changes(lambda: LearnerRank.__init__(rank, **settings), lambda: rank.start(None), lambda: rank.begin_iteration(0, 5), step)
    # Threads load the parameters, which the profiler does not see; those that are trained DeepSpeed has copied here.
    loaded = sum(parameter.nbytes for parameter in rank._engine.module.parameters() if not parameter.requires_grad)
    return loaded + sum(held) + max(itertools.accumulate(changes(step)))

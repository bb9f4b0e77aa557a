"""What a GPU would hold, whether it fits, and what is proposed if it does not: an 8B model by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.plan.candidates import with_values
from raypref.plan.fit import MARGIN, fits, gpu_uses, largest_micro_batch
from raypref.plan.hardware import CPU, GIB, Cluster, Gpu
from raypref.plan.model_shape import ModelShape
from raypref.plan.places import place
from raypref.plan.processes import processes
from raypref.plan.remedies import Remedy, remedies
from raypref.plan.setting import Setting
from raypref.sections import LoraConfig
from raypref.settings.overrides import apply
from tests.plan.test_memory import LLAMA_8B, SHAPE

ADAPTED = ModelShape.of(LLAMA_8B, LoraConfig())
SECTIONS: dict[str, Any] = {
    "policy": {"path": "m", "gradient_checkpointing": True},
    "data": {"path": "p.jsonl"},
    "oracle": {"type": "callable", "function": "tests.plan.test_fit:answer"},
    "selection": {"type": "best_worst"},
    "loss": {"type": "sppo"},
    "learner": {"micro_batch_tokens": 8192},
    "placement": {"learner": {"ranks": 4}, "rollout": {"engines": 3}, "reference": {"gpus": 0.5}, "oracle": {"gpus": 0.5}},
}
EIGHT = Cluster.of(gpus=8, gpu_gib=80)


def answer(prompts: list[str], responses: list[list[str]]) -> None:
    """Named by the configs; nothing is asked here."""


def setting(cluster: Cluster = EIGHT, shape: ModelShape = SHAPE, **changes: Any) -> Setting:
    return Setting(with_values(RunConfig.parse(SECTIONS), changes), shape, cluster)


def test_roles_that_share_a_gpu_are_added_up() -> None:
    """Eight GPUs: four ranks, three engines, and one that the reference and the oracle share; the function has no model in memory."""
    made = setting()
    uses = {use.roles: use for use in gpu_uses(made)}
    assert {roles: use.count for roles, use in uses.items()} == {("learner",): 4, ("rollout",): 3, ("reference",): 1}
    both = next(use for use in gpu_uses(replace(made, oracle_bytes=GIB)) if "oracle" in use.roles)
    assert both.roles == ("oracle", "reference")
    assert both.phases["train"]["oracle weights"] == GIB
    assert both.phases["train"]["reference weights"] == 16_060_522_496


def test_an_engine_takes_its_share_of_the_gpu() -> None:
    """0.85 x 80 = 68 GiB: weights, context, graphs, a pass of 16,384 tokens of 2 (3 x 4096 + 3 x 14,336) bytes each, 256 x 128,256 logits
    of 10 bytes, and the cache, which gets the rest. At a sync a layer and three buffers come beside it."""
    engine = processes(setting())["rollout", "rollout"].gpu
    assert sum(engine.values()) == 68 * GIB
    assert engine["passes"] == 16_384 * 2 * 55_296 + 256 * 128_256 * 10
    assert engine["cache"] == 68 * GIB - 16_060_522_496 - GIB // 2 - GIB - engine["passes"]
    syncing = processes(setting())["rollout", "sync"].gpu
    assert sum(syncing.values()) == 68 * GIB - engine["passes"] + 1_050_673_152 + 3 * GIB


def test_a_fixed_cache_and_eager_execution() -> None:
    engine = processes(setting(**{"rollout.kv_cache_gib": 4.0, "rollout.enforce_eager": True}))["rollout", "rollout"].gpu
    assert engine["cache"] == 4 * GIB
    assert "graphs" not in engine


def test_colocated_roles_are_added_up_on_each_gpu() -> None:
    """Two ranks on each of the GPUs of two engines of two GPUs; the reference is on the first GPU alone."""
    changes = {"placement.layout": "colocated", "placement.rollout.engines": 2, "placement.rollout.tensor_parallel": 2}
    uses = gpu_uses(setting(**changes))
    assert {use.roles: use.count for use in uses} == {("learner", "reference", "rollout"): 1, ("learner", "rollout"): 3}


def test_places_are_those_of_the_run() -> None:
    """Two nodes of four: the ranks stay together on one, the engines and the shared GPU are on the other."""
    placed = place(setting(Cluster.of(gpus=4, nodes=2)))
    assert placed.cannot is None
    spots = {actor.name: placed.places[actor.bundle] for actor in placed.plan.actors}
    assert {name: (spot.node, spot.gpus) for name, spot in spots.items() if spot is not None} == {
        **{f"learner-{k}": (0, (0, 1, 2, 3)) for k in range(4)},
        **{f"rollout-{k}": (1, (k,)) for k in range(3)},
        "reference-0": (1, (3,)),
        "oracle-0": (1, (3,)),
    }
    small = place(setting(Cluster.of(gpus=7)))
    assert small.cannot is not None
    assert "= 8 GPU" in small.cannot
    assert fits(setting(Cluster.of(gpus=7))) is False
    assert place(setting(Cluster.of())).gpus_per_node == 8
    assert place(setting(Cluster.of(nodes=2), **{"placement.learner.ranks": 5})).gpus_per_node == 5


def test_an_example_longer_than_a_micro_batch_is_one() -> None:
    made = replace(setting(), example_tokens=20_000)
    assert made.job.micro_batch_tokens == 20_000
    assert replace(made, example_tokens=100).job.micro_batch_tokens == 8192


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    made = setting()
    most = largest_micro_batch(made)
    assert most is not None
    assert most % 256 == 0
    for tokens, expected in ((most, True), (most + 256, False)):
        assert fits(with_micro_batch(made, tokens)) is expected
    (learner,) = [use for use in gpu_uses(with_micro_batch(made, most)) if use.roles == ("learner",)]
    assert learner.peak_bytes <= (1 - MARGIN) * 80 * GIB


def with_micro_batch(made: Setting, tokens: int) -> Setting:
    return replace(made, config=with_values(made.config, {"learner.micro_batch_tokens": tokens}))


def test_on_cpus_nothing_is_compared() -> None:
    made = setting(Cluster(CPU), **{"placement.device": "cpu"})
    assert fits(made) is None
    assert largest_micro_batch(made) is None
    assert "context" not in processes(made)["learner", "train"].gpu
    assert processes(made)["rollout", "rollout"].gpu["cache"] == GIB // 4


@pytest.mark.parametrize(
    "changes",
    [
        {"placement.learner.ranks": 1, "policy.gradient_checkpointing": False},
        {"placement.learner.ranks": 2, "policy.gradient_checkpointing": False},
        {"learner.micro_batch_tokens": 1 << 17},
        {"rollout.gpu_memory_utilization": 0.1, "placement.layout": "colocated", "placement.rollout.engines": 4},
    ],
)
def test_every_proposal_fits(changes: dict[str, Any]) -> None:
    """Applied as overrides to the config of a file, and planned anew."""
    made = setting(**changes)
    assert not fits(made)
    found = remedies(made, shape_of)
    assert found
    for remedy in found:
        assert fits(with_overrides(made, remedy)), remedy
    assert not any(one.paths < other.paths for one in found for other in found)


def shape_of(lora: LoraConfig | None) -> ModelShape:
    return SHAPE if lora is None else ADAPTED


def with_overrides(made: Setting, remedy: Remedy) -> Setting:
    values = made.config.model_dump(mode="json")
    config = RunConfig.parse(apply(values, remedy.overrides))
    return replace(made, config=config, shape=shape_of(config.policy.lora))


def test_where_nothing_helps_nothing_is_proposed() -> None:
    """A GPU of 4 GiB: the engine alone needs 15 GiB over at most two GPUs."""
    assert remedies(setting(Cluster.of(gpus=8, gpu_gib=4)), shape_of) == []


def test_kinds_of_gpus() -> None:
    assert Cluster.of(gpu="H200").gpu == Gpu("h200", 140.4, 989.0, 4.8)
    by_memory = {gib: Cluster.of(gpu_gib=gib).gpu for gib in (24, 80, 141)}
    assert {gib: gpu.name for gib, gpu in by_memory.items() if gpu is not None} == {24: "l4", 80: "h100", 141: "h200"}
    with pytest.raises(ConfigError, match="--gpu: 'v100' is not in the table; give one of b200, h200"):
        Cluster.of(gpu="v100")


def test_the_kind_of_a_ray_cluster() -> None:
    assert Cluster.of_types(["H100", "A100-80G"], "cuda").gpu == Cluster.of(gpu="a100").gpu
    assert Cluster.of_types(["X"], "cuda").gpu is None
    assert Cluster.of_types([], "cpu").gpu is CPU

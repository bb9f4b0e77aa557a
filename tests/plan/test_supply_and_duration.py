"""How data is divided, and how long an iteration takes, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raypref.checks import Task
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.judging.config import JudgingConfig
from raypref.judging.trial import group_cost
from raypref.plan.duration import Duration, duration
from raypref.plan.hardware import CPU, Cluster, Gpu
from raypref.plan.model_shape import ModelShape
from raypref.plan.setting import Setting
from raypref.plan.speeds import Speeds
from raypref.plan.supply import Supply
from raypref.selection.base import selections
from raypref.types import Example, Prompt, RunData
from tests.plan.test_fit import SECTIONS
from tests.plan.test_memory import SHAPE

ROUND = Gpu("round", 80.0, 1000.0, 1.0)
SPEEDS = Speeds(mfu=0.5, sync_gb_per_s=10.0, disk_gb_per_s=1.0, sampling_rate=1000.0, judging_rate=100.0)
SMALL = ModelShape(
    parameters=1_000_000_000,
    layers=10,
    hidden=1000,
    intermediate=3000,
    heads=10,
    kv_heads=10,
    head_width=100,
    vocabulary=20_000,
)


def config(**sections: Any) -> RunConfig:
    return RunConfig.parse(SECTIONS | sections)


def prompts(count: int, tokens: int = 10) -> list[Prompt]:
    return [Prompt(k, str(k), "", np.zeros(tokens + k % 3, dtype=np.int32)) for k in range(count)]


def supply(made: RunConfig, count: int, held_out: int = 0) -> Supply:
    return Supply.of(made, RunData(prompts=prompts(count), held_out=prompts(held_out), left_out={"overlong": 2}))


def test_an_even_split() -> None:
    """1000 prompts in 3 iterations of 333; all five responses make 10 pairs, 3330 examples in 53 steps of 64."""
    made = config(loop={"iterations": 3}, selection={"type": "all_pairs"}, loss={"type": "dpo"}, learner={"global_batch": 64, "epochs": 2})
    found = supply(made, 1000, held_out=7)
    assert (found.share.items, found.share.examples, found.share.steps) == (333, 3330, 2 * 53)
    assert (found.used, found.unused, found.steps, found.held_out) == (999, 1, 318, 7)
    assert found.left_out == {"overlong": 2}
    assert (found.prompts.mean, found.prompts.longest) == (pytest.approx(10.999), 12)


def test_counted_in_steps() -> None:
    """Four steps of 64 examples, at most one per prompt: 256 prompts at least."""
    made = config(loop={"steps": 12, "sync_interval": 4}, learner={"global_batch": 64})
    found = supply(made, 1000)
    assert (found.iterations, found.share.items, found.share.steps, found.steps) == (3, 256, 4, 12)


def test_lengths_of_sampled_and_of_given_examples() -> None:
    """Two responses of at most 2048 tokens to prompts of at most 12: 2 x 2060; in a row all five. Given: 2 x 4 and 3 + 5."""
    sampled = supply(config(), 100)
    assert sampled.sequences == 2
    assert sampled.longest_example(2048) == 4120
    assert sampled.longest_row(5, 2048) == 12 + 5 * 2048
    ids = [np.zeros(size, dtype=np.int32) for size in range(6)]
    example = Example(0, "e", (ids[4], ids[4]), (ids[3], ids[5]), np.zeros(2), None)
    given = Supply.of(config(data={"type": "preferences", "path": "p"}, loop={"iterations": 1}), RunData(examples=[example] * 4))
    assert (given.sampled, given.sequences, given.examples.mean, given.longest_example(2048)) == (False, 2, 16.0, 16)


@pytest.mark.parametrize(
    ("selection", "size", "comparisons", "responses"),
    [("best_worst", 5, 10, 2), ("all_responses", 4, 6, 4), ("random_pair", 5, 1, 2)],
)
def test_what_a_group_costs(selection: str, size: int, comparisons: float, responses: int) -> None:
    found = group_cost(selections.build({"type": selection}), JudgingConfig(), size)
    assert (found.comparisons, found.responses) == (comparisons, responses)


def test_a_tournament_of_eight_asks_eleven() -> None:
    """Seven matches, and four for the loser; one less where its two first met."""
    assert 10 <= group_cost(selections.build({"type": "tournament"}), JudgingConfig(), 8).comparisons <= 11


def planned(made: RunConfig, shape: ModelShape = SMALL, held_out: int = 0, speeds: Speeds = SPEEDS, gpu: Gpu = ROUND) -> Duration:
    found = duration(
        Setting(made, shape, Cluster(gpu), Task(held_out=held_out > 0)), supply(made, 1200, held_out), speeds, response_tokens=100.0
    )
    assert found is not None
    return found


def test_the_stages_of_an_iteration() -> None:
    """400 prompts of 11 tokens, five responses of 100, 10 comparisons, pairs of 2 x 111 tokens; one reads A = 10 x 1000 (4000 + 9000) +
    20,000,000 = 150,000,000 parameters per token, at 0.5 x 1e15 operations per second.

    Sampling 400 x 5 x 100 / 1000 tokens/s and 2 A x 400 x 11 operations, over 3 engines; 4000 comparisons at 100/s; 400 x 222 tokens
    times 2 A on a reference, 8 A on 4 ranks, since blocks are computed twice; 2e9 bytes at 10 GB/s; 14 + 2 bytes per parameter to disk.
    """
    found = planned(config(loop={"iterations": 3}))
    tokens, active, rate = 400 * 222, 150_000_000, 5e14
    assert SMALL.active == active
    assert found.stages == pytest.approx(
        {
            "rollout": (200.0 + 2 * active * 400 * 11 / rate) / 3,
            "judge": 40.0,
            "reference": 2 * active * tokens / rate,
            "train": 8 * active * tokens / (4 * rate),
            "sync": 0.2,
            "evaluate": 0.0,
            "checkpoint": 16.0,
        },
        rel=1e-3,
    )
    assert found.bottleneck == "rollout"
    assert found.iteration_s == pytest.approx(0.2 + found.stages["rollout"])
    assert found.run_s == pytest.approx(3 * found.iteration_s)
    assert found.waits()["judge"] == pytest.approx(1 - 40 / found.iteration_s)


def test_one_stage_after_another() -> None:
    """Saving, evaluation, then the longest of the three, then training."""
    made = config(loop={"iterations": 3, "overlap": False}, checkpoint={"background": False})
    found = planned(made, held_out=100)
    stages = found.stages
    assert stages["evaluate"] == pytest.approx((100 * 100 / 1000) / 3 + 100 * 2 / 100, rel=1e-3)
    assert found.iteration_s == pytest.approx(0.2 + 16.0 + stages["evaluate"] + stages["rollout"] + stages["train"])


def test_colocated_stages_are_added_up() -> None:
    placement = {"layout": "colocated", "learner": {"ranks": 4}, "rollout": {"engines": 4}}
    found = planned(config(loop={"iterations": 3}, placement=placement, checkpoint={"background": False}))
    in_turn = sum(found.stages[stage] for stage in ("rollout", "judge", "reference", "train"))
    assert found.iteration_s == pytest.approx(0.2 + 16.0 + in_turn)


def test_a_slow_learner_is_the_bottleneck() -> None:
    """88,800 tokens at 100/s on each of four ranks: 222 s, which begin once pi_t is saved, or at once if that is in the background."""
    for background, waits_s in ((False, 16.0), (True, 0.0)):
        made = config(loop={"iterations": 3}, checkpoint={"background": background})
        found = planned(made, speeds=replace(SPEEDS, training_rate=100.0))
        assert found.stages["train"] == pytest.approx(222.0, rel=1e-3)
        assert (found.bottleneck, found.iteration_s) == ("train", pytest.approx(0.2 + waits_s + 222.0, rel=1e-3))


def test_a_checkpoint_is_written_before_the_next() -> None:
    """16 GB at 0.01 GB/s: 1600 s, longer than the iteration."""
    found = planned(config(loop={"iterations": 3}), speeds=replace(SPEEDS, disk_gb_per_s=0.01))
    assert (found.bottleneck, found.iteration_s) == ("checkpoint", pytest.approx(1600.0))


def test_an_adapter_has_no_gradient_of_its_weights() -> None:
    """4 operations in place of 6 per parameter and token, and 2 more with gradient checkpointing."""
    adapted = replace(SMALL, adapter_parameters=1_000_000)
    rates = [planned(config(), shape=shape).trained_tokens_per_s for shape in (SMALL, adapted)]
    assert rates == pytest.approx([5e14 / (8 * 150e6), 5e14 / (6 * 150e6)])


def test_decoding_as_it_was_measured() -> None:
    """``rollout_speed`` of benchmarks/README.md, an H200: 22,943 tokens/s at 0.5B with 1024 sequences; within a fifth."""
    from benchmarks.gpu_models import model_config

    shape = ModelShape.of(model_config("0.5b"))
    made = config(rollout={"responses": 4, "max_num_seqs": 1024, "kv_cache_gib": 16.0, "max_tokens": 256}, loop={"iterations": 1})
    data = RunData(prompts=[Prompt(k, str(k), "", np.zeros(200, dtype=np.int32)) for k in range(768)])
    setting = Setting(made, shape, Cluster.of(gpu="h200"))
    found = duration(setting, Supply.of(made, data), Speeds(), response_tokens=256.0)
    assert found is not None
    assert found.sampled_tokens_per_s == pytest.approx(22_943, rel=0.2)


@pytest.mark.parametrize(("name", "measured"), [("1.2b", 59_048), ("1.5b", 44_026)])
def test_training_as_it_was_measured(name: str, measured: float) -> None:
    """Tokens per second of a rank on an H200, with Liger's kernels (benchmarks/README.md); within a fifth. Smaller models are slower."""
    from benchmarks.gpu_models import model_config

    made = config(policy={"path": "m"})
    setting = Setting(made, ModelShape.of(model_config(name)), Cluster.of(gpu="h200"))
    found = duration(setting, supply(made, 100), Speeds())
    assert found is not None
    assert found.trained_tokens_per_s == pytest.approx(measured, rel=0.2)


def test_what_is_not_known_is_said() -> None:
    found = planned(config(), speeds=Speeds())
    assert found.stages["judge"] == 0.0
    assert found.not_counted == ("judge: how fast oracle.type=callable answers is not known (--judging-rate)",)
    assert duration(Setting(config(), SHAPE, Cluster(None)), supply(config(), 100), SPEEDS) is None


def test_cores_in_place_of_gpus() -> None:
    one, four = (planned(config(placement={"device": "cpu", "learner": {"cpus": cpus}}), gpu=CPU) for cpus in (1, 4))
    assert four.trained_tokens_per_s == pytest.approx(4 * one.trained_tokens_per_s)


def test_a_speed_is_above_0() -> None:
    with pytest.raises(ConfigError, match="--mfu: 0; give a number above 0"):
        Speeds(mfu=0)

"""Whole runs on the real engines: vLLM, DeepSpeed and Ray, on GPUs that Ray only counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import raypref
from raypref.config import RunConfig
from raypref.errors import ConfigError, LossNotFinite, OracleError, PlacementError
from raypref.losses.base import LossBatch, LossValue
from raypref.losses.sppo import SPPO
from tests.integration.runs import PROMPTS, RecordedRun, config_for, given_config, more_different_words

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def check_outputs(result: raypref.RunResult) -> None:
    """What every run leaves behind, read with the tools that a user has."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(result.policy_dir)
    AutoTokenizer.from_pretrained(result.policy_dir)
    summary = json.loads((result.output_dir / "summary.json").read_text())
    assert summary == result.summary
    assert set(summary["versions"]) >= {"vllm", "deepspeed", "ray", "torch"}
    assert summary["sync"]["sync/logprob_difference_max"] < 1e-4
    assert [entry["iteration"] for entry in summary["evaluations"]] == [1, 2]
    rollouts = datasets.load_dataset("parquet", data_dir=str(result.output_dir / "rollouts"), split="train")
    assert len(rollouts) >= 8
    assert set(rollouts["iteration"]) == {1, 2}
    lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    steps = steps_of(result)
    assert len(steps) == summary["steps"]
    assert abs(steps[0]["kl_previous"]) < 2e-3, "12 tokens, each within the tolerance of the weight sync: pi_theta is pi_t"
    assert steps[0]["entropy"] > 0.0
    assert [line["tokens_per_second_per_gpu/sampled"] > 0.0 for line in lines if "time/iteration_s" in line] == [True, True]
    assert max(line.get("engine/running", 0.0) for line in lines) > 0.0, "vLLM's own figures"
    assert {role for role in ("learner", "rollout", "oracle") if any(f"memory_peak/host/{role}" in line for line in lines)} == {
        "learner",
        "rollout",
        "oracle",
    }
    assert steps[0]["policy_age"] == 0.0
    assert all(0.0 < line["overlap_efficiency"] <= 1.0 for line in lines if "time/iteration_s" in line)
    numbered = [path.name[:14] for room in ("rollouts", "evaluation", "checkpoints") for path in (result.output_dir / room).iterdir()]
    names = {name for name in numbered if name.startswith("iteration_")}
    assert names == {"iteration_0000", "iteration_0001", "iteration_0002"}, "0000: the base policy's held-out answers"
    assert any((result.output_dir / "tensorboard").iterdir())
    assert {path.stem for path in (result.output_dir / "logs").glob("*.log")} >= {"learner-0", "rollout-0", "oracle-0"}
    assert RunConfig.parse(_yaml(result.output_dir / "config.yaml")).loss.type == "sppo"


def test_the_plan_lies_beside_what_was_measured(sppo_run: RecordedRun) -> None:
    """Steps as they were taken; stages with the names of the run's clock; an engine with the cache that it was given."""
    directory = sppo_run.result.output_dir
    plan = json.loads((directory / "plan.json").read_text())
    assert plan["data"]["steps"] == sppo_run.result.summary["steps"]
    assert set(plan["seconds"]["stages"]) <= set(sppo_run.result.summary["seconds"])
    by_role = {use["roles"][0]: use["phases"] for use in plan["gpus"]}
    assert by_role["rollout"]["rollout"]["rollout cache"] == int((sppo_run.config.rollout.kv_cache_gib or 0) * 2**30)
    assert by_role["learner"]["train"]["learner optimizer"] > 0
    assert plan["cluster"]["gpu"]["name"] == "cpu"


def steps_of(result: raypref.RunResult) -> list[dict[str, float]]:
    """The metrics of each optimiser step."""
    lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def _yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())


@pytest.fixture
def separate(sppo_run: RecordedRun) -> raypref.RunResult:
    return sppo_run.result


def test_separate_layout(separate: raypref.RunResult) -> None:
    check_outputs(separate)
    assert any(abs(step["kl_previous"]) > 2e-3 for step in steps_of(separate)), "later steps move away from pi_t"
    assert not any("kl" in step for step in steps_of(separate)), "nobody holds pi_ref"


@pytest.mark.usefixtures("separate")
def test_colocated_layout_in_the_same_process(untied_model: Path, tmp_path: Path) -> None:
    """A second run in the caller's cluster: two ranks and two engines that take turns on the same GPUs, ZeRO-3, untied, all K, a sync after
    every step."""
    config = config_for(
        untied_model,
        tmp_path / "run",
        placement={"layout": "colocated", "device": "cpu", "sleep": True, "learner": {"ranks": 2}, "rollout": {"engines": 2}},
        learner={"global_batch": 4, "zero_stage": 3, "optimizer": {"lr": 1e-3}, "timeout_s": 120},
        selection={"type": "all_responses"},
        loop={"steps": 2, "sync_interval": 1, "overlap": False},
        evaluation={"every_steps": 1},
        checkpoint={"every_steps": 1},
        reference={"measure_kl": True},
    )
    result = raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[])
    check_outputs(result)
    first, second = steps_of(result)
    assert abs(first["kl"]) < 1e-3, "pi_ref is the policy that the run starts from"
    assert abs(second["kl"]) > abs(first["kl"])


def test_resume_continues_exactly(separate: raypref.RunResult, tied_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run that is continued within its second iteration ends in the very parameters of the run that was never stopped."""
    caplog.set_level("INFO", "raypref")
    copy = tmp_path / "run"
    shutil.copytree(separate.output_dir, copy, ignore=shutil.ignore_patterns("iteration_0002", "policy", "summary.json"))
    config = config_for(tied_model, copy)
    continued = raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[], resume=True)
    whole, again = (load_file(result.policy_dir / "model.safetensors") for result in (separate, continued))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert "iteration_0001-step_000003: iteration 1, step 3" in caplog.text
    assert continued.summary["steps"] == separate.summary["steps"]
    assert [step["step"] for step in steps_of(continued)] == [step["step"] for step in steps_of(separate)] == [1, 2, 3, 4]
    assert [entry["base"] for entry in continued.summary["evaluations"]] == [entry["base"] for entry in separate.summary["evaluations"]]


def test_a_checkpoint_of_another_stage_is_refused_before_anything_starts(separate: raypref.RunResult, tied_model: Path) -> None:
    """DeepSpeed cannot convert to stage 3. Another number of ranks it can (tests/integration/test_learner.py)."""
    learner = {"global_batch": 4, "optimizer": {"lr": 1e-3}, "timeout_s": 120, "zero_stage": 3}
    config = config_for(tied_model, separate.output_dir, learner=learner)
    with pytest.raises(ConfigError, match=r"learner\.zero_stage: 3, but the checkpoint .* was written with \d.*set learner\.zero_stage="):
        raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[], resume=True)


def test_turns_that_cannot_be_taken_are_refused_before_anything_starts(tied_model: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO", "raypref.compose")
    config = config_for(tied_model, tmp_path / "run", placement={"device": "cpu", "sleep": True})
    with pytest.raises(ConfigError, match=r"placement\.sleep: true, but the engines share no GPUs with the learner"):
        raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[])
    assert "starting" not in caplog.text


def test_a_directory_with_another_run_is_left_alone(separate: raypref.RunResult, tied_model: Path) -> None:
    with pytest.raises(ConfigError, match="holds another run; continue it with --resume"):
        raypref.run(config_for(tied_model, separate.output_dir), prompts=PROMPTS, oracle=more_different_words, callbacks=[])


@pytest.mark.usefixtures("cluster")
def test_more_bundles_than_the_cluster_has(tied_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is started, and where its logs are, is told before the wait."""
    caplog.set_level("INFO", "raypref.compose")
    placement = {"device": "cpu", "rollout": {"engines": 9}, "oracle": {"gpus": 0}, "timeout_s": 2}
    config = config_for(tied_model, tmp_path, placement=placement)
    with pytest.raises(PlacementError, match=r"(?s)can never hold the run.*rollout 9 x .*= 11 GPU, .*the only node is .*: GPU 4, CPU 6"):
        raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[])
    assert "= 11 GPU, 12 CPU" in caplog.text
    assert f"their logs go to {tmp_path / 'logs'}" in caplog.text


@pytest.mark.usefixtures("cluster")
def test_oracle_that_answers_nan_stops_the_run(tied_model: Path, tmp_path: Path) -> None:
    """The error names the prompt, and comes out of the actor as what it was."""

    def broken(prompts: list[str], responses: list[list[str]]) -> list[NDArray[np.float64]]:
        return [np.full((len(group), len(group)), np.nan) for group in responses]

    config = config_for(tied_model, tmp_path, loss={"type": "simpo"}, evaluation={"every": 0})
    with pytest.raises(OracleError, match=r"oracle 'callable', prompt '\d+': P\[0, 0\] = nan"):
        raypref.run(config, prompts=PROMPTS, oracle=broken, callbacks=[])


class BreaksInTheSecondIteration(SPPO):
    """SPPO whose loss is NaN from its third call: a class of the caller's own, which travels to the learner."""

    calls: int = 0

    def __call__(self, batch: LossBatch) -> LossValue:
        value = super().__call__(batch)
        object.__setattr__(self, "calls", self.calls + 1)
        return LossValue(value.loss * (float("nan") if self.calls > 2 else 1.0), value.metrics)


@pytest.mark.usefixtures("cluster")
def test_loss_that_becomes_nan(tied_model: Path, tmp_path: Path) -> None:
    """Two steps per iteration, NaN from the third: the first iteration's checkpoint stays, the batch and the good policy are written."""
    from transformers import AutoModelForCausalLM

    config = given_config(tied_model, tmp_path, loop={"iterations": 2, "prompts_per_iteration": 8}, evaluation={"every": 0})
    with pytest.raises(LossNotFinite, match=r"loss at step 3 of the run: it is nan; .* The batch of 4 examples is in .*\.json"):
        raypref.run(config, loss=BreaksInTheSecondIteration(eta=5), callbacks=[])
    (dump,) = (tmp_path / "run" / "failures").glob("*.json")
    assert len(json.loads(dump.read_text())["examples"]) == 4
    assert (tmp_path / "run" / "checkpoints" / "iteration_0001" / "state.json").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy_before_failure")

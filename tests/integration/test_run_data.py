"""Whole runs on the real engines where the data is given, or the policy is held by more than its loss; and with a loss of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import raypref
from tests.integration.runs import PROMPTS, RecordedRun, config_for, given_config, metric_values, more_different_words, record_run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster")]

OWN_LOSS = '''
"""A loss of one's own: the squared distance between the pair's log-ratio and 1."""

from typing import ClassVar

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue


class Unit(Loss):
    type: str = "own_unit_loss:Unit"
    scale: float = 1.0
    needs: ClassVar[frozenset[Frozen]] = frozenset({"previous"})

    def __call__(self, batch: LossBatch) -> LossValue:
        r = batch.logps - batch.previous_logps
        return LossValue((self.scale * (r[:, 0] - r[:, 1]) - 1.0).square(), {"rewards/margins": (r[:, 0] - r[:, 1]).detach()})
'''


def test_given_pairs_regularised_and_evaluated(pairs_run: RecordedRun) -> None:
    """The policy leaves the reference model while it learns; the chosen answers become likelier; what is held out is evaluated."""
    result = pairs_run.result
    divergence, accuracy = metric_values(result, "regulariser/kl"), metric_values(result, "rewards/accuracies")
    assert len(divergence) == result.summary["steps"] == 6
    assert divergence[0] == pytest.approx(0.0, abs=1e-4)
    assert divergence[-1] > 0.01
    assert np.mean(accuracy[-3:]) > 0.6
    assert len(metric_values(result, "sync/logprob_difference_max")) == 4, "after the start, for steps 2 and 4, and at the end"
    assert result.summary["sync"]["sync/logprob_difference_max"] < 1e-4
    (evaluation,) = result.summary["evaluations"]
    assert evaluation["base"]["prompts"] == 4
    assert [(point["step"], point["examples"]) for point in result.summary["held_out"]] == [(0, 4), (6, 4)]
    assert result.summary["held_out"][1]["loss"] < result.summary["held_out"][0]["loss"]


def test_two_references_semi_online_on_given_pairs(tied_model: Path, tmp_path: Path) -> None:
    """INPO, pi_ref refreshed every second iteration, no engines: three iterations of two steps. At each iteration's first step pi_theta is
    pi_t; in iterations 0 and 2 it is pi_ref too, so that h = 0 and the loss is (1 / (2 eta))^2."""
    config = given_config(
        tied_model,
        tmp_path,
        loss={"type": "inpo", "eta": 0.5, "tau": 0.25},
        loop={"iterations": 3, "sync_interval": 2},
        learner={"global_batch": 4, "optimizer": {"lr": 1e-3}, "schedule": {"span": "iteration"}, "timeout_s": 120},
        reference={"policy": "refreshed", "every": 2},
        evaluation={"every": 0},
    )
    result = raypref.run(config, callbacks=[])
    values = metric_values(result, "loss")
    assert len(values) == 6
    assert values[0] == pytest.approx(1.0, rel=1e-3)
    assert values[4] == pytest.approx(1.0, rel=1e-3)
    assert abs(values[2] - 1.0) > 1e-2
    assert not (result.output_dir / "logs" / "rollout-0.log").exists()


def test_a_loss_of_ones_own_in_one_file(tied_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    """Fifteen lines in a new file outside the package, named in the config: it trains, and its own metric is written."""
    assert len([line for line in OWN_LOSS.splitlines() if line.strip()]) <= 15
    (tmp_path / "own_unit_loss.py").write_text(OWN_LOSS)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = given_config(tied_model, tmp_path, loss={"type": "own_unit_loss:Unit"}, evaluation={"every": 0})
    assert type(config.loss).__module__ == "own_unit_loss"
    result = raypref.run(config, callbacks=[])
    assert metric_values(result, "loss")[0] == pytest.approx(1.0, rel=1e-3), "at the first step the policy is pi_t"
    assert len(metric_values(result, "rewards/margins")) == result.summary["steps"] > 1
    del sys.modules["own_unit_loss"]


@pytest.fixture(scope="module")
def srpo_run(cluster: None, tied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """SRPO, whose examples have six sequences by a template of the user's, evaluated with two revisions."""
    config = config_for(
        tied_model,
        tmp_path_factory.mktemp("srpo") / "run",
        data={"chat_template": False, "held_out_prompts": 4, "template": "{prompt} {answer} {prompt}"},
        loss={"type": "srpo"},
        loop={"iterations": 1},
        evaluation={"revisions": 2, "bootstrap_resamples": 50},
    )
    return record_run(config, prompts=PROMPTS, oracle=more_different_words)


@pytest.mark.parametrize("run", ["srpo_run", "lora_run", "spo_run"])
def test_every_kind_of_example_on_self_generated_data(run: str, request: pytest.FixtureRequest) -> None:
    """Six sequences by a template; KTO's mismatched ones; SPO's statistics of the batch."""
    result = request.getfixturevalue(run).result
    assert result.summary["steps"] == 4
    assert np.isfinite(metric_values(result, "loss")).all()
    assert set(metric_values(result, "oracle/overlong")) == {0.0}


def test_generate_from_the_command_line(tied_model: Path, tmp_path: Path) -> None:
    """Two answers per prompt, each revised twice, by engines that load the policy themselves; again, the same to the letter."""
    import yaml
    from typer.testing import CliRunner

    from raypref.cli.app import app

    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt, "id": prompt}) + "\n" for prompt in PROMPTS[:6]))
    data = {"chat_template": False, "template": "{prompt} {answer} {prompt}"}
    config = config_for(tied_model, tmp_path / "run", data=data)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    texts = []
    for name in ("one", "two"):
        output = tmp_path / f"{name}.jsonl"
        arguments = ["--prompts", str(tmp_path / "prompts.jsonl"), "--output", str(output), "--responses", "2", "--revisions", "2"]
        found = CliRunner().invoke(app, ["generate", str(tmp_path / "run.yaml"), *arguments], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        texts.append(output.read_text())
    assert texts[0] == texts[1]
    records = [json.loads(line) for line in texts[0].splitlines()]
    assert [record["id"] for record in records] == PROMPTS[:6]
    for record in records:
        assert [len(answers) for answers in record["revisions"]] == [3, 3]
        assert record["responses"] == [answers[-1] for answers in record["revisions"]]
    answers = [answer for record in records for own in record["revisions"] for answer in own]
    assert len(set(answers)) > len(answers) // 2


def test_evaluation_with_revisions(srpo_run: RecordedRun) -> None:
    (entry,) = srpo_run.result.summary["evaluations"]
    assert [point["prompts"] for point in entry["revisions"]] == [4, 4, 4]
    assert entry["revisions"][0]["win_rate"] == pytest.approx(entry["base"]["win_rate"]), "no revision: the ordinary evaluation"


def test_sigterm_ends_a_run_as_ctrl_c_does(tied_model: Path, tmp_path: Path) -> None:
    """What ``ray job stop`` and batch systems send. The run would take hours; Ray by itself would abort with a stack trace."""
    config = given_config(tied_model, tmp_path, loss={"type": "sft"}, learner={"global_batch": 4, "epochs": 10_000})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "raypref", "train", str(tmp_path / "run.yaml"), "evaluation.every=0"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    told = []
    # SIGINT as in a shell's foreground, however the tests were started.
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(command, cwd=Path(raypref.__file__).parents[1], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line)
            if "started in" in line:
                process.terminate()
    assert process.returncode == 143, "".join(told)
    assert any(line.startswith("stopped; no iteration had been saved") for line in told)
    assert not any("SIGTERM" in line or "Stack trace" in line for line in told)

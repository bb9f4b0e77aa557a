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
from raypref.config import RunConfig
from tests.integration.test_run import PROMPTS, config_for, more_different_words

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


def lines_of(result: raypref.RunResult, name: str) -> list[float]:
    """A metric's values, in the order of the steps."""
    lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line.get(name) is not None]


def pairs(path: Path, count: int = 28) -> Path:
    """Pairs of which the better answer says w50, in the layout of UltraFeedback-binarized."""
    words = np.random.default_rng(0).integers(0, 40, (count, 6))
    records = [
        {
            "prompt": " ".join(f"w{w}" for w in row[:3]),
            "chosen": " ".join([" w50"] * 3),
            "rejected": " ".join(f" w{w}" for w in row[3:]),
        }
        for row in words
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def given_config(model: Path, directory: Path, **sections: Any) -> RunConfig:
    data = {"type": "preferences", "path": str(pairs(directory / "pairs.jsonl")), "chat_template": False, "held_out_prompts": 4}
    run = directory / "run"
    return config_for(model, run, **{"data": data, "selection": None, "loop": {"iterations": 1}} | sections)


def test_given_pairs_regularised_and_evaluated(tied_model: Path, tmp_path: Path) -> None:
    """Offline DPO with SPO's regulariser, T = 2: six steps, samples before steps 0, 2 and 4; the chosen answers become likelier."""
    config = given_config(
        tied_model,
        tmp_path,
        loss={"type": "dpo", "beta": 0.1},
        regulariser={"type": "token_kl", "coefficient": 0.05, "every": 2, "samples": 6},
        placement={"device": "cpu", "oracle": {"gpus": 0}, "learner": {"ranks": 2}},
    )
    result = raypref.run(config, oracle=more_different_words, callbacks=[])
    divergence, accuracy = lines_of(result, "regulariser/kl"), lines_of(result, "rewards/accuracies")
    assert len(divergence) == result.summary["steps"] == 6
    assert divergence[0] == pytest.approx(0.0, abs=1e-4)
    assert divergence[-1] > 0.01
    assert np.mean(accuracy[-3:]) > 0.6
    assert len(lines_of(result, "sync/logprob_difference_max")) == 4, "after the start, for steps 2 and 4, and at the end"
    assert result.summary["sync"]["sync/logprob_difference_max"] < 1e-4
    (evaluation,) = result.summary["evaluations"]
    assert evaluation["base"]["prompts"] == 4


def test_two_references_semi_online_on_given_pairs(tied_model: Path, tmp_path: Path) -> None:
    """INPO, pi_ref refreshed every second iteration, no engines: three iterations of two steps. At each iteration's first step pi_theta is
    pi_t; in iterations 0 and 2 it is pi_ref too, so that h = 0 and the loss is (1 / (2 eta))^2."""
    config = given_config(
        tied_model,
        tmp_path,
        loss={"type": "inpo", "eta": 0.5, "tau": 0.25},
        loop={"iterations": 3, "sync_interval": 2},
        reference={"policy": "refreshed", "every": 2},
        evaluation={"every": 0},
    )
    result = raypref.run(config, callbacks=[])
    values = lines_of(result, "loss")
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
    config = config_for(tied_model, tmp_path / "run", loss={"type": "own_unit_loss:Unit"}, loop={"iterations": 1}, evaluation={"every": 0})
    assert type(config.loss).__module__ == "own_unit_loss"
    result = raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[])
    assert lines_of(result, "loss")[0] == pytest.approx(1.0, rel=1e-3), "at the first step the policy is pi_t"
    assert len(lines_of(result, "rewards/margins")) == result.summary["steps"] > 1
    del sys.modules["own_unit_loss"]


@pytest.mark.parametrize("loss", ["srpo", "kto", "spo"])
def test_every_kind_of_example_on_self_generated_data(tied_model: Path, tmp_path: Path, loss: str) -> None:
    """Six sequences by a template of one's own; mismatched ones; statistics of the batch."""
    data = {"chat_template": False, "held_out_prompts": 4, "template": "{prompt} {answer} {prompt}"}
    config = config_for(tied_model, tmp_path, data=data, loss={"type": loss}, loop={"iterations": 1}, evaluation={"every": 0})
    result = raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[])
    assert result.summary["steps"] == 4
    assert np.isfinite(lines_of(result, "loss")).all()
    assert set(lines_of(result, "oracle/overlong")) == {0.0}


def test_generate_from_the_command_line(tied_model: Path, tmp_path: Path) -> None:
    """Two answers a prompt, each revised twice, by engines that load the policy themselves; again, the same to the letter."""
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


def test_evaluation_with_revisions(tied_model: Path, tmp_path: Path) -> None:
    data = {"chat_template": False, "held_out_prompts": 4, "template": "{prompt} {answer} {prompt}"}
    evaluation = {"revisions": 2, "bootstrap_resamples": 50}
    config = config_for(tied_model, tmp_path, data=data, loss={"type": "srpo"}, loop={"iterations": 1}, evaluation=evaluation)
    result = raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[])
    (entry,) = result.summary["evaluations"]
    assert [point["prompts"] for point in entry["revisions"]] == [4, 4, 4]
    assert entry["revisions"][0]["win_rate"] == pytest.approx(entry["base"]["win_rate"]), "no revision: the ordinary evaluation"


def test_sigterm_ends_a_run_as_ctrl_c_does(tied_model: Path, tmp_path: Path) -> None:
    """What ``ray job stop`` and batch systems send. The run would take hours; Ray by itself would abort with a stack trace."""
    config = given_config(tied_model, tmp_path, loss={"type": "sft"}, learner={"global_batch": 4, "epochs": 10_000})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "raypref", "train", str(tmp_path / "run.yaml"), "evaluation.every=0"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    told = []
    with subprocess.Popen(command, cwd=Path(raypref.__file__).parents[1], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line)
            if "started in" in line:
                process.terminate()
    assert process.returncode == 130, "".join(told)
    assert any(line.startswith("stopped before the first checkpoint") for line in told)
    assert not any("SIGTERM" in line or "Stack trace" in line for line in told)

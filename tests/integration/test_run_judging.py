"""Oracles of a run that need more than a function: the policy as a judge, a cache that replicas share; best of n; ``raypref evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import PrivateAttr
from typer.testing import CliRunner

import raypref
from raypref.cli.app import app
from raypref.errors import OracleError
from raypref.metric_info import MetricInfo
from raypref.oracles.base import Answer, Oracle, Question, Services
from raypref.types import Total
from tests.integration.runs import PROMPTS, config_for
from tests.oracles.pairrm_checkpoint import make_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster")]


class AsksBack(Oracle):
    """Has the policy go on from each response, and prefers the one that it finds more different words for."""

    type: str = "tests.integration.test_run_judging:AsksBack"
    parallel = 4
    room: int = 8

    _services: Services = PrivateAttr()

    @property
    def asks_policy(self) -> bool:
        return True

    def load(self, services: Services) -> None:
        self._services = services

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        chats = [(("user", f"{question.prompt} {text}"),) for text in question.responses]
        names = [f"{question.prompt_id}/{text}" for text in question.responses]
        replies = self._services.ask_policy(
            chats, names=names, policy_version=question.policy_version, temperature=1.0, max_tokens=self.room
        )
        points = np.array([len(set((reply or "").split())) for reply in replies], dtype=float)
        return Answer(1 / (1 + np.exp(points[None, :] - points[:, None])), {"oracle/replies_total": [Total(len(replies))]})

    def identity(self) -> None:
        """It changes with the policy."""

    def extra_metrics(self) -> tuple[MetricInfo, ...]:
        return (MetricInfo("oracle/replies_total", "Replies of the policy.", "replies", "total since start"),)


def longer(prompt: str, a: str, b: str) -> float:
    """P = sigmoid(difference in words / 4)."""
    return float(1 / (1 + np.exp((len(b.split()) - len(a.split())) / 4)))


def metrics_of(result: raypref.RunResult) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_the_policy_is_asked_by_its_judge(untied_model: Path, tmp_path: Path) -> None:
    """16 prompts in two iterations, K = 4: the replies of both iterations are counted, and the judge asks the policy that answered."""
    config = config_for(untied_model, tmp_path)
    result = raypref.run(config, prompts=PROMPTS[:16], held_out=PROMPTS[16:], oracle=AsksBack())
    assert metrics_of(result)[-1]["oracle/replies_total"] == 4 * 16
    assert [entry["iteration"] for entry in result.summary["evaluations"]] == [1, 2]


@pytest.mark.slow  # tests/actors has the engine's refusal and the oracle that is told of it, each for itself
def test_a_judge_that_asks_too_much_ends_the_run_with_the_reason(untied_model: Path, tmp_path: Path) -> None:
    class AsksForAnotherPolicy(AsksBack):
        type: str = "asks_for_another_policy"

        def _answer(self, question: Question) -> Answer:
            return super()._answer(Question(question.prompt_id, question.prompt, question.responses, question.pairs, policy_version=7))

    with pytest.raises(OracleError, match=r"the policy could not be asked: SyncError: .* is for policy version 7"):
        raypref.run(config_for(untied_model, tmp_path, loss={"type": "simpo"}), prompts=PROMPTS[:16], oracle=AsksForAnotherPolicy())


@pytest.mark.slow  # tests/oracles has the cache and PairRM, each for itself
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # transformers, on import of DeBERTa
def test_replicas_and_runs_share_verdicts(untied_model: Path, tmp_path: Path) -> None:
    """A function and PairRM together. The second run of the same seed asks nothing that the first one has not; the first tells what the
    oracle is like: in one matrix of 4 responses the share of cycles is 0 or 1, the entropy at most log 2."""
    ranker = make_checkpoint(tmp_path, PROMPTS * 20, vocabulary=60)
    function = {"type": "callable", "function": "tests.integration.test_run_judging:longer", "mode": "pairwise"}
    oracle = {"type": "ensemble", "members": [function, {"type": "pairrm", "path": str(ranker.path), "weight": 2}]}
    placement = {"device": "cpu", "oracle": {"gpus": 0, "replicas": 2}}
    judging = {"cache": str(tmp_path / "verdicts"), "pairs": "all"}
    sections = {"placement": placement, "judging": judging, "loop": {"iterations": 1}, "oracle": oracle}
    runs = []
    for name in ("first", "second"):
        result = raypref.run(config_for(untied_model, tmp_path / name, **sections), prompts=PROMPTS[:16])
        runs.append([line for line in metrics_of(result) if "oracle/cache_hits" in line])
    assert [np.mean([line["oracle/cache_hits"] for line in lines]) for lines in runs] == [0.0, 1.0]
    assert len(list((tmp_path / "verdicts").rglob("*.jsonl"))) == 2, "one segment for each replica of the first run"
    for line in runs[0]:
        assert 0.0 <= line["oracle/cycle"] <= 1.0
        assert 0.0 < line["oracle/entropy"] < np.log(2)
        assert -1.0 <= line["oracle/length_bias"] <= 1.0
        assert line["oracle/disagreement"] > 0.0
        assert 0.0 < abs(line["oracle/pairrm_1/position_bias"]) < 1.0
        assert 0.0 < line["oracle/pairrm_1/truncated_inputs"] < 1.0, "the ranker reads 16 tokens of a response and a little more"


def test_best_of_n_and_evaluation_by_command(untied_model: Path, tmp_path: Path) -> None:
    """Best of 4 wins against the first of them more often than not, under the oracle that chose: no prompt can do worse."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS[:8]))
    config = config_for(untied_model, tmp_path / "run").model_dump(mode="json", exclude={"oracle"})
    config["oracle"] = {"type": "callable", "function": "tests.integration.runs:more_different_words"}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))

    def command(*arguments: str | Path) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    command("generate", file, "--prompts", prompts, "--output", tmp_path / "best.jsonl", "--responses", "4", "--best")
    assert [len(json.loads(line)["responses"]) for line in (tmp_path / "best.jsonl").read_text().splitlines()] == [1] * 8
    every = [json.loads(line) for line in (tmp_path / "best.all.jsonl").read_text().splitlines()]
    firsts = [{name: value[:1] if isinstance(value, list) else value for name, value in record.items()} for record in every]
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(record) + "\n" for record in firsts))

    sets = ["--responses", f"best={tmp_path / 'best.jsonl'}", "--responses", f"first={tmp_path / 'first.jsonl'}"]
    policy = ["--policy", f"again={untied_model}", "--prompts", prompts]
    shown = command("evaluate", "matrix", file, *sets, *policy, "--output", tmp_path / "m")
    assert "win rate of the row against the column, 8 prompts" in " ".join(shown.split())
    matrix = json.loads((tmp_path / "m" / "matrix.json").read_text())
    rates = np.array(matrix["win_rates"])
    assert matrix["names"] == ["best", "first", "again"]
    np.testing.assert_allclose(rates + rates.T, 1)
    assert rates[0, 1] > 0.5
    assert rates[1, 2] == 0.5, "the same policy and the same seed give the same first answers, whatever their number"
    assert (tmp_path / "m" / "matrix.svg").read_text().startswith("<svg")

    command("evaluate", "best-of-n", file, "--responses", f"all={tmp_path / 'best.all.jsonl'}", "--output", tmp_path / "n")
    curve = json.loads((tmp_path / "n" / "best_of_n.json").read_text())
    assert [point["n"] for point in curve] == [1, 2, 4]
    assert curve[0]["against_first"]["win_rate"] == 0.5 < curve[2]["against_first"]["win_rate"]

    against = ["--against", f"first={tmp_path / 'first.jsonl'}"]
    command("evaluate", "references", file, *sets[:2], *against, "--output", tmp_path / "r")
    (scored,) = json.loads((tmp_path / "r" / "references.json").read_text())
    assert scored["preference"]["win_rate"] == pytest.approx(rates[0, 1])
    command("evaluate", "best", file, *sets[:2], "--responses", f"all={tmp_path / 'best.all.jsonl'}", *against, "--output", tmp_path / "b")
    assert json.loads((tmp_path / "b" / "best.json").read_text())["best"] == "best"

    command("evaluate", "revisions", file, "--responses", tmp_path / "best.jsonl", *against, "--output", tmp_path / "v")
    (point,) = json.loads((tmp_path / "v" / "revisions.json").read_text())
    assert point["preference"]["win_rate"] == pytest.approx(rates[0, 1])
    command("evaluate", "length-controlled", file, *sets[:2], *against, "--output", tmp_path / "l")
    assert json.loads((tmp_path / "l" / "length_controlled.json").read_text())["best"]["raw"] == pytest.approx(rates[0, 1])
    command("evaluate", "export", "--responses", tmp_path / "best.jsonl", "--format", "alpaca_eval", "--output", tmp_path / "a.json")
    assert len(json.loads((tmp_path / "a.json").read_text())) == 8

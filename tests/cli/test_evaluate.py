"""``raypref evaluate`` as a shell sees it, with an oracle and a policy of plain Python in place of the actors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from raypref import compose
from raypref.cli.app import app
from raypref.errors import ConfigError, DataError, OracleError, RayprefError
from raypref.evaluation.tables import _observed
from raypref.types import Comparison, PreferenceMatrix, Rollout, Total

ORACLE = {"type": "callable", "function": "tests.cli.test_evaluate:unused"}
SELF_JUDGE = {"type": "self_judge"}


def unused(prompts: list[str], responses: list[list[str]]) -> None:
    """Named by the config; what answers is ``Longer``."""


class Longer:
    """The longer response wins with 0.75, of equals none; it abstains on responses that start with ``?``. A comparison costs 0.25."""

    async def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        pairs = [(mine.text, theirs.text) for mine in challenger.responses for theirs in defender.responses]
        known = [0.5 + 0.25 * np.sign(len(a) - len(b)) for a, b in pairs if "?" not in a[:1] + b[:1]]
        metrics = {"oracle/abstained": 1 - len(known) / len(pairs), "oracle/cost_usd_total": Total(0.25 * len(pairs))}
        mean = float(np.mean(known)) if known else float("nan")
        return Comparison(challenger.prompt.id, challenger.prompt.text, mean, *pairs[0], 0.0, 0.0, metrics)

    async def matrix(self, rollout: Rollout) -> PreferenceMatrix:
        lengths = np.array([len(response.text) for response in rollout.responses])
        values = 0.5 + 0.25 * np.sign(lengths[:, None] - lengths[None, :])
        open_ones = np.array([response.text.startswith("?") for response in rollout.responses])
        values[(open_ones[:, None] | open_ones[None, :]) & ~np.eye(len(lengths), dtype=bool)] = np.nan
        return PreferenceMatrix(values, "longer")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was started, with the policy and the oracle replaced, in a directory of its own with ``run.yaml`` in it."""
    made: list[str] = []

    def generate(config: Any, prompts: str, output: Path, *, responses: int) -> None:
        made.append(f"policy {config.policy.path}")
        answers(output, "x" * 5, "x", "x" * 4, "x" * 2, "x" * 3)

    def with_oracle(config: Any, work: Callable[[Any], Any]) -> Any:
        made.append("oracle")
        return asyncio.run(work(Longer()))

    monkeypatch.setattr(compose, "generate", generate)
    monkeypatch.setattr(compose, "with_oracle", with_oracle)
    monkeypatch.chdir(tmp_path)
    write_config(ORACLE)
    return made


def write_config(oracle: dict[str, Any] | None) -> None:
    config = {"policy": {"path": "p"}, "loss": {"type": "sppo"}, "evaluation": {"bootstrap_resamples": 50}}
    Path("run.yaml").write_text(
        yaml.safe_dump(config | ({} if oracle is None else {"oracle": oracle, "selection": {"type": "best_worst"}}))
    )


def answers(path: str | Path, *responses: str | list[str]) -> None:
    """The k-th argument: the response, or responses, to prompt k."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": str(k), "prompt": f"p{k}", "responses": [own] if isinstance(own, str) else own} for k, own in enumerate(responses)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluate(command: str, *arguments: str, output: str = "out", config: str = "run.yaml") -> str:
    """What the command prints, in one line; its error is raised."""
    given = ["evaluate", command, config, *arguments, "--output", output]
    return " ".join(CliRunner().invoke(app, given, catch_exceptions=False, env={"COLUMNS": "200"}).output.split())


def result(name: str) -> Any:
    return json.loads((Path("out") / name).read_text())


POLICY = ("--policy", "c=model", "--prompts", "prompts.jsonl")
A = ("--responses", "a=a.jsonl")
AGAINST = ("--against", "b=b.jsonl")


@pytest.fixture
def files(calls: list[str]) -> list[str]:
    """The same, with sets of responses there: a has 1, 2, ... 5 letters, b has three each."""
    answers("a.jsonl", *("a" * k for k in range(1, 6)))
    answers("b.jsonl", *["bbb"] * 5)
    return calls


@pytest.mark.usefixtures("files")
def test_matrix_with_a_policy_that_answers_first(calls: list[str]) -> None:
    """a against b: lost, lost, even, won, won. Three pairs on five prompts, one comparison each: 15, at 0.25."""
    shown = evaluate("matrix", *A, "--responses", "b=b.jsonl", *POLICY)
    assert calls == ["policy model", "oracle"]
    matrix = result("matrix.json")
    assert (matrix["names"], matrix["win_rates"][0][1], matrix["lengths"]) == (["a", "b", "c"], 0.5, [3.0, 3.0, 3.0])
    assert matrix["oracle"] == {"oracle/abstained": 0.0, "oracle/cost_usd_total": 3.75, "oracle/comparisons_total": 15.0} | {
        "oracle/abstained_total": 0.0
    }
    assert "oracle: abstained 0.000, cost_usd_total 3.75, comparisons_total 15, abstained_total 0" in shown
    assert (Path("out") / "matrix.svg").exists()


@pytest.mark.usefixtures("calls")
def test_abstentions_on_a_part_of_a_prompt_are_counted() -> None:
    """Of two responses on one side the oracle abstains on one: 2 of 4 comparisons on each of three prompts. No prompt is unanswered."""
    answers("a.jsonl", *[["aa", "?"]] * 3)
    answers("b.jsonl", *[["b", "bb"]] * 3)
    shown = evaluate("matrix", *A, "--responses", "b=b.jsonl")
    matrix = result("matrix.json")
    assert matrix["win_rates"][0][1] == pytest.approx((0.75 + 0.5) / 2)
    assert (matrix["unanswered"], matrix["abstained"]) == ([[0, 0], [0, 0]], [[0, 6], [6, 0]])
    assert (matrix["oracle"]["oracle/abstained"], matrix["oracle"]["oracle/comparisons_total"]) == (0.5, 12.0)
    assert "(6 abstained)" in shown
    evaluate("best", *A, *AGAINST)
    (candidate,) = result("best.json")["candidates"]
    assert (candidate["abstained"], candidate["win_rate"]["unanswered"]) == (6, 0)
    assert result("best.json")["oracle"]["oracle/cost_usd_total"] == 3.0


def test_totals_are_shown_in_full() -> None:
    """And without what rounding leaves of 0.1 + 0.2."""
    assert _observed({"oracle/tokens_total": Total(1234567), "oracle/cost_usd_total": Total(0.1 + 0.2), "oracle/ties": 0.25}, "a") == (
        "oracle, a: tokens_total 1,234,567, cost_usd_total 0.3, ties 0.250"
    )


def labelled(*records: tuple[str, str, str | list[str]]) -> None:
    """Two responses and a label, for each of the prompts p0, p1, ..."""
    rows = [{"prompt": f"p{k}", "responses": [first, second], "label": label} for k, (first, second, label) in enumerate(records)]
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.usefixtures("calls")
def test_agreement_with_people() -> None:
    """The oracle prefers the longer response: first, second, first, and abstains on the last. Two of three people say first, first, tie and
    second; on the fifth comparison they have no majority. Agreement 1/3; of the two comparisons without a tie 1/2."""
    labelled(
        ("aa", "b", ["first", "first", "tie"]),
        ("a", "bb", ["first", "second", "first"]),
        ("aa", "b", ["tie", "tie", "second"]),
        ("?", "b", ["second", "second", "second"]),
        ("aa", "b", ["first", "second", "tie"]),
    )
    shown = evaluate("agreement", "--labels", "labels.jsonl")
    found = result("agreement.json")
    assert (found["agreement"], found["decided_agreement"]) == (pytest.approx(1 / 3), 0.5)
    assert found["confusion"] == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert (found["comparisons"], found["unanswered"], found["no_majority"]) == (3, 1, 1)
    assert found["oracle"]["oracle/cost_usd_total"] == 4 * 0.25
    assert "agreement 0.333" in shown
    assert "left out: 1 on which the oracle abstained, 1 without a majority of the people" in shown
    evaluate("agreement", "--labels", "labels.jsonl", "--tie-margin", "0.3")
    assert result("agreement.json")["confusion"] == [[0, 0, 2], [0, 0, 0], [0, 0, 1]]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("label", "message"),
    [("both", r"labels.jsonl:2: 'label' must be one of first, second, tie"), (["first", "tie"], r"labels.jsonl:2: 2 labels; .*:1 has 1")],
)
def test_labels_that_cannot_be_read(label: str | list[str], message: str) -> None:
    labelled(("aa", "b", "first"), ("aa", "b", label))
    with pytest.raises(DataError, match=message):
        evaluate("agreement", "--labels", "labels.jsonl")


@pytest.mark.usefixtures("files")
def test_references_are_told_what_they_cost() -> None:
    shown = evaluate("references", *A, *AGAINST)
    (made,) = result("references.json")
    assert (made["wins"], made["draws"], made["losses"], made["oracle"]["oracle/cost_usd_total"]) == (2, 1, 2, 1.25)
    assert "oracle, a: abstained 0.000, cost_usd_total 1.25" in shown


@pytest.mark.usefixtures("files")
def test_length_controlled_has_lengths_beside_it() -> None:
    shown = evaluate("length-controlled", *A, *AGAINST)
    made = result("length_controlled.json")["a"]
    assert (made["length"], made["baseline_length"], made["unit"], made["oracle"]["oracle/cost_usd_total"]) == (
        3.0,
        3.0,
        "characters",
        1.25,
    )
    assert "3.0 against 3.0 characters" in shown
    assert "NOT comparable with AlpacaEval 2" in shown
    assert made["difficulties"] == "none"


@pytest.mark.usefixtures("files")
def test_length_controlled_reads_difficulties_before_a_policy_answers(calls: list[str]) -> None:
    Path("d.csv").write_text("index,instruction_difficulty\n" + "".join(f"{k},{k % 2}\n" for k in range(5)))
    shown = evaluate("length-controlled", *A, *AGAINST, "--difficulties", "d.csv")
    assert "with the difficulties of the file" in shown
    assert (result("length_controlled.json")["a"]["difficulties"], result("length_controlled.json")["a"]["psi"] != 0.0) == ("given", True)
    Path("d.csv").write_text("index,instruction_difficulty\n0,1\n")
    calls.clear()
    with pytest.raises(DataError, match=r"d\.csv: index goes over 1 rows"):
        evaluate("length-controlled", *A, *AGAINST, *POLICY, "--difficulties", "d.csv")
    assert calls == []


def test_the_help_says_what_a_single_set_is_not() -> None:
    assert "A SINGLE SET WITHOUT --difficulties IS NOT COMPARABLE" in evaluate("length-controlled", "--help")


@pytest.mark.usefixtures("calls")
def test_best_of_n_has_lengths_beside_it() -> None:
    """Of 1, 3 and 2 letters the longest: 1, 3, 3. On the second prompt one of three abstains on all: two comparisons."""
    answers("a.jsonl", ["a", "aaa", "aa"], ["a", "aaa", "?a"])
    shown = evaluate("best-of-n", *A)
    curve = result("best_of_n.json")
    assert [(point["n"], point["length"], point["unit"], point["abstained"]) for point in curve] == [
        (1, 1.0, "characters", 0),
        (2, 3.0, "characters", 0),
        (3, 3.0, "characters", 2),
    ]
    assert "characters" in shown
    assert [json.loads(line)["responses"] for line in Path("out/best.jsonl").read_text().splitlines()] == [["aaa"], ["a"]]


@pytest.mark.usefixtures("files")
def test_revisions_have_lengths_beside_them() -> None:
    """First answers of one letter lose to b on all prompts, revisions of four win. Of a second method both rounds win."""
    row = {"prompt": "p", "responses": ["aaaa"], "revisions": [["a", "aaaa"]], "tokens": [[1, 4]], "finish_reasons": ["stop"]}
    Path("r.jsonl").write_text("".join(json.dumps(row | {"id": str(k), "prompt": f"p{k}"}) + "\n" for k in range(5)))
    better = row | {"revisions": [["aaaa", "aaaa"]], "tokens": [[4, 4]]}
    Path("s.jsonl").write_text("".join(json.dumps(better | {"id": str(k), "prompt": f"p{k}"}) + "\n" for k in range(5)))
    shown = evaluate("revisions", "--responses", "r.jsonl", "--responses", "SRPO=s.jsonl", *AGAINST)
    curve = result("revisions.json")
    scored = [(point["name"], point["revisions"], point["score"]["win_rate"], point["length"]) for point in curve]
    assert scored == [("r", 0, 0.0, 1.0), ("r", 1, 1.0, 4.0), ("SRPO", 0, 1.0, 4.0), ("SRPO", 1, 1.0, 4.0)]
    assert [(point["wins"], point["losses"], point["preference"]["win_rate"]) for point in curve[:2]] == [(0, 5, 0.25), (5, 0, 0.75)]
    assert curve[1]["oracle"]["oracle/comparisons_total"] == 5.0
    assert "oracle, r, 1: abstained 0.000, cost_usd_total 1.25" in shown
    picture = ElementTree.parse("out/revisions.svg").getroot()
    assert len([item for item in picture if item.tag.endswith("polyline")]) == 2
    assert [item.text for item in picture if item.tag.endswith("text")][-1] == "SRPO"


@pytest.mark.parametrize(
    ("command", "arguments", "error", "message"),
    [
        ("best", (*POLICY, "--against", "none.jsonl"), DataError, "none.jsonl: no such file"),
        ("length-controlled", (*POLICY, "--against", "none.jsonl"), DataError, "none.jsonl: no such file"),
        ("matrix", (*POLICY, "--policy", "broken"), ConfigError, "--policy 'broken': expected NAME=MODEL"),
        ("matrix", (*POLICY, "--policy", "c=other"), ConfigError, "c twice"),
        ("matrix", ("--responses", "c=a.jsonl", *POLICY), ConfigError, "c twice"),
        ("matrix", (*A, "--policy", "c=model"), ConfigError, "--prompts: required with --policy"),
        ("matrix", (*A, "--policy", "d/c=model", "--prompts", "p"), ConfigError, "without a /"),
        ("matrix", POLICY, ConfigError, r"1 set of responses \(c\); at least 2"),
        ("best", POLICY, ConfigError, "at least 2"),
        ("best", AGAINST, ConfigError, "at least 2"),
        ("references", AGAINST, ConfigError, "at least 2"),
        ("length-controlled", AGAINST, ConfigError, "at least 2"),
        ("matrix", (*A, "--responses", "s=short.jsonl", *POLICY), DataError, "not in all sets"),
        ("references", (*POLICY, "--responses", "s=short.jsonl", *AGAINST), DataError, "not in all sets"),
        ("length-controlled", ("--responses", "s=short.jsonl", "--against", "short.jsonl"), DataError, "4 prompts; 5 folds"),
        (
            "length-controlled",
            ("--responses", "d=long.jsonl", *AGAINST),
            DataError,
            "'d': every response's length is the .* plus 2",
        ),
        ("best-of-n", ("--responses", "ragged.jsonl"), DataError, "ragged.jsonl:2: 1 response; .*ragged.jsonl:1 has 2"),
        ("best-of-n", ("--responses", "a.jsonl"), DataError, "a.jsonl:1: 1 response; at least 2"),
        ("revisions", ("--responses", "a.jsonl", *AGAINST), DataError, "no field 'revisions'"),
    ],
)
@pytest.mark.usefixtures("files")
def test_refused_before_anything_starts(
    calls: list[str], command: str, arguments: tuple[str, ...], error: type[RayprefError], message: str
) -> None:
    answers("short.jsonl", *["a"] * 4)
    answers("long.jsonl", *["ddddd"] * 5)
    answers("ragged.jsonl", ["a", "b"], "a")
    with pytest.raises(error, match=message):
        evaluate(command, *arguments)
    assert calls == []
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (None, "oracle: required"),
        (SELF_JUDGE, "asks the policy"),
        ({"type": "ensemble", "members": [ORACLE, SELF_JUDGE]}, "asks the policy"),
    ],
)
@pytest.mark.parametrize("command", [("matrix", *A), ("references", *AGAINST), ("best-of-n", "--responses", "a.jsonl")])
@pytest.mark.usefixtures("files")
def test_an_oracle_that_cannot_judge_is_refused_first(
    calls: list[str], oracle: dict[str, Any] | None, message: str, command: tuple[str, ...]
) -> None:
    write_config(oracle)
    with pytest.raises(ConfigError, match=message):
        evaluate(*command, *(() if command[0] == "best-of-n" else POLICY))
    assert calls == []


@pytest.mark.usefixtures("files")
def test_responses_are_never_replaced(calls: list[str]) -> None:
    """The policy's file would be the other set's; the best of n another's."""
    for name in ("c", "best"):
        answers(f"out/{name}.jsonl", *["mine"] * 5)
    answers("two.jsonl", *[["a", "aa"]] * 5)
    for arguments in (("matrix", "--responses", "mine=out/c.jsonl", *POLICY), ("best-of-n", "--responses", "two.jsonl")):
        with pytest.raises(ConfigError, match=r"out/(c|best)\.jsonl: exists"):
            evaluate(*arguments)
    assert calls == []
    assert "mine" in Path("out/c.jsonl").read_text()


@pytest.mark.usefixtures("files")
def test_results_replace_results_and_no_input(calls: list[str]) -> None:
    assert "replaced" not in evaluate("matrix", *A, "--responses", "b=b.jsonl")
    shown = evaluate("matrix", *A, "--responses", "b=b.jsonl")
    assert "out/matrix.json: exists, and will be replaced out/matrix.svg: exists, and will be replaced" in shown
    Path("out/matrix.json").write_text(json.dumps([{"instruction": f"p{k}", "output": "x"} for k in range(5)]))
    with pytest.raises(ConfigError, match=r"out/matrix\.json: is read"):
        evaluate("matrix", *A, "--responses", "x=out/matrix.json")
    with pytest.raises(ConfigError, match=r"--output: a\.jsonl is a file; give a directory"):
        evaluate("matrix", *A, "--responses", "b=b.jsonl", output="a.jsonl")
    export = ["evaluate", "export", "--responses", "a.jsonl", "--format", "alpaca_eval", "--output", "a.jsonl"]
    with pytest.raises(ConfigError, match=r"a\.jsonl: is read"):
        CliRunner().invoke(app, export, catch_exceptions=False)
    assert calls == ["oracle", "oracle"]


@pytest.mark.usefixtures("files")
def test_paths_with_an_equals_sign() -> None:
    """What exists is a file; otherwise the first = ends the name. A policy's name ends at the first one, too."""
    answers("eta=5/a.jsonl", *["a" * k for k in range(1, 6)])
    evaluate("matrix", "--responses", "eta=5/a.jsonl", "--responses", "x=eta=5/a.jsonl", "--policy", "c=eta=5/p", "--prompts", "p")
    assert result("matrix.json")["names"] == ["a", "x", "c"]
    with pytest.raises(ConfigError, match=r"'=a\.jsonl': expected NAME=FILE"):
        evaluate("matrix", "--responses", "=a.jsonl", *A)


COMPARE = {
    "matrix": ("--responses", "a=a.jsonl", "--responses", "b=two.jsonl"),
    "references": ("--responses", "a=a.jsonl", "--against", "b=two.jsonl"),
    "best": ("--responses", "a=a.jsonl", "--against", "b=two.jsonl"),
    "length-controlled": ("--responses", "a=a.jsonl", "--against", "b=two.jsonl"),
    "revisions": ("--responses", "r.jsonl", "--against", "b=two.jsonl"),
}
"""Every command that compares sets of responses, with a second file that names its prompts by number alone."""


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("command", "arguments"), COMPARE.items())
def test_every_command_says_what_makes_prompts_the_same(command: str, arguments: tuple[str, ...]) -> None:
    """The other file has question_id 0 to 4 and no prompts: refused, matched by id, or by the texts of --questions."""
    rows = [{"question_id": k, "choices": [{"turns": ["b" * (5 - k)]}]} for k in (3, 1, 4, 0, 2)]
    Path("two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {"prompt": "p", "responses": ["aaaa"], "revisions": [["a", "aaaa"]], "tokens": [[1, 4]], "finish_reasons": ["stop"]}
    Path("r.jsonl").write_text("".join(json.dumps(row | {"id": str(k), "prompt": f"p{k}"}) + "\n" for k in range(5)))
    with pytest.raises(DataError, match=r"two\.jsonl:1: .*--questions FILE.*--match id"):
        evaluate(command, *arguments)
    evaluate(command, *arguments, "--match", "id", output="by_id")
    Path("q.jsonl").write_text("".join(json.dumps({"question_id": k, "turns": [f"p{k}"]}) + "\n" for k in range(5)))
    evaluate(command, *arguments, "--questions", "q.jsonl", output="by_text")
    (by_id,), (by_text,) = (list(Path(directory).glob("*.json")) for directory in ("by_id", "by_text"))
    assert by_id.read_text() == by_text.read_text()


@pytest.mark.usefixtures("files")
def test_rows_that_fit_two_formats() -> None:
    row = {"instruction": "p", "output": "the data set's", "response": "mine"}
    Path("two.jsonl").write_text("".join(json.dumps(row | {"prompt": f"p{k}", "instruction": f"p{k}"}) + "\n" for k in range(5)))
    with pytest.raises(DataError, match=r"two\.jsonl:1: fits two formats .* --format alpaca_eval, or --format response"):
        evaluate("matrix", *A, "--responses", "two.jsonl")
    for given, length in (("response", 4.0), ("two=response", 4.0), ("alpaca_eval", 14.0)):
        evaluate("matrix", *A, "--responses", "two.jsonl", "--format", given)
        assert result("matrix.json")["lengths"] == [3.0, length]
    with pytest.raises(ConfigError, match=r"--format 'two=plain': expected one of generate, alpaca_eval, .*, or NAME= and one of them"):
        evaluate("matrix", *A, "--responses", "two.jsonl", "--format", "two=plain")
    with pytest.raises(ConfigError, match=r"--format 'response': alpaca_eval was given before"):
        evaluate("matrix", *A, "--responses", "two.jsonl", "--format", "alpaca_eval", "--format", "response")
    arguments = ["--responses", "two.jsonl", "--format", "alpaca_eval", "--input-format", "response", "--output", "exported.json"]
    for said in ("exported.json", "exported.json (replaced)"):
        assert CliRunner().invoke(app, ["evaluate", "export", *arguments], catch_exceptions=False).output.strip() == said
    assert json.loads(Path("exported.json").read_text())[0]["output"] == "mine"


@pytest.mark.usefixtures("calls")
def test_nothing_is_written_where_the_oracle_abstains_on_everything() -> None:
    answers("a.jsonl", *[["?", "?"]] * 2)
    with pytest.raises(OracleError, match="abstained on all"):
        evaluate("best-of-n", *A)
    assert not list(Path("out").iterdir())


def test_a_run_and_an_iteration_stand_for_answers_policies_and_configs(calls: list[str]) -> None:
    """Base answers of one letter, of iteration 1 two: the later wins each comparison with 0.75."""
    run = Path("runs/x")
    for name in ("policies/iteration_0001", "evaluation"):
        (run / name).mkdir(parents=True)
    (run / "config.yaml").write_text(Path("run.yaml").read_text())
    answers("runs/x/evaluation/iteration_0000.jsonl", *"abcde")
    answers("runs/x/evaluation/iteration_0001.jsonl", *[2 * letter for letter in "abcde"])
    evaluate("matrix", "--responses", "runs/x@base", "--responses", "later=runs/x@1", config="runs/x")
    matrix = result("matrix.json")
    assert matrix["names"] == ["x@base", "later"]
    assert matrix["win_rates"][1][0] == 0.75
    later = ("--policy", "one=runs/x@1", "--prompts", "runs/x/evaluation/iteration_0000.jsonl")
    evaluate("matrix", "--responses", "runs/x@base", *later)
    assert calls == ["oracle", "policy runs/x/policies/iteration_0001", "oracle"]

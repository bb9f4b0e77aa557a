"""The report of whole runs, of runs that are not whole, and of damaged ones; and the page in a browser."""

from __future__ import annotations

import json
import platform
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.output.capability import Capability, Figure
from raypref.output.environment import Gpu, Machine, write_environment
from raypref.output.summary import add_capability, print_summary
from raypref.report.model_card import model_card
from raypref.report.page import header, sections, write_report
from raypref.report.parts import Plot, Table
from raypref.report.plan import peaks_by_role
from raypref.report.run_directory import RunDirectory
from raypref.report.verdict import verdict
from tests.report.browser import open_page
from tests.report.runs import lines, longer, made_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which no test changes."""
    directory = tmp_path_factory.mktemp("made") / "run"
    made_run(directory, oracle="longer")
    return directory


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(made, tmp_path / "run"))


class Wellformed(HTMLParser):
    """Fails at an end tag that closes nothing."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(directory: Path) -> str:
    """The report's text, which is well-formed and asks for nothing outside."""
    path = directory.parent / "report.html"
    write_report(RunDirectory(directory), path)
    text = path.read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    parser = Wellformed()
    parser.feed(own)
    parser.close()
    assert parser.open == []
    assert not re.search(r"(src|href)=\"(?!#)", own)
    assert "Traceback" not in own
    return own


def test_report_of_a_finished_run(made: Path) -> None:
    """Each section is there with its figures, and the verdict has the win rate of summary.json."""
    text = page_of(made)
    summary = json.loads((made / "summary.json").read_text())
    rate = summary["evaluations"][-1]["base"]
    assert f"win rate {rate['win_rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}] on 6 held-out prompts" in text
    for title in ("Win rates", "Training", "Responses", "Oracle", "Samples", "Preference matrices", "Weight sync", "Time", "Settings"):
        assert f"<h2>{title}</h2>" in text
    for figure in ("KL against win rate", "Chosen and rejected rewards", "Length", "Cycles and ties", "Seconds by stage"):
        assert f"<h3>{figure}</h3>" in text


def test_figures_follow_from_the_files(made: Path) -> None:
    """Chosen rewards are those of metrics.jsonl; the last win rate is the mean over the lines of the evaluation."""
    parts = {section.id: section for section in sections(RunDirectory(made))}
    plots = {block.title: block for part in parts.values() for block in part.blocks if isinstance(block, Plot)}
    written = [line for line in lines(made) if "rewards/chosen" in line]
    curve = plots["Chosen and rejected rewards"].data[0]
    assert curve["x"] == [line["step"] for line in written]
    assert curve["y"] == pytest.approx([line["rewards/chosen"] for line in written], rel=1e-5)
    rows = [json.loads(line) for line in (made / "evaluation" / "iteration_0003_against_base.jsonl").read_text().splitlines()]
    table = next(block for block in parts["win-rates"].blocks if isinstance(block, Table))
    assert str(table.rows[-1][1]).startswith(f"{sum(row['win_rate'] for row in rows) / len(rows):.3f} [")
    assert table.rows[-1][4] == f"{sum(row['challenger_tokens'] for row in rows) / len(rows):.1f}"


def test_a_run_beside_its_plan(copied: Path) -> None:
    """The peak of each kind of GPU in GiB; for each stage that was at work, the planned seconds and the mean over the iterations."""
    use = {"roles": ["learner", "rollout", "rollout"], "count": 1, "peak_phase": "train", "peak_bytes": 3 * 2**29}
    plan = {
        "gpu_bytes": 0,
        "gpus": [use | {"phases": {"train": {"learner gradients": 3 * 2**29}}}],
        "seconds": {"stages": {"train": 7.5, "nothing": 1.0}, "iteration_s": 9.0},
    }
    (copied / "plan.json").write_text(json.dumps(plan))
    (section,) = [section for section in sections(RunDirectory(copied)) if section.id == "plan"]
    tables = {block.title: block.rows for block in section.blocks if isinstance(block, Table)}
    assert list(map(list, tables["Memory of 1 GPU (learner + rollout): at most 1.50 GiB, train"])) == [["learner gradients", "1.50 GiB"]]
    (stage, planned, measured), (last, _, _) = tables["Seconds of an iteration"]
    took = [line["time/train_s"] for line in lines(copied) if "time/train_s" in line]
    assert (stage, planned, last) == ("train", "7.5", "iteration")
    assert float(str(measured)) == pytest.approx(sum(took) / len(took), rel=0.05)


@pytest.mark.parametrize("memory", ["gpu", "host"])
def test_peaks_of_memory_beside_the_plan(copied: Path, memory: str) -> None:
    """One process of each role: two engines share a GPU in the plan; of the measured values the largest, also from before a resumption."""
    gib = 2**30
    parts = {"learner optimizer": 3 * gib, "learner weights": gib, "rollout cache": 8 * gib}
    use = {"roles": ["learner", "rollout", "rollout"], "count": 1, "peak_phase": "train", "peak_bytes": 12 * gib}
    plan = {"gpu_bytes": 0, "gpus": [use | {"phases": {"train": parts, "sync": {"learner weights": gib}}}], "seconds": None}
    (copied / "plan.json").write_text(json.dumps(plan))
    with (copied / "metrics.jsonl").open("a") as file:
        for step, size in ((17, 4.5), (18, 4.25)):
            file.write(json.dumps({"step": step, f"memory_peak/{memory}/learner": size, "memory_peak/host/oracle": 0.5}) + "\n")
    (section,) = [section for section in sections(RunDirectory(copied)) if section.id == "plan"]
    (table,) = [block for block in section.blocks if isinstance(block, Table) and block.title == "Peaks of memory by role (GiB)"]
    expected = {
        "gpu": [["learner", "4.00", "4.50", "–"], ["oracle", "–", "–", "0.50"]],
        "host": [["learner", "4.00", "4.50"], ["oracle", "–", "0.50"]],
    }
    assert list(map(list, table.rows)) == expected[memory]
    assert peaks_by_role(plan) == {"learner": 4 * gib, "rollout": 4 * gib}


def test_every_figure_is_one_that_plotly_accepts(made: Path) -> None:
    """plotly's own schema refuses an unknown key or a value out of range; the theme's colours are replaced by one that it knows."""
    import plotly.graph_objects as go

    def coloured(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: coloured(inner) for key, inner in value.items()}
        return "#000000" if isinstance(value, str) and re.fullmatch(r"colour-\d+|rule", value) else value

    for section in sections(RunDirectory(made)):
        for block in section.blocks:
            if isinstance(block, Plot):
                shapes = [coloured(shape) for shape in block.layout.get("shapes", [])]
                go.Figure([coloured(trace) for trace in block.data], block.layout | {"shapes": shapes})


def _no_summary(run: Path) -> None:
    (run / "summary.json").unlink()


def _killed_while_writing(run: Path) -> None:
    (run / "summary.json").unlink()
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])
    shutil.rmtree(run / "policy")
    part = next((run / "rollouts").glob("iteration_0003*.parquet"))
    part.write_bytes(part.read_bytes()[:200])


def _just_started(run: Path) -> None:
    for path in list(run.iterdir()):
        if path.name != "config.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _no_evaluation(run: Path) -> None:
    shutil.rmtree(run / "evaluation")


def _damaged_evaluation(run: Path) -> None:
    path = run / "evaluation" / "iteration_0003_against_base.jsonl"
    path.write_text(path.read_text()[:-30])


def _abstained_everywhere(run: Path) -> None:
    for path in (run / "evaluation").glob("*.jsonl"):
        path.write_text(re.sub(r'"win_rate": [\d.e-]+', '"win_rate": NaN', path.read_text()))


def _foreign_oracle(run: Path) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["oracle"] = {"type": "somebodys.module:Oracle", "secret": 1}
    (run / "config.yaml").write_text(yaml.safe_dump(values))


def _resumed(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    rows = lines(run)
    half = len(rows) // 2
    for row in rows[half:]:
        row["time/run_s"] = row["time/run_s"] - rows[half]["time/run_s"] + 0.001
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _damaged_lines(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    text = metrics.read_text().splitlines()
    metrics.write_text("\n".join([text[0], "{broken", *text[1:], '{"step": "none"}', '{"step": 99, "loss": null}']) + "\n")


def _binary_plan(run: Path) -> None:
    (run / "plan.json").write_bytes(b"\xff\xfe")
    (run / "summary.json").write_text("[1, 2]")


@pytest.mark.parametrize(
    "change",
    [
        _no_summary,
        _killed_while_writing,
        _just_started,
        _no_evaluation,
        _damaged_evaluation,
        _abstained_everywhere,
        _foreign_oracle,
        _resumed,
        _damaged_lines,
        _binary_plan,
    ],
)
def test_a_run_that_is_not_whole_gives_a_report(copied: Path, change: Any) -> None:
    change(copied)
    text = page_of(copied)
    expected = {
        _no_summary: "The run has not finished: 3 of 3 iterations",
        _killed_while_writing: "its groups are left out",
        _just_started: "No optimiser step was taken",
        _no_evaluation: "Whether the policy is better is not known",
        _damaged_evaluation: "iteration_0003_against_base.jsonl cannot be read",
        _abstained_everywhere: "the oracle abstained on all 6 held-out prompts",
        _foreign_oracle: "config.yaml cannot be validated here",
        _resumed: "The run was resumed once",
        _damaged_lines: "metrics.jsonl:2: damaged",
        _binary_plan: "plan.json cannot be read",
    }
    assert expected[change].replace("'", "&#39;") in text


@pytest.mark.parametrize(
    ("sections_", "expected"),
    [
        ({"loss": {"type": "ranking_dpo"}, "selection": {"type": "ranking"}}, "loss ranking_dpo"),
        ({"loss": {"type": "inpo"}, "selection": {"type": "tournament"}}, "loss inpo"),
        ({"policy": {"path": "unused", "dtype": "float32", "lora": True}}, "policy.lora"),
        ({"loop": {"sync_interval": 1, "steps": 3}}, "3 steps"),
    ],
)  # fmt: skip
def test_other_methods_give_a_report(tmp_path: Path, sections_: dict[str, Any], expected: str) -> None:
    made_run(tmp_path / "run", oracle="longer", **sections_)
    assert expected in page_of(tmp_path / "run")


def test_a_run_that_drifts_to_length_is_called_sick(made: Path) -> None:
    """The oracle's win rate is a function of length: the correlation of the two is 1 in every group, far outside its healthy range."""
    assert longer("", "aaaa", "a") > 0.5
    found = verdict(RunDirectory(made))
    assert found.level == "critical"
    assert found.headline.startswith("Sick run: ")
    assert "oracle/length_bias" in found.headline.partition(".")[0]


def test_texts_cannot_break_out_of_the_page(copied: Path) -> None:
    """A response that holds markup, or ends a script, is shown as it is."""
    path = copied / "evaluation" / "iteration_0003_against_base.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["challenger"] = "</script><b onclick=x>\x1b[31m"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page_of(copied)
    assert "&lt;/script&gt;&lt;b onclick=x&gt;\\x1b[31m" in text
    assert "<b onclick" not in text


def test_command_says_where_the_report_is(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "page.html"
    shown = CliRunner().invoke(app, ["report", str(made), "--output", str(target)])
    assert shown.exit_code == 0, shown.output
    assert target.name in shown.output.replace("\n", "")
    assert target.stat().st_size < 8_000_000


def test_browser_draws_every_figure_without_an_error(made: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(RunDirectory(made), page)
    opened = open_page(page, tmp_path / "profile")
    assert opened.console == []
    figures = opened.document.count("<figure")
    assert figures > 15
    assert len(re.findall(r'<figure.*?class="main-svg"', opened.document, flags=re.DOTALL)) == figures


def test_an_error_of_a_script_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><title>x</title><script>nothing.here();</script>")
    assert "nothing is not defined" in "".join(open_page(page, tmp_path / "profile").console)


def test_the_likelihood_of_texts_where_no_win_rate_was_measured(copied: Path) -> None:
    shutil.rmtree(copied / "evaluation")
    summary = json.loads((copied / "summary.json").read_text())
    held_out = [{"iteration": 1, "step": step, "texts": 5, "text_nll": nll} for step, nll in ((0, 2.0), (2, 1.5))]
    (copied / "summary.json").write_text(json.dumps(summary | {"evaluations": [], "held_out": held_out}))
    run = RunDirectory(copied)
    said = "The negative log-likelihood per token of held-out texts fell from 2 to 1.5; no win rate was measured."
    assert said in verdict(run).headline
    tables = [block for section in sections(run) for block in section.blocks if isinstance(block, Table)]
    (table,) = [table for table in tables if table.title.startswith("Negative log-likelihood on 5 held-out texts")]
    assert (list(table.headings), table.rows) == (["step", "iteration", "text_nll"], [["0", "1", "2"], ["2", "1", "1.5"]])


def measure(run: Path, policy: str, piqa: float, limit: int | None = None) -> None:
    Capability(policy, "m", {"piqa": Figure("acc,none", piqa, 0.01, 0, {})}, limit, "0").write(run / "capability")


def test_report_summary_and_end_table_say_that_capability_falls_while_the_win_rate_rises(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of a task is lost. Iteration 1 answers two tokens more than the base policy, and the oracle prefers the longer answer with
    probability sigmoid(difference / 3) on every prompt, so its win rate is 0.661 with an interval of no width."""
    headline = verdict(RunDirectory(copied)).headline
    measure(copied, "base", 0.5)
    measure(copied, "iteration_0001", 0.25)
    sentence = "Capability of iteration_0001 has fallen: piqa 0.500 to 0.250, while its win rate against base has risen to "
    sentence += "0.661  [0.661, 0.661]."
    add_capability(copied)
    summary = json.loads((copied / "summary.json").read_text())
    assert summary["capability"]["remarks"] == [sentence]
    assert [(one["policy"], one["tasks"]["piqa"]["value"]) for one in summary["capability"]["measured"]] == [
        ("base", 0.5),
        ("iteration_0001", 0.25),
    ]
    print_summary(summary)
    shown = capsys.readouterr().out
    assert sentence in shown
    assert re.search(r"win rate against base \[its interval\] .* 0\.661  \[0\.661, 0\.661\]", shown)
    fallen = verdict(RunDirectory(copied))
    assert fallen.headline == f"{headline} {sentence}"
    assert fallen.level != "good"


def test_the_verdict_where_nothing_has_fallen_or_can_be_compared(copied: Path) -> None:
    headline = verdict(RunDirectory(copied)).headline
    measure(copied, "base", 0.5)
    measure(copied, "policy", 0.5)
    assert verdict(RunDirectory(copied)).headline == f"{headline} No capability that was measured has fallen (piqa, policy)."
    measure(copied, "policy", 0.25, limit=7)
    assert verdict(RunDirectory(copied)).headline == headline


def test_what_the_run_ran_on(copied: Path) -> None:
    """The header has its nodes and versions; the model card, which is published, has them without the names of hosts."""
    machine = Machine(
        "host-of-mine", "AMD EPYC 9654", 192, 1511 << 30, (Gpu("NVIDIA H100 80GB HBM3", 80 << 30, "570"),) * 8, ("learner-0",)
    )
    write_environment(copied, "cuda", [machine, machine])
    run = RunDirectory(copied)
    words = "2 nodes, each with 8 NVIDIA H100 80GB HBM3 (80 GiB), AMD EPYC 9654 (192 cores), 1511 GiB of memory"
    about = dict(header(run))
    assert about["Hardware"].endswith(f"; {words}")
    assert about["Versions"].startswith(f"Python {platform.python_version()}, raypref ")
    assert f"Hardware: {words}." in model_card(run)
    assert "host-of-mine" not in model_card(run)


def test_a_torn_environment_is_named_once(copied: Path) -> None:
    (copied / "environment.json").write_text('{"python": ')
    assert page_of(copied).count("environment.json cannot be read") == 1

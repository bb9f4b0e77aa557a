"""The report: one HTML file with everything inside, for a run that has ended or still goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypref.output.environment import in_words
from raypref.output.terminal import counted, visible
from raypref.output.whole_file import write_whole
from raypref.report.operation import failures, sync, timing
from raypref.report.oracle import oracle
from raypref.report.parts import Cell, Level, Note, Section, Table
from raypref.report.plan import plan
from raypref.report.run_directory import RunDirectory
from raypref.report.samples import matrices, samples
from raypref.report.settings import changed_settings, flat
from raypref.report.training import responses, training, win_rates
from raypref.report.verdict import Verdict, verdict

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: RunDirectory, path: Path) -> Verdict:
    """Write the report of a run, and return its verdict. A file that is there is replaced when the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = verdict(run)
    write_whole(path, rendered(run, found))
    return found


def rendered(run: RunDirectory, found: Verdict) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    templates = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["visible"] = visible
    templates.filters["data"] = _as_script_data
    return templates.get_template("report.html.j2").render(
        title=title_of(run),
        verdict=found,
        findings=_findings(found),
        header=header(run),
        sections=sections(run),
        made=time.strftime("%Y-%m-%d %H:%M %Z"),
        state=run.state,
        plotly=get_plotlyjs(),
    )


def title_of(run: RunDirectory) -> str:
    """The run's name, and that of its directory where it is another."""
    name, directory = str(run.setting("name", "")), run.path.absolute().name
    return name if name == directory else f"{name} ({directory})"


def sections(run: RunDirectory) -> list[Section]:
    """All sections in their order; that on failures comes last, since reading the others may find something damaged."""
    parts = [win_rates, training, responses, oracle, samples, matrices, sync, timing, plan, settings, failures]
    return [part(run) for part in parts]


def header(run: RunDirectory) -> list[tuple[str, str]]:
    """What the run is, in pairs of a name and a text."""
    planned = f" of {run.iterations}" if run.iterations else ""
    data = run.setting("data.path") or "objects given from Python"
    facts = {
        "State": f"{run.state}, {run.finished_iterations}{planned} iterations, {run.steps:,} steps",
        "Method": f"loss {run.setting('loss.type')}, selection {run.setting('selection.type') or 'none'}",
        "Policy": str(run.setting("policy.path")),
        "Data": f"{data} ({run.setting('data.type')})",
        "Oracle": str(run.setting("oracle.type") or "none"),
        "Seed": str(run.setting("seed")),
        "Hardware": _hardware(run),
        "Versions": _versions(run.environment),
        "Directory": str(run.path),
    }
    return list(facts.items())


def _versions(environment: Mapping[str, Any]) -> str:
    packages = {"Python": environment["python"]} if "python" in environment else {}
    packages |= environment.get("versions") or {}
    return ", ".join(f"{name} {number}" for name, number in packages.items()) or "not recorded"


def _hardware(run: RunDirectory) -> str:
    ranks, engines = run.setting("placement.learner.ranks", 1), run.setting("placement.rollout.engines", 1)
    roles = [
        counted(ranks, "learner rank"),
        counted(engines, "engine"),
        f"layout {run.setting('placement.layout')}",
        f"device {run.setting('placement.device')}",
    ]
    return "; ".join([", ".join(roles), *in_words(run.environment.get("nodes", []))])


def settings(run: RunDirectory) -> Section:
    """The settings that are not the defaults."""
    if run.config is None:
        rows = [[path, str(value)] for path, value in flat(run.values).items()]
        note = Note("The config cannot be validated here (see the end of the page), so that all of its settings are shown.")
        return Section("settings", "Settings", blocks=[note, Table("config.yaml", ("key", "value"), rows)])
    rows = [[entry.path, str(entry.value), "" if entry.default is None else str(entry.default)] for entry in changed_settings(run.config)]
    return Section("settings", "Settings", "Those that differ from the defaults.", [Table("Settings", ("key", "value", "default"), rows)])


def _findings(found: Verdict) -> Table | None:
    levels: dict[str, Level] = {"critical": "critical", "warning": "warning"}
    rows: list[list[str | Cell]] = [
        [Cell(entry.severity, levels[entry.severity]), f"iteration {entry.iteration}, step {entry.step}", entry.text, entry.remedy]
        for entry in found.findings
        if entry.severity in levels
    ]
    if not rows:
        return None
    return Table("What is outside its healthy range", ("severity", "found at", "what", "what to do"), rows, texts=True)


def _as_script_data(value: Any) -> str:
    """JSON that may stand inside of a script element."""
    from markupsafe import Markup

    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))

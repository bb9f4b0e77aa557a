"""The report of a finished run: ``summary.json``, and the tables that the command line prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raypref.errors import ConfigError, reason_of
from raypref.output import capability
from raypref.output.environment import versions
from raypref.output.numbered import iteration_name
from raypref.output.terminal import counted, interval, print_table, visible
from raypref.output.whole_file import write_whole

if TYPE_CHECKING:
    from raypref.config import RunConfig
    from raypref.output.outcome import Outcome


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves behind."""

    output_dir: Path
    """Resolved config, metrics, rollouts, checkpoints, evaluations, logs."""
    policy_dir: Path
    """The final policy as a Hugging Face model directory."""
    summary: dict[str, Any]
    """The content of ``summary.json``: versions, evaluations, sync check, seconds by stage."""

    @classmethod
    def written(
        cls,
        config: RunConfig,
        outcome: Outcome,
        run_s: float,
        left_out: Mapping[str, int] | None = None,
        restarts: Sequence[Mapping[str, Any]] = (),
    ) -> Self:
        """The result of a finished run; ``summary.json`` is written.

        Args:
            config: of the run.
            outcome: of its loop.
            run_s: its seconds.
            left_out: how many records of the data were not used, by reason (``RunData.left_out``).
            restarts: when each restart was, and after which failure.
        """
        policy_dir = config.output_dir / "policy"
        summary = {
            "name": config.name,
            "policy_dir": str(policy_dir),
            "iterations": config.iterations,
            "steps": outcome.steps,
            "records_left_out": dict(left_out or {}),
            "confidence": config.evaluation.confidence,
            "evaluations": outcome.evaluations,
            "peaks": peaks(outcome.evaluations),
            "capability": _capability(config.output_dir, outcome.evaluations),
            "held_out": outcome.held_out,
            "best": outcome.best,
            "sync": outcome.sync,
            "restarts": list(restarts),
            "replacements": outcome.replacements,
            "set_aside": outcome.set_aside,
            "warnings": outcome.warnings,
            "run_s": round(run_s, 3),
            "seconds": outcome.seconds,
            "versions": versions(),
        }
        _write(config.output_dir, summary)
        return cls(config.output_dir, policy_dir, summary)

    def read_again(self) -> Self:
        """With ``summary.json`` as it is now, to which callbacks may have added what they measured at the run's end."""
        return replace(self, summary=_read(self.output_dir))


def add_capability(output_dir: Path) -> None:
    """Put what is measured of the policies of a finished run into its ``summary.json``; that of another one gets it when it is written.

    Raises:
        ConfigError: the file is damaged.
    """
    if (output_dir / "summary.json").exists():
        summary = _read(output_dir)
        _write(output_dir, summary | {"capability": _capability(output_dir, summary["evaluations"])})


def _read(output_dir: Path) -> dict[str, Any]:
    path = output_dir / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["evaluations"]  # the first of what is read
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({reason_of(error)}); restore it from a copy, or move it away") from error
    return dict(summary)


def _write(output_dir: Path, summary: Mapping[str, Any]) -> None:
    write_whole(output_dir / "summary.json", json.dumps(summary, indent=2) + "\n")


def _capability(output_dir: Path, evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was measured of each policy, and a sentence for each that has lost something, or on what cannot be judged."""
    measured, gaps = capability.of_run(output_dir)
    lost = capability.remarks(measured, _against_base(evaluations))
    return {"measured": [one.record() for one in measured], "remarks": [*gaps, *lost.values()]}


def _against_base(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Policy (``iteration_0002``) -> its win rate against the base policy."""
    return {iteration_name(entry["iteration"]): entry["base"] for entry in evaluations if "base" in entry}


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print win rates, capability, the loss on held-out examples, the seconds by stage, the warnings, and the policy's directory."""
    from rich.console import Console

    console = Console()

    def say(lines: Iterable[str]) -> None:
        for line in lines:
            console.print(visible(line), highlight=False, markup=False, emoji=False, soft_wrap=True)

    if summary["evaluations"]:
        print_table(win_rate_table(summary), console)
        say(peak_lines(summary))
    of_policies = summary.get("capability", {"measured": [], "remarks": []})
    if of_policies["measured"]:
        measured = [capability.Capability.of_record(record) for record in of_policies["measured"]]
        print_table(capability.table(measured, _against_base(summary["evaluations"])), console)
    say(of_policies["remarks"])
    if summary.get("held_out"):
        print_table(held_out_table(summary), console)
    print_table(seconds_table(summary), console)
    warnings = [warning for warning in summary.get("warnings", []) if warning["severity"] != "note"]
    for warning in warnings:
        where = f"iteration {warning['iteration']}, step {warning['step']}"
        say([f"{warning['severity']} in {where}: {warning['text']}. {warning['remedy']}"])
    left_out = {reason: count for reason, count in summary.get("records_left_out", {}).items() if count}
    if left_out:
        say(["records left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items())])
    say([f"policy: {summary['policy_dir']}", *best_lines(summary)])


def best_lines(summary: Mapping[str, Any]) -> list[str]:
    """Where the best policy is, if it is not the last one; see ``checkpoint.best``."""
    best = summary.get("best")
    if not best or best["iteration"] == summary["iterations"]:
        return []
    measure = next(name for name in ("win_rate_against_base", "held_out_loss") if name in best)
    value = f"{measure.replace('_', ' ')} {best[measure]:.4g} after step {best['step']}"
    return [f"best policy ({value}): {best['policy'] or best['checkpoint']}"]


def win_rate_table(summary: Mapping[str, Any]) -> Any:
    """One row per iteration: win rates against the base policy and the previous one, with intervals, and mean response length."""
    from rich.table import Table

    evaluations = summary["evaluations"]
    confidence = f"{summary['confidence']:.0%}"
    table = Table(title=f"held-out win rates, {counted(evaluations[0]['base']['prompts'], 'prompt')} ({confidence} bootstrap interval)")
    opponents = opponents_in(evaluations[-1])
    for heading in ("iteration", *(f"against {opponent}" for opponent in opponents), "response tokens"):
        table.add_column(heading, justify="right")
    table.add_row("base", *("" for _ in opponents), f"{evaluations[0]['base_response_tokens']:.1f}")
    for entry in evaluations:
        rates = (interval(entry[opponent]) if opponent in entry else "" for opponent in opponents)
        table.add_row(str(entry["iteration"]), *rates, f"{entry['response_tokens']:.1f}")
    return table


def opponents_in(evaluation: Mapping[str, Any]) -> list[str]:
    """The opponents of an evaluation, those of every run first."""
    named = [name for name, value in evaluation.items() if isinstance(value, Mapping) and "win_rate" in value]
    return sorted(named, key=lambda name: {"base": 0, "previous": 1}.get(name, 2))


def peaks(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The highest win rate over all evaluations against each opponent that stays the same, and when it was reached first.

    So report SPO (the maximum over epochs, appendix D.1, and over evaluations, D.2) and others. As the largest of several measurements on
    the same prompts it is biased upwards: compare peaks of runs with equally many evaluations.
    """
    found = {}
    for opponent in opponents_in(evaluations[-1]) if evaluations else []:
        entries = [entry for entry in evaluations if opponent in entry]
        if opponent != "previous":
            best = max(entries, key=lambda entry: float(entry[opponent]["win_rate"]))
            when = {"iteration": best["iteration"], "step": best.get("step"), "of_evaluations": len(entries)}
            found[opponent] = {**when, **best[opponent]}
    return found


def peak_lines(summary: Mapping[str, Any]) -> list[str]:
    """The peaks in words; none of a run with one evaluation."""
    return [
        f"peak against {opponent}: {interval(peak)} after iteration {peak['iteration']}"
        + ("" if peak["step"] is None else f" (step {peak['step']})")
        + f", the highest of {peak['of_evaluations']} evaluations"
        for opponent, peak in summary.get("peaks", {}).items()
        if peak["of_evaluations"] > 1
    ]


def held_out_title(point: Mapping[str, Any]) -> str:
    """What a point of ``held_out`` was measured on."""
    parts = {"examples": ("loss", "held-out example"), "texts": ("negative log-likelihood", "held-out text")}
    return ", ".join(f"{what} on {counted(point[key], thing)}" for key, (what, thing) in parts.items() if key in point)


def held_out_table(summary: Mapping[str, Any], most: int = 12) -> Any:
    """The loss on held-out examples by step, with accuracy and margin where the loss has them, and the likelihood of held-out texts.

    Args:
        summary: with at least one measurement.
        most: rows; of more measurements the first, the last and as many between them, evenly spaced.
    """
    from rich.table import Table

    points = summary["held_out"]
    if len(points) > most:
        points = [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]
    columns = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin", "text_nll": "nats per token of texts"}
    present = {name: heading for name, heading in columns.items() if name in points[0]}
    table = Table(title=held_out_title(points[0]))
    for heading in ("iteration", "step", *present.values()):
        table.add_column(heading, justify="right")
    for point in points:
        table.add_row(str(point["iteration"]), str(point["step"]), *(f"{point[name]:.4g}" for name in present))
    return table


def seconds_table(summary: Mapping[str, Any]) -> Any:
    """Seconds in which each stage had a call under way. Stages overlap, so they may add up to more than the run."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="seconds by stage")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage, seconds in summary["seconds"].items():
        table.add_row(Text(visible(stage)), f"{seconds:.1f}")
    table.add_section()
    table.add_row("the run", f"{summary['run_s']:.1f}")
    return table


def samples_table(output_dir: Path, iteration: int, count: int = 2) -> Any:
    """Responses of the base policy and of an iteration's policy to the same held-out prompts, side by side; the texts as they are."""
    from rich.table import Table
    from rich.text import Text

    path = output_dir / "evaluation" / f"{iteration_name(iteration)}_against_base.jsonl"
    matches = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:count] if line]
    table = Table(title=f"responses before and after {counted(iteration, 'iteration')}", show_lines=True)
    for heading in ("prompt", "before", "after"):
        table.add_column(heading, overflow="fold")
    for match in matches:
        table.add_row(*(Text(visible(match[side])) for side in ("prompt", "defender", "challenger")))
    return table

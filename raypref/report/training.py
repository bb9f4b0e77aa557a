"""Sections of the report: win rates, KL against win rate, training, responses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from raypref.evaluation.length_controlled import LengthControlled
from raypref.evaluation.win_rate import WinRate
from raypref.output.summary import held_out_title
from raypref.report.curves import RESPONSES, TRAINING, Curves, plots_of
from raypref.report.evaluations import length_controlled
from raypref.report.parts import Block, Note, Section, Table, shown
from raypref.report.plots import level_line, with_intervals
from raypref.report.run_directory import RunDirectory

KL_STEPS = 10
"""Steps at the end of an iteration whose mean is the KL of its policy."""


def win_rates(run: RunDirectory) -> Section:
    """Win rates by iteration, as they are and at equal lengths."""
    intro = "Held-out prompts, answered anew by each evaluated policy, and judged by the run's own oracle."
    base = run.against("base")
    others = {name: run.against(name) for name in run.opponents if name != "base"}
    if not base:
        missing = "No evaluation so far. A run is evaluated if it has held-out prompts (data.held_out) and an oracle."
        return Section("win-rates", "Win rates", intro, [Note(missing)])
    curves = {"against base": _points([(entry.iteration, entry.win_rate) for entry in base])}
    controlled = length_controlled(base, run.interval)
    fitted = {} if isinstance(controlled, str) else controlled
    if fitted:
        curves["at equal lengths"] = _points(list(fitted.items()))
    for name, entries in others.items():
        if name != "previous" or len(entries) > 1:  # the first one is the base policy
            curves[f"against {name}"] = _points([(entry.iteration, entry.win_rate) for entry in entries])
    confidence = f"{base[-1].win_rate.confidence:.0%}"
    layout = {"shapes": [level_line(0.5)], "xaxis": {"title": {"text": "iteration"}, "dtick": max(1, base[-1].iteration // 10)}}
    plot = with_intervals(f"Win rate, with {confidence} bootstrap intervals", curves, x="iteration", y="win rate", **layout)
    rates = {name: {entry.iteration: entry.win_rate for entry in entries} for name, entries in others.items()}
    rows = [
        [
            str(entry.iteration),
            _rate(entry.win_rate),
            _rate(fitted.get(entry.iteration)),
            *(_rate(known.get(entry.iteration)) for known in rates.values()),
            f"{entry.tokens:.1f}",
            f"{entry.opponent_tokens:.1f}",
            str(entry.win_rate.unanswered),
        ]
        for entry in base
    ]
    against = [f"against {name}" for name in rates]
    headings = ("iteration", "against base", "at equal lengths", *against, "tokens", "tokens of base", "unanswered")
    table = Table(f"Win rates [{confidence} interval]", headings, rows, _about_control(controlled, len(base)))
    return Section("win-rates", "Win rates", intro, [plot, *_kl_against_win_rate(run), table])


def _about_control(controlled: dict[int, LengthControlled] | str, count: int) -> str:
    if isinstance(controlled, str):
        return f"There is no win rate at equal lengths: {controlled}."
    difficulty = (
        "the prompts' difficulty is estimated from all evaluations together"
        if count > 1
        else "from a single evaluation it is not comparable with AlpacaEval 2"
    )
    return f"At equal lengths: the length-controlled win rate of AlpacaEval 2, under the run's oracle; {difficulty}."


def _kl_against_win_rate(run: RunDirectory) -> Iterator[Block]:
    """Gains that cost more and more KL, or turn round, are the oracle's exploitation (Gao et al. 2022, arXiv 2210.10760)."""
    distances = dict(enumerate(policy_distances(run), start=1))
    entries = [entry for entry in run.against("base") if not math.isnan(distances.get(entry.iteration, math.nan))]
    if not entries:
        yield Note("KL against win rate: the run has no KL so far. reference.measure_kl: true measures it, for one more forward pass.")
        return
    if run.series("kl"):
        x = "KL to the reference policy, nats per response"
        about = (
            f"Mean of kl over the last {KL_STEPS} steps of each iteration. If KL grows and the win rate does not, the oracle is exploited."
        )
    else:
        x = "sum of the iterations' KL, nats per response"
        about = (
            "KL to the reference was not measured (reference.measure_kl: true). In its place: kl_previous at the end of each iteration, "
            "added up. That is the length of the way, not the distance from its start."
        )
    points = _points([(distances[entry.iteration], entry.win_rate) for entry in entries])
    shapes = [level_line(0.5)]
    plot = with_intervals("KL against win rate", {"after iteration": points}, x=x, y="win rate against base", shapes=shapes)
    labels = {"mode": "lines+markers+text", "text": [str(entry.iteration) for entry in entries], "textposition": "top left"}
    yield replace(plot, data=[plot.data[0] | labels], caption=about)


def policy_distances(run: RunDirectory) -> list[float]:
    """For each finished iteration how far its policy is: ``kl`` at its end, or the sum of ``kl_previous`` at the ends so far."""
    measured = run.series("kl")
    series = measured or run.series("kl_previous")
    ends = []
    for number in range(1, len(run.iteration_ends) + 1):
        first, last = run.steps_of(number)
        ends.append(series.between(max(first, last - KL_STEPS + 1), last).mean)
    return ends if measured else [math.fsum(ends[: number + 1]) for number in range(len(ends))]


def training(run: RunDirectory) -> Section:
    """Curves of the optimiser steps."""
    intro = "Thin lines are single steps, thick ones running means, dotted lines the ends of iterations."
    own = [Curves(entry.name, "", {entry.name: entry.name}) for entry in (*run.under("loss/"), *run.under("regulariser/"))]
    blocks: list[Block] = [*plots_of(run, (*TRAINING, *own))]
    if not blocks:
        blocks.append(Note("No optimiser step was taken so far."))
    if run.held_out:
        blocks.append(_held_out(run))
    return Section("training", "Training", intro, blocks)


def _held_out(run: RunDirectory) -> Table:
    points = run.held_out
    names = [name for name in ("loss", "rewards/accuracies", "rewards/margins", "text_nll") if name in points[0]]
    rows = [[str(point["step"]), str(point["iteration"]), *(shown(point[name], 4) for name in names)] for point in points]
    title = held_out_title(points[0])
    return Table(title[0].upper() + title[1:], ("step", "iteration", *names), rows, folded=len(rows) > 12)


def responses(run: RunDirectory) -> Section:
    """Length, truncation, entropy."""
    blocks: list[Block] = [*plots_of(run, RESPONSES)]
    if not blocks:
        blocks.append(Note("The run trains on given data, or has not sampled so far."))
    return Section("responses", "Responses", "What the policy samples for training.", blocks)


def _points(entries: Sequence[tuple[float, WinRate | LengthControlled]]) -> tuple[list[float], ...]:
    """x, win rates, lower and upper ends."""
    rates = [rate for _, rate in entries]
    return [x for x, _ in entries], [rate.win_rate for rate in rates], [rate.low for rate in rates], [rate.high for rate in rates]


def _rate(rate: WinRate | LengthControlled | None) -> str:
    return "–" if rate is None else f"{rate.win_rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"

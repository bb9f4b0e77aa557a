"""One group as text: responses, preferences, what was selected and why, targets, the tokens that the learner saw."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raypref.data.inspection import roles_of, table, tokens_of
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError
from raypref.preferences import log_odds
from raypref.report.groups import Group
from raypref.report.policy_logps import AFTER, BEFORE
from raypref.report.replay import Replay
from raypref.report.samples import describe, name_of
from raypref.types import Example, Judged


def shown_group(
    group: Group,
    judged: Judged | None,
    replay: Replay | None,
    facts: PolicyFacts | None,
    *,
    tokens: int,
    width: int,
    logps: Sequence[Mapping[str, NDArray[np.float64]]] = (),
) -> Iterator[str]:
    """The lines about a group.

    Args:
        group: from the journal.
        judged: the same, judged once more; None: the run's config or its policy's tokenizer cannot be read here.
        replay: with the run's config.
        facts: the policy's tokenizer; None: tokens are not shown.
        tokens: most tokens of each prompt and response that are shown; 0: none.
        width: of the lines.
        logps: for each example (N,) log-probs of its sequences by policy, where they were computed (``policy_logps``).
    """
    row = group.row
    yield f"prompt {group.prompt_id!r} (index {group.prompt_index}), iteration {group.iteration}, sampled by policy {row['policy_version']}"
    yield from _indented(row["prompt"], width)
    yield ""
    yield from _responses(group)
    yield ""
    for k, text in enumerate(row["responses"]):
        yield f"  {name_of(k)}{_role(group, k)}:"
        yield from _indented(text, width)
    yield ""
    yield f"  P(row beats column), oracle {row['oracle']}: {describe(group)}"
    yield from _matrix(group)
    yield ""
    yield from _selected(group, replay, width)
    if judged is None:
        return
    figures = {name: value for name, value in judged.verdict.metrics.items() if value == value}
    text = "metrics of the group: " + ", ".join(f"{name} {value:.3g}" for name, value in sorted(figures.items()))
    yield from wrapped(text, width)
    for number, example in enumerate(judged.examples, start=1):
        yield ""
        yield f"  example {number} of {len(judged.examples)}"
        assert replay is not None
        yield from _example(example, replay, logps[number - 1] if logps else {})
        if facts is not None and tokens:
            yield from tokens_of(example, replay.config.loss, facts, tokens, width)


def _responses(group: Group) -> Iterator[str]:
    row = group.row
    scores = np.where(np.isnan(group.matrix), 0.0, log_odds(group.matrix)).mean(axis=1)
    lines: list[tuple[str, ...]] = [("response", "win rate", "mean score", "tokens", "log-prob", "per token", "end", "")]
    for k, logprobs in enumerate(row["logprobs"]):
        total, count = float(np.sum(logprobs)), len(logprobs)
        incomplete = " (of the known)" if np.isnan(group.matrix[k]).any() else ""
        lines.append(
            (
                name_of(k),
                f"{group.win_rates[k]:.3f}{incomplete}",
                f"{scores[k]:+.3f}",
                str(count),
                f"{total:.2f}",
                f"{total / max(1, count):.2f}",
                "cut off" if row["finish_reasons"][k] == "length" else "ended",
                group.roles.get(k, ""),
            )
        )
    yield from table(lines)


def _matrix(group: Group) -> Iterator[str]:
    names = [name_of(k) for k in range(len(group.matrix))]
    rows: list[tuple[str, ...]] = [("", *names)]
    for i, values in enumerate(group.matrix):
        rows.append((names[i], *("-" if i == j else "?" if np.isnan(value) else f"{value:.3f}" for j, value in enumerate(values))))
    yield from table(rows)


def _selected(group: Group, replay: Replay | None, width: int) -> Iterator[str]:
    """What was picked, and by which rule."""
    picked = group.row["picked"]
    if replay is not None and replay.config.selection is not None:
        selection = replay.config.selection
        settings = ", ".join(f"{key}={value}" for key, value in selection.model_dump().items() if key != "type")
        purpose = (type(selection).__doc__ or "").strip().split("\n")[0]
        yield from wrapped(f"selection {selection.type}{f' ({settings})' if settings else ''}: {purpose}", width)
    if not picked:
        yield "  nothing was picked: the group gave no training example (oracle/dropped)"
    for pick in picked:
        yield "  picked, best first: " + " > ".join(f"{name_of(k)} (win rate {group.win_rates[k]:.3f})" for k in pick)


def _example(example: Example, replay: Replay, logps: Mapping[str, NDArray[np.float64]]) -> Iterator[str]:
    """Targets, lengths, the log-probs that the engine sampled with, and those under the policies on disk."""
    roles = roles_of(len(example.response_ids), replay.config.loss)
    ratios = {}
    if BEFORE in logps and AFTER in logps:
        ratios = {"log-ratio after/before": logps[AFTER] - logps[BEFORE]}
    figures = {**logps, **ratios}
    rows: list[tuple[str, ...]] = [("sequence", "target", "tokens", "log pi_t, sampled", *figures)]
    for k, role in enumerate(roles):
        sampled = np.nan if example.sampled_logps is None else example.sampled_logps[k]
        logp = "-" if np.isnan(sampled) else f"{sampled:.3f}"
        rows.append(
            (
                role,
                f"{example.targets[k]:+.4f}",
                str(len(example.response_ids[k])),
                logp,
                *(f"{values[k]:.3f}" for values in figures.values()),
            )
        )
    yield from table(rows)


def _role(group: Group, response: int) -> str:
    role = group.roles.get(response)
    return f" ({role})" if role else ""


def wrapped(text: str, width: int) -> Iterator[str]:
    """A long line, indented by two."""
    yield from textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _indented(text: str, width: int) -> Iterator[str]:
    for line in text.rstrip("\n").split("\n"):
        yield from textwrap.wrap(line, width - 4, initial_indent="    ", subsequent_indent="    ") or [""]


def listed(groups: Sequence[Group], judged: Sequence[Judged], metric: str, most: int) -> Iterator[str]:
    """Groups by a metric, the largest first.

    Args:
        groups: of an iteration.
        judged: the same, judged once more.
        metric: its name; ``cycle`` stands for ``oracle/cycle``, ``length`` for ``rollout/response_tokens``.
        most: lines.

    Raises:
        ConfigError: no group has a metric of that name.
    """
    known = sorted({name for entry in judged for name in entry.verdict.metrics})
    wanted = {"length": "response_tokens", "spread": "win_rate_spread"}.get(metric, metric)
    name = next((name for name in known if wanted in (name, name.partition("/")[2])), None)
    if name is None:
        raise ConfigError(f"--sort {metric}: no group has it; known: {', '.join(known)}")
    values = [(entry.verdict.metrics.get(name, np.nan), group) for entry, group in zip(judged, groups, strict=True)]
    order = sorted((pair for pair in values if pair[0] == pair[0]), key=lambda pair: (-pair[0], pair[1].prompt_index))
    rows: list[tuple[str, ...]] = [("prompt", "index", name, "win rates", "picked")]
    for value, group in order[:most]:
        rates = " ".join(f"{rate:.2f}" for rate in group.win_rates)
        picks = " ".join(">".join(name_of(k) for k in pick) for pick in group.row["picked"]) or "-"
        rows.append((group.prompt_id, str(group.prompt_index), f"{value:.4g}", rates, picks))
    yield f"iteration {groups[0].iteration}: {len(order)} of {len(groups)} groups have {name}; the {min(most, len(order))} largest"
    yield from table(rows)

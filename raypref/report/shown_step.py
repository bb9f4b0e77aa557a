"""One optimiser step as text: its metrics, its batch, and the micro-batches that each rank of the learner computed."""

from __future__ import annotations

from collections.abc import Iterator

from raypref.data.inspection import table
from raypref.errors import ConfigError
from raypref.output.terminal import counted
from raypref.report.replay import Replay, Step, device_of
from raypref.report.run_directory import RunDirectory
from raypref.report.shown_group import wrapped
from raypref.training.collation import response_tokens

_MOST_TARGETS = 4
"""Targets of an example that are shown."""


def shown_step(run: RunDirectory, replay: Replay, step: Step, width: int) -> Iterator[str]:
    """The lines about a step."""
    groups = len({example.prompt_index for example in step.examples})
    epochs = replay.config.learner.epochs
    epoch = f", epoch {step.epoch} of {epochs}" if epochs > 1 else ""
    yield f"step {step.number}: step {step.place} of iteration {step.iteration}{epoch}"
    tokens = response_tokens(step.examples)
    recorded = run.series("tokens").between(step.number, step.number)
    check = (
        "" if not recorded else " (as metrics.jsonl has it)" if recorded.last == tokens else f" (METRICS.JSONL SAYS {recorded.last:.0f})"
    )
    yield f"{counted(len(step.examples), 'example')} of {counted(groups, 'prompt')}, {tokens} response tokens{check}"
    at = {name: run.series(name).between(step.number, step.number) for name in run.names}
    figures = [f"{name} {series.last:.4g}" for name, series in at.items() if series and not name.startswith("time/")]
    yield from wrapped(", ".join(figures), width)
    yield ""
    rows: list[tuple[str, ...]] = [("example", "prompt", "index", "tokens of prompt", "of responses", "targets")]
    for place, example in enumerate(step.examples):
        targets = " ".join(f"{target:+.3f}" for target in example.targets[:_MOST_TARGETS])
        more = " ..." if len(example.targets) > _MOST_TARGETS else ""
        lengths = " ".join(str(len(response)) for response in example.response_ids)
        rows.append((str(place), example.prompt_id, str(example.prompt_index), str(len(example.prompt_ids[0])), lengths, targets + more))
    yield from table(rows)
    yield ""
    yield from _micro_batches(replay, step)


def _micro_batches(replay: Replay, step: Step) -> Iterator[str]:
    try:
        plan, packing = replay.micro_batches(step)
    except ConfigError as error:
        yield f"micro-batches cannot be computed here: {error}"
        return
    budget = replay.config.learner.micro_batch_tokens
    layout = f"inputs {packing.kind}, device {device_of(replay.config)}"
    yield f"micro-batches of {counted(len(plan), 'rank')}: at most {budget} tokens in a pass, {layout}"
    rows: list[tuple[str, ...]] = [("rank", "pass", "tokens with padding", "examples")]
    for rank, passes in enumerate(plan):
        for number, micro in enumerate(passes, start=1):
            filler = "" if micro.counted else " (a repeat without weight, so that all ranks make as many passes)"
            rows.append((str(rank), str(number), str(micro.padded_tokens), " ".join(map(str, micro.examples)) + filler))
    yield from table(rows)

"""``raypref inspect data CONFIG``: what a run's data looks like to its policy, read as the run reads it. Nothing is started."""

from __future__ import annotations

import contextlib
import logging
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path


class _Collected(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def _collected() -> Iterator[list[str]]:
    """What reading the data warns of, in place of log lines."""
    handler, logger = _Collected(), logging.getLogger("raypref.data")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.lines
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def inspected(path: Path, overrides: Sequence[str], *, count: int, tokens: int, width: int) -> Iterator[str]:
    """The lines of the command.

    Args:
        path: a run's YAML file.
        overrides: ``section.key=value``.
        count: records that are shown token by token.
        tokens: most tokens of each prompt and response that are shown.
        width: of the lines.

    Raises:
        ConfigError, DataError: what keeps a run from reading its data; problems of other sections are not looked for.
    """
    from raypref.checks import Task
    from raypref.compose import inspect
    from raypref.config import load_config
    from raypref.data import inspection
    from raypref.data.prompts import room_text
    from raypref.errors import refuse
    from raypref.loop.loading import load_run_data

    config = load_config(path, overrides).located()
    problems, facts = inspect(config, Task())
    if facts is None:
        refuse(problems)
    with _collected() as warnings:
        data = load_run_data(config, facts)
    yield from inspection.records(data, config.loss, facts, count, tokens, width)
    kind = "prompts" if data.sampled else "examples"
    held_out = len(data.held_out_examples or data.held_out)
    yield f"{len(data.items)} {kind} to train on, {held_out} held out (above: ids with their texts, control tokens without quotes)"
    yield ""
    yield from inspection.table(inspection.lengths(data, config.loss, facts.context_tokens))
    yield ""
    if data.sampled:
        room = facts.context_tokens - config.rollout.max_tokens
        yield f"  {room_text(facts.context_tokens, room)}; nothing is cut"
    else:
        yield "  nothing is cut: a record that is too long is left out as a whole"
    counts = {**inspection.duplicates(data, config.loss), **inspection.control_tokens(data, config.loss, facts)}
    left_out = {f"left out: {inspection.LEFT_OUT[reason]}": number for reason, number in data.left_out.items()}
    yield from inspection.table([(what, str(number)) for what, number in (counts | left_out).items()])
    for warning in warnings:
        yield from textwrap.wrap(
            warning, width, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )

"""``raypref config``: the reference of every key, from the docstrings of the sections."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from raypref.errors import ConfigError

if TYPE_CHECKING:
    from raypref.settings.reference import Entry


def config(
    section: Annotated[
        str | None,
        typer.Argument(help="learner, learner.optimizer.lr, loss.inpo, loss.my_package:Mine, ...; default: a list."),
    ] = None,
    search: Annotated[str | None, typer.Option(metavar="WORD", help="Look for the keys whose name contains a word.")] = None,
) -> None:
    """Explain config keys: type, bounds, default, meaning."""
    typer.echo(reference(section, search))


def reference(name: str | None, word: str | None) -> str:
    """What ``raypref config`` prints.

    Args:
        name: of a section, a method of an axis (``loss.inpo``, ``oracle.my_package.judges:Mine``) or a key.
        word: to look for instead.

    Raises:
        ConfigError: there is no such section, or both are given.
    """
    from raypref.settings import reference

    if name is not None and word is not None:
        raise ConfigError("--search: looks in all sections; give a section, or --search")
    width = min(shutil.get_terminal_size().columns, 100)
    if word is not None:
        found = reference.search(word)
    elif name is not None:
        found = reference.find(name)
    else:
        return _list(list(reference.entries()), width)
    return "\n\n".join(reference.text_of(entry, width) for entry in found)


def _list(known: Sequence[Entry], width: int) -> str:
    """Every section in a line, the methods of an axis together."""
    from raypref.settings.overrides import AXES
    from raypref.settings.reference import first_line

    plain = [entry for entry in known if entry.name and entry.name.partition(".")[0] not in AXES]
    column = max(len(entry.name) for entry in plain) + 2
    lines = [f"{entry.name:<{column}}{first_line(entry.meaning)}" for entry in plain]
    lines = [line if len(line) <= width else f"{line[: width - 3].rstrip()}..." for line in lines]
    for axis in AXES:
        methods = ", ".join(entry.name.partition(".")[2] for entry in known if entry.name.startswith(f"{axis}."))
        lines += textwrap.wrap(f"{axis + '.':<{column}}{methods}", width, subsequent_indent=" " * column)
    more = "More: raypref config learner, raypref config loss.inpo, raypref config --search lr"
    return "\n".join([*lines, "", *textwrap.wrap(more, width)])

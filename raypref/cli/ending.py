"""How the process of a command ends: at which signals, and with which exit code.

0 success; 1 an error that is not the user's; 2 a mistake in the command, the config or the data; 3 the run may succeed if it is resumed;
4 the run stopped because its results would have been wrong; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from types import TracebackType

import typer

from raypref.errors import RayprefError
from raypref.output.terminal import visible

INTERRUPTED, TERMINATED = 130, 143
HANGING = "teardown "
"""Threads whose names begin so wait for a part of the cluster that may never answer (``actors.cluster.teardown``)."""


class Termination:
    """SIGTERM does what Ctrl-C does, also where Ctrl-C is ignored: a shell script's background jobs ignore SIGINT."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, *_: object) -> None:
        self.received = True
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)


def ended_by(command: Callable[[], object], *, debug: bool = False) -> int:
    """Run a command of typer's and return the exit code of the process; errors that a user can act on are printed without a traceback.

    Args:
        command: the call.
        debug: print the traceback, too.
    """
    termination = Termination()
    signal.signal(signal.SIGTERM, termination)
    try:
        command()
    except RayprefError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {visible(error)}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    else:
        return 0
    return TERMINATED if code == INTERRUPTED and termination.received else code


def show_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A ``sys.excepthook``: an error that no message foresees, in one paragraph; its traceback is kept in a file."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="raypref-", suffix=".txt", delete=False) as file:
        traceback.print_exception(kind, error, trace, file=file)
    where = traceback.extract_tb(trace)[-1:]
    place = "".join(f" ({frame.filename}:{frame.lineno})" for frame in where)
    said = " ".join(str(error).split()) or "no message"
    typer.echo(visible(f"error: {kind.__name__}: {said}{place}; the traceback is in {file.name}, and --debug shows it"), err=True)


def leave(code: int) -> None:
    """End the process, also where a thread still waits for a cluster that hangs: the interpreter's own end would wait for it, too."""
    if any(thread.name.startswith(HANGING) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

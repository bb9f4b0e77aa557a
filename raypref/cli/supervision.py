"""A small process outside the run, which starts it again where the run itself cannot: ``raypref train --supervise``.

A run goes on by itself after the death of an actor (``checkpoint.restarts``). It cannot after its own: killed for memory, or ended by Ray
when the cluster's head is gone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import raypref
from raypref.config import RunConfig
from raypref.errors import RunFailed
from raypref.output.checkpoint import Checkpoints
from raypref.output.run_lock import LOCK, Holder

logger = logging.getLogger(__name__)

GRACE_S = 10.0
"""Seconds in which the processes that a run leaves behind (Ray's) may end by themselves."""
_SET_CHILD_SUBREAPER = 36


def raypref_command() -> list[str]:
    """The ``raypref`` command in another process of the same Python.

    As of the installed script, and unlike ``python -m``, the working directory does not come before installed packages.
    """
    start = f"import sys; sys.path.append({str(Path(raypref.__file__).parents[1])!r}); from raypref.cli.app import main; main()"
    return [sys.executable, "-P", "-c", start]


def supervised(config: RunConfig, begin: Sequence[str], go_on: Sequence[str]) -> int:
    """Run a command until it ends in another way than by a failure after which a restart may help.

    SIGTERM, SIGINT and SIGHUP are passed on. What a run leaves behind is ended before the next one starts.

    Args:
        config: of the run; ``checkpoint.restarts`` says how often it is started again without having finished an iteration in between.
        begin: the command.
        go_on: the command that continues the run.

    Returns:
        The exit code of the last run.
    """
    if ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:  # so that orphans of the run become children of this process
        logger.warning("processes that a killed run leaves behind cannot be ended on this system")
    failures, newest, command = 0, _newest(config), begin
    while True:
        process, code, stopped = _run(command)
        _end_leftovers()
        lock = Holder.read(config.output_dir / LOCK)
        crashed = code < 0 or (lock is not None and lock.pid == process)  # a run that ends by itself, whatever its exit code, releases it
        if stopped or not (crashed or code == RunFailed.exit_code):
            return _shell_code(code)
        failures = failures + 1 if newest == _newest(config) else 1
        newest = _newest(config)
        if failures > config.checkpoint.restarts:
            return _shell_code(code)
        wait_s = config.checkpoint.wait_s(failures)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        logger.warning("the run %s; restart %d of %d in %.0f s", how, failures, config.checkpoint.restarts, wait_s)
        time.sleep(wait_s)
        command = go_on


def _shell_code(code: int) -> int:
    """The exit code as a shell counts it: 137 for a process that signal 9 killed."""
    return code if code >= 0 else 128 - code


def _newest(config: RunConfig) -> str:
    complete = Checkpoints.of(config).complete()
    return complete[-1].name if complete else ""


def _run(command: Sequence[str]) -> tuple[int, int, bool]:
    """The command's process number, its exit code (negative: the signal that killed it), and whether it was to be stopped meanwhile.

    It has a process group of its own. Otherwise Ctrl-C in a terminal would reach it twice, by the terminal and from here, and the second
    interrupt would end the run before it has saved and released what it holds.
    """
    received: list[int] = []
    process = subprocess.Popen(command, process_group=0)

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        process.send_signal(number)

    passed_on = [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in passed_on}
    try:
        return process.pid, process.wait(), bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_leftovers() -> None:
    """Wait until the processes that the run left behind have ended; kill those that have not after ``GRACE_S`` seconds."""
    deadline = time.monotonic() + GRACE_S
    while (left := list(_children(os.getpid()))) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.1)
    while left:
        for process in left:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
        _reap()
        left = list(_children(os.getpid()))  # children of what was killed are this process' now


def _reap() -> None:
    """Let ended children disappear."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:  # there are none
        pass


def _children(parent: int) -> Iterator[int]:
    """Processes whose parent is ``parent``."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            yield int(entry.name)

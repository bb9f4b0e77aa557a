"""Ends what outlives the process that started a local Ray cluster.

Ray's own processes see that this process is gone, but its agents first tell the cluster's GCS of it, which is gone, too: that can take
minutes. An actor that hangs does not end at all. So a small program runs beside a run, and kills what is left some seconds after the
run's end. It finds the processes by a mark in their environment, which their children inherit.

This file is that program, too, and imports nothing but Python's own modules: ``python leftovers.py MARK PARENT SECONDS``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

GRACE_S = 5.0
"""Seconds in which processes may end by themselves."""
_MARK = "RAYPREF_CLUSTER"
_LOOK_S = 0.5
_GIVES_UP_S = 60.0
"""Seconds after which a process that does not even end when it is killed is left alone: it waits for a device."""


class Leftovers:
    """Watches over the processes of one local cluster."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        """
        Args:
            grace_s: seconds after ``close``, or after the end of this process, in which they may end by themselves.
        """
        mark = f"{_MARK}={uuid.uuid4().hex}"
        command = [sys.executable, "-I", "-S", __file__, mark, str(os.getpid()), str(grace_s)]
        unmarked = {name: value for name, value in os.environ.items() if name != _MARK}  # Python may need LD_LIBRARY_PATH to start
        self._program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=unmarked, start_new_session=True
        )
        threading.Thread(target=self._program.wait, name="wait for the end of leftovers.py", daemon=True).start()  # so it is no zombie
        self.environment: Mapping[str, str] = dict([mark.split("=")]) | {"SPT_NOENV": "1"}
        """What the first processes of the cluster must have in their environment. ``SPT_NOENV`` keeps ``setproctitle``, by which Ray and
        vLLM rename their processes, from writing a name over the environment."""

    def close(self) -> None:
        """The cluster has been shut down: what it leaves is ended. Does not wait for it."""
        assert self._program.stdin is not None
        self._program.stdin.close()


def main(mark: str, parent: int, grace_s: float) -> None:
    """Wait until ``parent`` has closed this program's input or is gone; end the marked processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a signal to all processes of a job is the run's to answer; it still needs its actors
    while os.getppid() == parent and not select.select([0], [], [], _LOOK_S)[0]:
        pass
    ended = time.monotonic()
    while (left := list(_marked(mark.encode()))) and (since := time.monotonic() - ended) < grace_s + _GIVES_UP_S:
        for process in left if since >= grace_s else ():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGKILL)
        time.sleep(_LOOK_S)


def _marked(mark: bytes) -> Iterator[int]:
    """Processes of this user that have the mark in their environment."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:  # another user's, or it has just ended
            continue


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))

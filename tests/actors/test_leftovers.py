"""What a local cluster leaves behind, with processes in place of Ray's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.cluster.leftovers import Leftovers

CLUSTER = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:-1]])
import setproctitle
setproctitle.setproctitle("ray::Something with a name that is longer than the command was, so that it is written over what follows it" * 40)
time.sleep(120)
"""
"""Two processes, parent and child, that do not end by themselves and have other names than they were started by."""
DRIVER = f"""
import os, subprocess, sys, time
from actors.cluster.leftovers import Leftovers
leftovers = Leftovers(grace_s=0.5)
command = [sys.executable, "-c", {CLUSTER!r}, "and a child"]
process = subprocess.Popen(command, env=os.environ | leftovers.environment, start_new_session=True)
print(process.pid, leftovers._program.pid, flush=True)
time.sleep(120)
"""


def until(reached: Callable[[], bool], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.05)
    return reached()


def ended(process: int) -> bool:
    """Whether the process is gone, or waits for its parent to read how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def renamed(process: int) -> bool:
    return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::")


def test_what_a_killed_driver_leaves_is_ended_and_the_program_itself_ends() -> None:
    """SIGTERM to the program, as a scheduler sends it to all processes of a job, changes nothing: the run still needs what it started."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    cluster, program = (int(number) for number in driver.stdout.readline().split())
    assert until(lambda: len(children(cluster)) == 1)
    (child,) = children(cluster)
    assert until(lambda: renamed(cluster) and renamed(child))
    os.kill(program, signal.SIGTERM)
    time.sleep(1.5)
    assert not any(map(ended, (cluster, child, program)))
    driver.kill()
    driver.communicate()
    assert until(lambda: all(map(ended, (cluster, child, program))))


def test_the_program_has_what_its_python_needs_and_not_the_mark_of_a_run_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pythons of software trees on clusters find their own library by LD_LIBRARY_PATH, and without it the program would not even start."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    monkeypatch.setenv("RAYPREF_CLUSTER", "that of a run in whose actor this is")
    leftovers = Leftovers(grace_s=0.0)
    environment = Path(f"/proc/{leftovers._program.pid}/environ")
    assert until(lambda: b"LD_LIBRARY_PATH=/opt/python/lib" in environment.read_bytes().split(b"\0"))
    assert b"RAYPREF_CLUSTER" not in environment.read_bytes()
    leftovers.close()
    assert leftovers._program.wait(20) == 0


def test_what_is_left_after_a_shutdown_is_ended_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Leftovers(grace_s=0.0), Leftovers(grace_s=0.0)
    processes = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], env=dict(leftovers.environment))
        for leftovers in (first, second)
    ]
    first.close()
    assert processes[0].wait(20) == -signal.SIGKILL
    assert first._program.wait(20) == 0
    assert processes[1].poll() is None
    second.close()
    assert processes[1].wait(20) == -signal.SIGKILL
    assert second._program.wait(20) == 0

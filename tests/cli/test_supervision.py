"""The process that starts a run again after it was killed, over commands that do what a run does at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import raypref
from raypref.cli.supervision import raypref_command
from raypref.output.run_lock import LOCK, RunLock

RUN = """
import os, signal, subprocess, sys, time
from pathlib import Path
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.run_lock import RunLock
directory, behaviours = Path(sys.argv[1]), sys.argv[2].split(",")
log = directory / "log"
number = len(log.read_text().split()) if log.exists() else 0
with log.open("a") as file:
    file.write(sys.argv[3] + "\\n")
behaviour = behaviours[number]
lock = directory / "run.lock"
if behaviour == "early":  # before it has the lock
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "killed":
    RunLock(lock).take()
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "aborted":  # as Ray's C++ does when the cluster's head is gone
    RunLock(lock).take()
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    os._exit(1)
if behaviour != "refused":  # another program holds the lock
    lock.unlink(missing_ok=True)
if behaviour == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: (directory / "interrupts").open("a").write("x"))
    (directory / "group").write_text(str(os.getpgrp()))
    (directory / "waiting").touch()
    time.sleep(60)
if behaviour == "saves":
    Checkpoints(directory / "checkpoints", keep=1).begin(RunState(iteration=1)).joinpath("state.json").touch()
sys.exit({"refused": 2, "saves": 3}.get(behaviour) or int(behaviour))
"""

SUPERVISE = """
import signal, sys
from raypref.cli import supervision
from raypref.config import RunConfig
supervision.GRACE_S = 0.5
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands ignore it, the tests among them
directory, script, behaviours = sys.argv[1:]
CHECKPOINT = {"restarts": 2, "restart_after_s": 0.01}
values = {"output_dir": directory, "policy": {"path": "p"}, "loss": {"type": "sppo"}, "checkpoint": CHECKPOINT}
command = [sys.executable, script, directory, behaviours]
sys.exit(supervision.supervised(RunConfig.parse(values), [*command, "begin"], [*command, "go_on"]))
"""


def start(directory: Path, behaviours: str) -> subprocess.Popen[str]:
    (directory / "run.py").write_text(RUN)
    environment = os.environ | {"PYTHONPATH": str(Path(raypref.__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(SUPERVISE), str(directory), str(directory / "run.py"), behaviours]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, process_group=0)


def await_file(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("behaviours", "code", "commands"),
    [
        ("0", 0, ["begin"]),
        ("2", 2, ["begin"]),
        ("4", 4, ["begin"]),
        ("1", 1, ["begin"]),  # an error of the user's own code: it would come again
        ("3,0", 0, ["begin", "go_on"]),
        ("killed,0", 0, ["begin", "go_on"]),
        ("killed,3,0", 0, ["begin", "go_on", "go_on"]),
        ("3,3,3", 3, ["begin", "go_on", "go_on"]),
        ("killed,killed,killed", 137, ["begin", "go_on", "go_on"]),
        ("aborted,0", 0, ["begin", "go_on"]),
        ("early,0", 0, ["begin", "go_on"]),
    ],
)
def test_what_is_started_again(tmp_path: Path, behaviours: str, code: int, commands: list[str]) -> None:
    ended, errors = finish(start(tmp_path, behaviours))
    assert ended == code, errors
    assert (tmp_path / "log").read_text().split() == commands
    assert errors.count("restart") == len(commands) - 1


def test_a_run_that_another_program_keeps_out_is_not_started_again(tmp_path: Path) -> None:
    """Its exit code is 2, and the lock that it leaves is the other program's."""
    lock = RunLock(tmp_path / LOCK)
    lock.take()
    ended, errors = finish(start(tmp_path, "refused,0"))
    lock.release()
    assert (ended, errors) == (2, "")


def test_an_interrupt_from_the_terminal_reaches_the_run_once(tmp_path: Path) -> None:
    """Ctrl-C goes to every process of the terminal's group, the supervising one among them, which passes it on."""
    process = start(tmp_path, "waits,0")
    await_file(tmp_path / "waiting")
    assert int((tmp_path / "group").read_text()) != process.pid
    os.killpg(process.pid, signal.SIGINT)
    await_file(tmp_path / "interrupts")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert (tmp_path / "interrupts").read_text() == "x"


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """The run ends without ending a process that it started in a session of its own, as Ray's are."""
    finish(start(tmp_path, "aborted,0"))
    left = subprocess.run(["pgrep", "-fx", "sleep 1000"], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_sigterm_reaches_the_run_and_ends_both(tmp_path: Path) -> None:
    process = start(tmp_path, "waits,0")
    await_file(tmp_path / "waiting")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert (tmp_path / "log").read_text().split() == ["begin"]


def test_failures_are_counted_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Two failures, a checkpoint, two failures: with two restarts the run goes on."""
    assert finish(start(tmp_path, "killed,killed,saves,3,0"))[0] == 0
    assert len((tmp_path / "log").read_text().split()) == 5


def test_a_module_beside_the_config_does_not_take_the_place_of_an_installed_package(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('the wrong module was run')")
    done = subprocess.run([*raypref_command(), "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, raypref.__version__), done.stderr

"""One program at a time writes into a run's directory; a lock whose holder is gone is taken over."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from raypref.errors import ConfigError
from raypref.output import run_lock
from raypref.output.run_lock import Holder, held

HOLD = """
import sys, time
from pathlib import Path
from raypref.output.run_lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "RENEW_S", 0.05)
    monkeypatch.setattr(run_lock, "SETTLE_S", 0.05)


def holder(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLD), str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def lock_of(directory: Path, **fields: object) -> Path:
    """The lock file of a holder that differs from this process in ``fields``."""
    with held(directory):
        content = json.loads((directory / "run.lock").read_text())
    path = directory / "run.lock"
    path.write_text(json.dumps(content | fields))
    return path


def test_a_second_program_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(ConfigError, match=rf"output_dir: .* is in use by process {process.pid} on .*; wait until it ends"),
            held(tmp_path),
        ):
            pass
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == process.pid  # the refused one changed nothing
    finally:
        end(process)


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ConfigError, match="in use"), held(tmp_path):
        pass


def test_the_directory_is_free_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / "new"):
        raise ZeroDivisionError
    assert list((tmp_path / "new").iterdir()) == []
    with held(tmp_path / "new"):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    end(holder(tmp_path))
    with held(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_got_the_number_of_the_dead_holder_is_not_the_holder(tmp_path: Path) -> None:
    lock_of(tmp_path, id="other", started="1")
    with held(tmp_path):
        pass


@pytest.mark.parametrize("elsewhere", [{"host": "another-machine"}, {"processes": "pid:[1]"}])
def test_the_lock_of_another_machine_holds_as_long_as_it_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: dict[str, str]
) -> None:
    path = lock_of(tmp_path, id="other", started="1", **elsewhere)
    with pytest.raises(ConfigError, match="in use"), held(tmp_path):
        pass
    now = time.time()
    os.utime(path, (now - 61, now - 61))
    with held(tmp_path):
        pass


def test_a_damaged_lock_holds_until_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.write_text("{")
    with pytest.raises(ConfigError, match="in use by another program"), held(tmp_path):
        pass
    os.utime(path, (0, 0))
    with held(tmp_path):
        pass


def test_the_lock_is_renewed(tmp_path: Path) -> None:
    with held(tmp_path):
        os.utime(tmp_path / "run.lock", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "run.lock").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / "run.lock").stat().st_mtime < 10


def test_the_lock_is_renewed_after_the_disk_did_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may fail to read the lock for a while: the thread that renews it goes on."""
    path, read, failed = tmp_path / "run.lock", Holder.read, threading.Event()

    def fails_once(asked: Path) -> Holder | None:
        if threading.current_thread().name == "run-lock" and not failed.is_set():
            failed.set()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(asked))
        return read(asked)

    monkeypatch.setattr(Holder, "read", fails_once)
    with held(tmp_path):
        assert failed.wait(10)
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_a_process_whose_lock_was_taken_over_ends(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        (tmp_path / "run.lock").unlink()
        with held(tmp_path):
            assert process.wait(timeout=20) == -signal.SIGTERM
            assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    finally:
        end(process)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output_dir: .*file.* cannot be written"), held(tmp_path / "file"):
        pass

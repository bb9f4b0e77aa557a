"""The lock on a run's directory: one program writes to it at a time.

``run.lock`` names who holds it. The holder renews the file's time every few seconds. A lock whose holder is gone is taken over: at once
if the holder was a process of this machine that no longer lives, otherwise when the file has not been renewed for ``STALE_S``. ``flock``
is not used, since network file systems may not support it between machines.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from raypref.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK = "run.lock"
"""Name of the file in ``output_dir``."""
RENEW_S = 5.0
"""Seconds between two renewals."""
STALE_S = 60.0
"""Seconds without a renewal after which the holder of a lock on another machine counts as gone."""
SETTLE_S = 0.3
"""Seconds that a program which takes over a lock waits for others that do the same: the one that wrote its name last has it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    id: str
    """A new one each time that a lock is taken."""
    host: str
    processes: str
    """The kernel's name of the process' PID namespace: each container of a host has its own."""
    pid: int
    started: str
    """When the process began, as the kernel counts it: another process with the same number has another value."""
    since: str
    """When the lock was taken, for people."""

    @classmethod
    def here(cls) -> Self:
        """This process."""
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        return cls(uuid.uuid4().hex, socket.gethostname(), _process_space(), os.getpid(), _process_start(os.getpid()), since)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Who holds the lock ``path``; None where there is no lock, or a damaged one."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def lives(self) -> bool | None:
        """Whether the process lives; None if it is on another machine or in another container, so that it cannot be known here."""
        if (self.host, self.processes) != (socket.gethostname(), _process_space()):
            return None
        return bool(self.started) and _process_start(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the lock of a run's directory for the block.

    Args:
        directory: ``output_dir``; made if need be.

    Raises:
        ConfigError: another program holds the lock, or the directory cannot be written.
    """
    lock = RunLock(directory / LOCK)
    lock.take()
    over = threading.Event()
    renewal = threading.Thread(target=lock.renew_until, args=(over,), daemon=True, name="run-lock")
    renewal.start()
    try:
        yield
    finally:
        over.set()
        renewal.join()
        lock.release()


class RunLock:
    """One lock file; see ``held``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._holder = Holder.here()

    def take(self) -> None:
        """Take the lock.

        Raises:
            ConfigError: another program holds it, or it cannot be written.
        """
        try:
            if not self.path.parent.is_dir():
                self.path.parent.mkdir(parents=True)
            if not self._make(self.path):
                self._take_over()
        except OSError as error:
            raise ConfigError(f"output_dir: {self.path.parent} cannot be written: {error}; give another place") from error

    def release(self) -> None:
        """Remove the lock, unless another program has taken it over."""
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def renew_until(self, over: threading.Event) -> None:
        """Renew the lock until ``over``. If another program took it over, this process must not write any more: it ends as at SIGTERM."""
        while not over.wait(RENEW_S):
            try:
                if not self._is_ours():
                    logger.error("%s was taken over by %s; this run ends", self.path, Holder.read(self.path) or "somebody who removed it")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                os.utime(self.path)
            except OSError as error:  # a disk that does not answer now; the next renewal may succeed
                logger.warning("%s cannot be renewed: %s", self.path, error)

    def _make(self, path: Path) -> bool:
        """Write this process's name into a new file; False if the file exists."""
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self._holder), file)
            file.flush()
            os.fsync(file.fileno())
        return True

    def _take_over(self) -> None:
        """Replace the lock if its holder is gone."""
        holder = Holder.read(self.path)
        lives = holder.lives() if holder is not None else None
        if lives or (lives is None and self._age_s() < STALE_S):
            name = "another program" if holder is None else str(holder)
            raise ConfigError(
                f"output_dir: {self.path.parent} is in use by {name} ({self.path.name}); wait until it ends, or give another output_dir"
            )
        logger.warning("%s: its holder is gone (%s); it is taken over", self.path, holder or "the file is damaged")
        mine = self.path.with_name(f"{self.path.name}.{self._holder.id}")
        self._make(mine)
        mine.rename(self.path)
        time.sleep(SETTLE_S)
        if not self._is_ours():
            raise ConfigError(f"output_dir: {self.path.parent} was just taken by {Holder.read(self.path)}; give another output_dir")

    def _is_ours(self) -> bool:
        holder = Holder.read(self.path)
        return holder is not None and holder.id == self._holder.id

    def _age_s(self) -> float:
        """Seconds since the last renewal, by the file system's own clock: that of another machine may differ from ours."""
        probe = self.path.with_name(f"{self.path.name}.{self._holder.id}.now")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:  # removed meanwhile
            return float("inf")
        finally:
            probe.unlink(missing_ok=True)


def _process_space() -> str:
    return os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""


def _process_start(pid: int) -> str:
    """When a process of this machine began, in clock ticks since the machine's start; empty where there is no such process.

    A zombie counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]

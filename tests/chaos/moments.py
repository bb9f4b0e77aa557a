"""Moments of a run, and what happens there: a process is killed or stopped, at a stage that is entered for the n-th time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypref.metrics.progress import Callback
from raypref.output.journal import schema
from raypref.output.record_stream import RecordReader
from tests.chaos.light import lines, note


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens when: ``signal`` to ``target``, ``delay_s`` after the run enters ``stage`` for the ``count``-th time since the fault
    before this one."""

    stage: str
    """A stage of the run's clock, or ``seal``."""
    count: int = 1
    delay_s: float = 0.0
    target: str = "driver"
    """An actor's name, ``driver``, or ``node``: the second node, which comes back ``AWAY_S`` later."""
    signal: int = int(signal.SIGKILL)
    iteration: int | None = None
    """From 1: only stages that are entered in this iteration count; it begins when the one before it is sealed and synced."""


class Moments(Callback):
    """Counts how often each stage is entered in this process, and lets the faults happen, one after another."""

    def __init__(self, faults: Iterable[Fault], output_dir: Path, renew_node: Callable[[], None]) -> None:
        self._faults = deque(faults)
        self._output_dir = output_dir
        self._renew_node = renew_node
        self._entered = 0
        self._iteration = 0

    def on_iteration(self, iteration: int) -> None:
        import psutil
        import ray
        from ray._private.internal_api import memory_summary

        self._iteration = iteration
        told = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
        stored = re.search(r"Plasma memory usage (\d+) MiB, (\d+) objects", told)
        assert stored is not None
        note("stored", json.dumps({"mebibytes": int(stored[1]), "objects": int(stored[2])}))
        processes = psutil.Process().children(recursive=True)
        listening = set[str]()
        for each in processes:
            with contextlib.suppress(psutil.Error):  # it has just ended
                listening.update(port.laddr.ip for port in each.net_connections() if port.status == psutil.CONN_LISTEN)
        note("listening", json.dumps({"processes": len(processes), "addresses": sorted(listening)}))

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        note("steps", str(step))

    def reached(self, stage: str) -> None:
        if not self._faults:
            return
        fault = self._faults[0]
        if stage == fault.stage and fault.iteration in (None, self._iteration):
            self._entered += 1
            if self._entered == fault.count:
                self._entered = -(10**9)  # until this one has happened
                threading.Timer(fault.delay_s, self._strike, [fault]).start()

    def _strike(self, fault: Fault) -> None:
        deadline, process = time.monotonic() + 60, None
        while fault.target != "node" and (process := self._process(fault.target)) is None and time.monotonic() < deadline:
            time.sleep(0.05)  # it is being replaced
        before = {
            "time": time.time(),
            "journal": sorted(journalled(self._output_dir)),
            "sampled": lines("sampled"),
            "judged": lines("judged"),
        }
        note("faults", json.dumps(asdict(fault) | before))
        self._entered = 0
        self._faults.popleft()
        if process is not None:
            os.kill(process, fault.signal)
        elif fault.target == "node":
            self._renew_node()
        else:
            raise AssertionError(f"there is no {fault.target}")

    def _process(self, target: str) -> int | None:
        return os.getpid() if target == "driver" else process_of(self._output_dir, target)


def journalled(output_dir: Path) -> set[str]:
    """The origins of all groups that are on disk, in sealed parts and in open streams."""
    found, rollouts = set[str](), output_dir / "rollouts"
    for path in [*rollouts.glob("*.parquet"), *(rollouts / ".open").glob("*")]:
        with contextlib.suppress(FileNotFoundError):  # it is sealed, or read back, at this moment
            if path.suffix == ".parquet":
                found.update(pq.read_table(path, columns=["origin"])["origin"].to_pylist())
            elif path.suffix in (".arrows", ".sealing"):
                found.update(record["origin"][0].as_py() for record in RecordReader(path, schema(), []))
            elif path.suffix == ".arrow":
                found.update(pa.ipc.open_file(path).read_all()["origin"].to_pylist())
    return found


def process_of(output_dir: Path, actor: str) -> int | None:
    """The process whose standard output is the actor's log; a stopped one or one that is ending does not count."""
    log = str(output_dir / "logs" / f"{actor}.log")
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "fd" / "1") == log and state_of(entry) not in "TZX":
                return int(entry.name)
        except OSError:
            continue
    return None


def state_of(process: Path) -> str:
    """R, S, D, T (stopped), Z ... of a process in ``/proc``."""
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


class Notices(logging.Handler):
    """Notes every warning, and when it came."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        note("notices", json.dumps({"time": time.time(), "message": record.getMessage()}))


def watching(faults: Iterable[Mapping[str, Any]], output_dir: Path, renew_node: Callable[[], None]) -> Moments:
    """Have the faults happen in the run that this process starts; the callback for that run."""
    from actors.oracle.group import OracleGroup
    from raypref.metrics.writer import RunMeter

    moments = Moments([Fault(**fault) for fault in faults], output_dir, renew_node)
    stage, seal = RunMeter.stage, OracleGroup.seal

    def entered(meter: RunMeter, name: str) -> Any:
        moments.reached(name)
        return stage(meter, name)

    async def sealed(group: OracleGroup, iteration: int) -> None:
        moments.reached("seal")
        await seal(group, iteration)

    RunMeter.stage, OracleGroup.seal = entered, sealed  # type: ignore[assignment, method-assign]
    logging.getLogger().addHandler(Notices())
    return moments

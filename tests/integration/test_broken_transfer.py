"""A receiver that hangs, raises or dies while weights are broadcast. NCCL has a stand-in; all else is what runs on GPUs."""

from __future__ import annotations

import inspect
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import ray

from actors.weights.destination import Destination
from raypref.errors import SyncError
from tests.broadcast_stand_in import CHUNKS, Copies, Learner

pytestmark = pytest.mark.integration

TIMEOUT_S = 3.0


@dataclass
class Bench:
    """A learner, a replica that is well, and an engine of two workers of which one is made to fail."""

    learner: Any
    well: Any
    ill: Any = None
    pid: int = 0

    def destinations(self) -> list[Destination]:
        return [Destination("reference-0", self.well), Destination("rollout-1", self.ill, workers=2)]

    def connect(self) -> None:
        ray.get(self.learner.connect.remote(self.destinations(), TIMEOUT_S), timeout=60)

    def sync_works(self, version: int) -> None:
        """Every worker holds every weight, and the version."""
        ray.get(self.learner.sync.remote(version), timeout=60)
        expected = {f"w.{k}": float(10 * version + k) for k in range(1, CHUNKS + 1)}
        assert ray.get(self.well.state.remote(), timeout=10) == (str(version), [expected])
        assert ray.get(self.ill.state.remote(), timeout=10) == (str(version), [expected, expected])

    def failure(self, call: Any) -> tuple[SyncError, float]:
        """What a call of the learner raises, and after how many seconds."""
        start = time.monotonic()
        with pytest.raises(SyncError) as caught:
            ray.get(call, timeout=60)
        return caught.value.cause, time.monotonic() - start  # type: ignore[attr-defined]

    def plan(self, stage: str, fault: str) -> None:
        ray.get(self.ill.plan.remote(stage, fault), timeout=10)

    def goes_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def replace_the_dead(self) -> None:
        self.ill = ray.remote(Copies).options(num_cpus=0, max_concurrency=2).remote(2)
        self.pid = ray.get(self.ill.pid.remote(), timeout=60)  # it has started: a connection has less time than that may take


@pytest.fixture(scope="module")
def bench(cluster: None) -> Iterator[Bench]:
    copies = ray.remote(Copies).options(num_cpus=0)
    made = Bench(ray.remote(Learner).options(num_cpus=0).remote(), copies.remote())
    made.replace_the_dead()
    ray.get(made.well.pid.remote(), timeout=60)
    made.connect()
    yield made
    for actor in (made.learner, made.well, made.ill):
        ray.kill(actor)


@pytest.mark.slow
def test_vllm_has_what_nccl_uses() -> None:
    """Importing vLLM takes 7 s. ``destroy`` does nothing for a disabled communicator, so ``NcclTransport.abort`` does not use it."""
    nccl_common = pytest.importorskip("vllm.distributed.weight_transfer.nccl_common")
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.device_communicators.pynccl_wrapper import NCCL_UNIQUE_ID_BYTES, NCCLLibrary, ncclUniqueId

    joins = inspect.signature(nccl_common.uid_init_process_group)
    assert list(joins.parameters) == [
        "nccl_unique_id_bytes",
        "rank",
        "world_size",
        "device",
    ]
    assert list(inspect.signature(PyNcclCommunicator.broadcast).parameters) == ["self", "tensor", "src", "stream"]
    assert list(inspect.signature(NCCLLibrary.ncclCommAbort).parameters) == ["self", "comm"]
    assert len(bytes(ncclUniqueId().internal)) == NCCL_UNIQUE_ID_BYTES
    disabled: Any = object.__new__(PyNcclCommunicator)
    disabled.available, disabled.disabled = True, True
    disabled.destroy()
    assert disabled.available
    assert disabled.broadcast(None, 0) is None


def test_every_worker_receives_every_chunk(bench: Bench) -> None:
    for version in range(2):
        bench.sync_works(version)


def test_a_worker_that_raises_in_a_chunk_is_named_at_once_and_the_next_sync_works(bench: Bench) -> None:
    """Its neighbour, the other replica and the sender wait in the broadcast of the next chunk, and get out of it."""
    bench.plan("w.3", "raise")
    error, seconds = bench.failure(bench.learner.sync.remote(2))
    assert "rollout-1 (chunk 3 of 5, from w.3) failed; nccl, transfer 1 of the sync: rollout-1/tp1: MemoryError: no room" in str(error)
    assert seconds < TIMEOUT_S
    bench.sync_works(3)


def test_an_engine_that_hangs_in_a_chunk_is_named_in_time_and_the_next_sync_works(bench: Bench) -> None:
    bench.plan("w.3", "stop")
    error, seconds = bench.failure(bench.learner.sync.remote(4))
    bench.goes_on()
    where = r"chunk (3 of 5, from w\.3|4 of 5, from w\.4)"  # what the sender knows: one more chunk may be on its way
    assert re.search(rf"no answer from rollout-1 \({where}\) within sync\.timeout_s = 3 s; nccl, transfer 1 of the sync", str(error))
    assert TIMEOUT_S <= seconds < TIMEOUT_S + 5
    bench.sync_works(5)


@pytest.mark.parametrize(
    ("fault", "message", "within_s"),
    [
        ("raise", "rollout-1 failed; nccl, connecting: MemoryError: no room", TIMEOUT_S),
        ("stop", "no answer from rollout-1 within sync.timeout_s = 3 s; nccl, connecting", TIMEOUT_S + 5),
    ],
)
def test_an_engine_that_fails_while_it_connects_is_named_in_time_and_the_next_connection_works(
    bench: Bench, fault: str, message: str, within_s: float
) -> None:
    """The others wait for it in the building of their communicators, which cannot be aborted: they leave that thread behind."""
    bench.plan("connect", fault)
    error, seconds = bench.failure(bench.learner.connect.remote(bench.destinations(), TIMEOUT_S))
    if fault == "stop":
        bench.goes_on()
    assert re.search(message, str(error))
    assert seconds < within_s
    bench.connect()
    bench.sync_works(6)


def test_an_engine_that_dies_in_a_chunk_is_named_and_another_takes_its_place(bench: Bench) -> None:
    bench.plan("w.3", "die")
    error, seconds = bench.failure(bench.learner.sync.remote(7))
    assert "rollout-1 (chunk 3 of 5, from w.3) failed; nccl, transfer 1 of the sync: ActorDiedError" in str(error)
    assert seconds < TIMEOUT_S + 5
    again, _ = bench.failure(bench.learner.sync.remote(8))
    assert "rollout-1 failed; nccl, connecting: ActorDiedError" in str(again)
    bench.replace_the_dead()
    bench.connect()
    bench.sync_works(9)

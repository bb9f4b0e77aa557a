"""Weights through Ray's object store, between two nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray._private.internal_api import memory_summary
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from actors.weights import object_store, shm, transport
from actors.weights.ray_control import Destination, RayControl
from actors.weights.transport import Link
from tests.actors.test_transport import Copies, DirectControl, Fixed

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("two_nodes")]


class Copy:
    """An actor that keeps what it receives, and counts the chunks."""

    def __init__(self) -> None:
        self.model, self.chunks = Copies(), 0
        self.receiver = transport.load("object_store").receiver(self.model, torch.device("cpu"))
        self.do_at_chunk(0)

    def do_at_chunk(self, chunk: int, fail: bool = False, wait_s: float = 0.0) -> None:
        """What happens in the update of that number; none is 0."""
        self.special, self.fail, self.wait_s = chunk, fail, wait_s

    def init_weight_transfer_engine(self, request: Any) -> None:
        self.receiver.connect(request["init_info"])

    def start_weight_update(self, complete: bool, audience: str) -> None:
        self.chunks = 0
        self.receiver.begin()

    def update_weights(self, request: Any) -> None:
        self.chunks += 1
        if self.chunks == self.special:
            time.sleep(self.wait_s)
            if self.fail:
                raise ValueError("no place for it")
        self.receiver.update(request["update_info"])

    def finish_weight_update(self) -> None:
        self.receiver.finish()

    def update_weight_version(self, new_version: str) -> None:
        pass

    def received(self) -> tuple[str, int, dict[str, Tensor]]:
        return ray.get_runtime_context().get_node_id(), self.chunks, self.model.tensors


class Kept:
    """A model that keeps the very tensors that it is given, as vLLM does until a layer is complete."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.tensors |= dict(weights)


@pytest.fixture
def copies() -> Iterator[list[Any]]:
    """One on each node."""
    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
    actors = [ray.remote(Copy).options(num_cpus=0, scheduling_strategy=node).remote() for node in nodes]
    yield actors
    for actor in actors:
        ray.kill(actor)


def connected(source: Fixed, actors: list[Any]) -> tuple[transport.Sender, RayControl]:
    control = RayControl([Destination(f"copy-{k}", actor) for k, actor in enumerate(actors)], "object_store", timeout_s=60)
    sender = transport.load("object_store").sender(Link(0, source, control, workers=len(actors)))
    sender.connect()
    return sender, control


def test_every_tensor_arrives_on_both_nodes(copies: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8,000 bytes, which the largest tensor takes for itself: one of 3,200 and two small ones come before it, one behind it."""
    monkeypatch.setattr(object_store, "CHUNK_BYTES", 4096)
    source = Fixed(
        {"a": torch.randn(20, 40), "b": torch.ones(5).bfloat16(), "c": torch.tensor(7), "d": torch.randn(2000), "e": torch.ones(3)}
    )
    sender, control = connected(source, copies)
    for _ in range(2):
        source.tensors["a"] = source.tensors["a"] + 1
        sender.send()
        assert control.failure is None
        found = ray.get([actor.received.remote() for actor in copies], timeout=60)
        assert len({node for node, _, _ in found}) == 2
        for _, chunks, tensors in found:
            assert chunks == 3
            assert tensors.keys() == source.tensors.keys()
            assert all(
                torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype for name, tensor in source.tensors.items()
            )
    sender.close()


def test_more_weights_than_the_store_holds(copies: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """180 MiB through stores of 100 MiB, in chunks of 4 MiB: a chunk is freed once both have loaded it, and none is moved to disk.

    Ray frees it a little later; a store has room for 20 of them."""
    monkeypatch.setattr(object_store, "CHUNK_BYTES", 4 << 20)
    source = Fixed({f"t{k}": torch.full((1 << 20,), float(k)) for k in range(45)})
    sender, control = connected(source, copies)
    sender.send()
    assert control.failure is None
    assert "Spilled" not in memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    for _, chunks, tensors in ray.get([actor.received.remote() for actor in copies[:1]], timeout=60):  # too large for a store itself
        assert chunks == 45
        assert [float(tensor[-1]) for tensor in tensors.values()] == list(range(45))


def test_workers_of_an_engine_get_chunks_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers behind a relay, in this process. Each keeps what it got though the next chunk replaces it; no file stays."""
    monkeypatch.setattr(object_store, "CHUNK_BYTES", 128)
    monkeypatch.setattr(shm, "_MEMORY_DIR", tmp_path)
    models = [Kept(), Kept()]
    workers = DirectControl([transport.load("object_store").receiver(model, torch.device("cpu")) for model in models])
    relay = transport.load("object_store").relay(2)

    class Relayed(DirectControl):
        def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
            with relay.connecting(init_info) as info:
                workers.init_weight_transfer_engine(info)

        def update_weights(self, update_info: Any) -> None:
            self.calls.append("update")
            info = relay.updated(update_info)
            assert "object" not in info
            workers.update_weights(info)

    source = Fixed({"a": torch.randn(4, 8), "b": torch.randn(5).bfloat16(), "c": torch.randn(16)})
    control = Relayed([])
    sender = transport.load("object_store").sender(Link(0, source, control, workers=2))
    sender.connect()
    assert list(tmp_path.iterdir()) == []
    sender.send()
    assert control.calls == ["begin", "update", "update", "finish"]
    for model in models:
        assert all(torch.equal(model.tensors[name], tensor) for name, tensor in source.tensors.items())


def test_a_receiver_that_fails_or_is_late_is_named_and_the_next_sync_works(copies: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second of three chunks. The sender goes on, without more chunks, until its source ends."""
    monkeypatch.setattr(object_store, "CHUNK_BYTES", 64)
    source = Fixed({name: torch.randn(16) for name in "abc"})
    sender, control = connected(source, copies)
    ray.get(copies[1].do_at_chunk.remote(2, fail=True), timeout=60)
    sender.send()
    assert str(control.failure) == "sync: copy-1 failed; object_store, transfer 2 of the sync: ValueError: no place for it"
    ray.get(copies[1].do_at_chunk.remote(2, wait_s=5.0), timeout=60)
    control._timeout_s = 1.0
    control.begin()
    sender.connect()
    start = time.monotonic()
    sender.send()
    assert time.monotonic() - start < 5.0
    assert str(control.failure) == "sync: no answer from copy-1 within sync.timeout_s = 1 s; object_store, transfer 2 of the sync"
    ray.get(copies[1].do_at_chunk.remote(0), timeout=60)
    control._timeout_s = 60.0
    control.begin()
    sender.connect()
    sender.send()
    assert control.failure is None
    for _, chunks, tensors in ray.get([actor.received.remote() for actor in copies], timeout=60):
        assert chunks == 3
        assert all(torch.equal(tensors[name], tensor) for name, tensor in source.tensors.items())

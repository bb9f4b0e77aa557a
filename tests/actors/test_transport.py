"""Transports: the contract that a new one keeps, which one is chosen, and the halves that need neither vLLM nor a GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from actors.weights import transport
from actors.weights.ipc import PackedTensor, StagedIpcSender
from actors.weights.source import TensorInfo, WeightSource
from actors.weights.transport import Link, LoadsWeights, Receiver, Sender, Transport
from raypref.errors import ConfigError, SyncError

PLACES: list[tuple[Literal["cuda", "cpu"], str]] = [("cpu", "separate"), ("cpu", "colocated"), ("cuda", "separate"), ("cuda", "colocated")]
"""Device and layout."""


class Fixed(WeightSource):
    """Weights that never change."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def metadata(self) -> list[TensorInfo]:
        return [TensorInfo(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.tensors.items()


class Copies:
    """Models that keep copies of what is loaded into them."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.tensors |= {name: tensor.clone() for name, tensor in weights}


class DirectControl:
    """Reaches the receivers by calling them; remembers the calls."""

    def __init__(self, receivers: list[Receiver]) -> None:
        self.receivers = receivers
        self.calls: list[str] = []
        self.failure: SyncError | None = None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append("connect")
        for receiver in self.receivers:
            receiver.connect(init_info)

    def start_weight_update(self) -> None:
        self.calls.append("begin")
        for receiver in self.receivers:
            receiver.begin()

    def update_weights(self, update_info: Any) -> None:
        self.calls.append("update")
        for receiver in self.receivers:
            receiver.update(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append("finish")
        for receiver in self.receivers:
            receiver.finish()


class ByHand(Transport):
    """The smallest transport: the tensors themselves are the message, one a call."""

    name = "by_hand"

    def fits(self, device: str, layout: str) -> bool:
        return device == "cpu" and layout == "colocated"

    def sender(self, link: Link) -> Sender:
        return ByHandSender(link)

    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        return ByHandReceiver(model)


class ByHandSender(Sender):
    def __init__(self, link: Link) -> None:
        self.link = link

    def connect(self) -> None:
        self.link.control.init_weight_transfer_engine({})

    def send(self) -> None:
        weights = list(self.link.source)
        if self.link.rank > 0:
            return
        self.link.control.start_weight_update()
        for pair in weights:
            self.link.control.update_weights({"pair": pair})
        self.link.control.finish_weight_update()

    def close(self) -> None:
        pass


class ByHandReceiver(Receiver):
    def __init__(self, model: LoadsWeights) -> None:
        self.model = model

    def connect(self, info: Mapping[str, Any]) -> None:
        pass

    def update(self, info: Mapping[str, Any]) -> None:
        self.model.load_weights([info["pair"]])

    def close(self) -> None:
        pass


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport as if it were a file of the folder and a name in the config."""
    module: Any = ModuleType("actors.weights.by_hand")
    module.TRANSPORT = ByHand()
    monkeypatch.setitem(sys.modules, "actors.weights.by_hand", module)
    monkeypatch.setattr(transport, "names", lambda: ["nccl", "ipc", "shm", "object_store", "by_hand"])


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(("name", "updates"), [("by_hand", 3), ("shm", 1)])
def test_a_transport_brings_every_tensor_to_every_receiver(name: str, updates: int) -> None:
    """Two syncs to two receivers. Each is connected once; each sync begins, updates and finishes; what arrives is what was given."""
    way = transport.load(name)
    models = [Copies(), Copies()]
    receivers = [way.receiver(model, torch.device("cpu")) for model in models]
    source = Fixed({"a": torch.randn(2, 3), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.tensor(7)})
    control = DirectControl(receivers)
    sender = way.sender(Link(0, source, control, workers=2))
    sender.connect()
    sender.send()
    source.tensors["a"] = source.tensors["a"] + 1
    sender.send()
    assert control.calls == ["connect", *(["begin", *["update"] * updates, "finish"] * 2)]
    for model in models:
        assert model.tensors.keys() == source.tensors.keys()
        assert all(torch.equal(model.tensors[name], tensor) for name, tensor in source.tensors.items())
    sender.close()
    for receiver in receivers:
        receiver.close()


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("name", ["by_hand", "shm", "object_store"])
def test_other_ranks_read_the_source_and_call_nobody(name: str) -> None:
    """Reading may be a collective of all ranks; only the first one talks to the receivers."""
    passes = 0

    class Counting(Fixed):
        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            nonlocal passes
            passes += 1
            yield from super().__iter__()

    control = DirectControl([])
    sender = transport.load(name).sender(Link(1, Counting({"a": torch.ones(2)}), control, workers=1))
    sender.send()
    assert passes == 1
    assert control.calls == []


@pytest.mark.usefixtures("by_hand")
def test_auto_takes_the_first_that_fits_and_a_name_takes_that_one() -> None:
    cases: list[tuple[str, Literal["cuda", "cpu"], str, str]] = [
        ("auto", "cpu", "separate", "shm"),
        ("auto", "cuda", "colocated", "ipc"),
        ("auto", "cuda", "separate", "nccl"),
        ("auto", "cpu", "colocated", "shm"),
        ("by_hand", "cpu", "colocated", "by_hand"),
    ]
    for asked, device, layout, chosen in cases:
        assert transport.choose(asked, device, layout).name == chosen
    with pytest.raises(ConfigError, match=r"sync\.transport: by_hand does not work on a CPU; use auto, which takes shm there"):
        transport.choose("by_hand", "cpu", "separate")


def test_a_transport_that_does_not_fit_is_refused_with_the_one_that_does() -> None:
    with pytest.raises(ConfigError, match=r"sync\.transport: shm does not work between separate GPUs; use auto, which takes nccl there"):
        transport.choose("shm", "cuda", "separate")
    with pytest.raises(ValueError, match="no transport is called 'mail'; known: nccl, ipc, shm, object_store"):
        transport.load("mail")


def test_on_several_nodes_weights_go_through_the_object_store_where_nothing_else_reaches() -> None:
    """GPUs keep what they have on one node; by name the object store serves them, too. Shared memory is refused."""
    found = [transport.choose("auto", device, layout, nodes=2).name for device, layout in PLACES]
    assert found == ["object_store", "object_store", "nccl", "ipc"]
    assert all(
        transport.choose("object_store", device, layout, nodes).name == "object_store" for device, layout in PLACES for nodes in (1, 2)
    )
    with pytest.raises(
        ConfigError, match=r"sync\.transport: shm does not work on a CPU, on 2 nodes; use auto, which takes object_store there"
    ):
        transport.choose("shm", "cpu", "separate", nodes=2)


def test_shared_memory_refuses_what_it_cannot_do() -> None:
    """Weights before the file is mapped; a file of another node; a tensor that is not what the source declared."""
    receiver = transport.load("shm").receiver(Copies(), torch.device("cpu"))
    with pytest.raises(SyncError, match="before init_weight_transfer_engine"):
        receiver.update({})
    with pytest.raises(SyncError, match="/no/such/file is not on this node"):
        receiver.connect({"path": "/no/such/file", "inode": 1, "size_bytes": 64})
    with pytest.raises(SyncError, match=rf"{__file__} is not on this node"):  # another file that has the same path here
        receiver.connect({"path": __file__, "inode": os.stat(__file__).st_ino + 1, "size_bytes": 64})
    source = Fixed({"a": torch.ones(2)})
    sender = transport.load("shm").sender(Link(0, source, DirectControl([]), workers=1))
    sender.connect()
    source.tensors["a"] = torch.ones(3)
    with pytest.raises(SyncError, match=r"a is torch.float32 \(3,\), but was declared torch.float32 \(2,\)"):
        sender.send()


KILLED = """
import os, signal
from actors.weights.shm import allocated, map_file
with allocated(1 << 20) as path:
    map_file(path, 1 << 20).zero_()
    print(path, path.stat().st_ino, path.resolve(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_stays_of_a_sender_that_is_killed_while_it_connects() -> None:
    """The file has never had a name."""
    told = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert told.returncode == -signal.SIGKILL, told.stderr
    path, inode, where = told.stdout.split(maxsplit=2)
    assert path.startswith("/proc/")
    assert where.strip().endswith("(deleted)")
    assert int(inode) not in {entry.inode() for entry in os.scandir("/dev/shm")}


def test_no_half_outside_an_engine_loads_vllm() -> None:
    """Importing vLLM takes 7 s of CPU time; the learner, and a reference on a CPU, do without it."""
    code = """
import sys
from actors.learner import rank
from actors.reference import actor
from actors.weights import ipc, nccl, ray_control, received_policy, sender, shm, source
print("vllm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "False"


def test_ipc_chunks_hold_whole_tensors_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer of 40 bytes; tensors of 16, 20, 8 and 40 bytes: (16 + 20), (8), (40). What was shipped is bit for bit what was given."""
    sender: Any = object.__new__(StagedIpcSender)
    sender._buffer_bytes = 40
    sender._staging = torch.zeros(40, dtype=torch.uint8)
    shipped: list[tuple[list[str], bytes]] = []

    def ship(chunk: list[PackedTensor]) -> None:
        size = sum(packed.size_bytes for packed in chunk)
        shipped.append(([packed.name for packed in chunk], sender._staging[:size].numpy().tobytes()))

    monkeypatch.setattr(sender, "_ship", ship)
    tensors = {"a": torch.randn(2, 2), "b": torch.randn(10, dtype=torch.bfloat16), "c": torch.randn(1).double(), "d": torch.randn(5, 2)}
    sender._send_packed(list(tensors.items()))
    assert [names for names, _ in shipped] == [["a", "b"], ["c"], ["d"]]
    assert b"".join(raw for _, raw in shipped) == b"".join(t.view(-1).view(torch.uint8).numpy().tobytes() for t in tensors.values())

"""What a transport is: one way for weights to travel from the learner to the copies of the policy.

A new transport is one file in this folder, plus its name among the values of ``sync.transport`` in ``raypref.sections``. The file is called
like the transport and defines ``TRANSPORT``. One sync, as the sender on the learner's first rank drives it (``control`` reaches every
receiver and waits for all of them):

    sender.connect()                                   control.init_weight_transfer_engine(info)   -> receiver.connect(info)
    sender.send()                                      control.start_weight_update()               -> receiver.begin()
                                                       control.update_weights(info), repeatedly    -> receiver.update(info)
                                                       control.finish_weight_update()              -> receiver.finish()

A sender looks for no errors of its receivers. When one fails, or does not answer in time, ``control`` remembers it as its ``failure`` and
its later calls do nothing: the sender goes on as before, so that all ranks read their source to its end, which may be a collective.
``WeightSender`` then raises the failure. The next sync connects again.

The references call their receiver directly. In an engine vLLM calls it, through ``actors.weights.vllm_adapters``.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from raypref.errors import ConfigError, SyncError
from raypref.sections import SyncConfig

if TYPE_CHECKING:
    import torch

    from actors.weights.source import WeightSource

BUFFER_BYTES = 1 << 30
"""Size of a buffer that tensors are packed into, unless one tensor is larger."""

BROKEN_OFF = "the transfer was broken off"
"""A receiver's error with these words is a consequence of another receiver's."""


class Control(Protocol):
    """The sender's calls to the receivers, under vLLM's names. Each reaches every receiver and returns when all have answered, or one has
    failed, or the time is over. After a failure they return at once."""

    @property
    def failure(self) -> SyncError | None:
        """What ended the sync; None as long as nothing did."""
        ...

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connect. A ``rank`` and a ``receiver`` in ``init_info`` are replaced by each receiver's first rank in the transfer group, in
        which the sender is rank 0, and by its name."""
        ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


class LoadsWeights(Protocol):
    """A model that weights are loaded into."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Link:
    """What a sender is built from, on one learner rank."""

    rank: int
    """Of the learner; rank 0 sends."""
    source: WeightSource
    control: Control
    """Called on rank 0 alone."""
    workers: int
    """Processes that receive: the tensor-parallel workers of every engine, and the references."""


class Sender(ABC):
    """The sending half. Every learner rank has one, and all ranks call it at the same time: reading the source may be a collective."""

    @abstractmethod
    def connect(self) -> None:
        """Reach every receiver; called on the learner's first rank alone, before the first ``send`` and again after a failure."""

    @abstractmethod
    def send(self) -> None:
        """Bring what the source gives to every receiver, with the calls of ``Control`` around it. Always reads the source to its end."""

    def where(self, receiver: str) -> str:
        """How far a receiver of that name has got, for the message of an error; empty where the transport does not know."""
        return ""

    def break_off(self, reason: str) -> None:  # noqa: B027
        """A receiver has failed: release those that wait for it, and this sender. Called on another thread than ``send``."""

    @abstractmethod
    def close(self) -> None:
        """Free buffers and leave process groups."""


class Receiver(ABC):
    """The receiving half, around one model. ``update`` ends in calls of the model's ``load_weights``."""

    @abstractmethod
    def connect(self, info: Mapping[str, Any]) -> None:
        """Get ready to receive from the sender that ``info`` describes; again after a sync that failed."""

    def begin(self) -> None:  # noqa: B027  most transports have nothing to do here
        """A sync starts."""

    @abstractmethod
    def update(self, info: Mapping[str, Any]) -> None:
        """Load the tensors that ``info`` describes."""

    def finish(self) -> None:  # noqa: B027
        """The sync has ended: everything has been sent."""

    @abstractmethod
    def close(self) -> None:
        """Free buffers and leave process groups."""


class Relay:
    """Between the sender's messages to an engine and the engine's workers; this one changes nothing.

    An engine with several workers has a process for each, none of them a Ray actor: what only an actor can read is made readable here.
    """

    @contextlib.contextmanager
    def connecting(self, info: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """In the block the workers connect; yields what they are told in place of ``info``."""
        yield info

    def updated(self, info: dict[str, Any]) -> dict[str, Any]:
        """What the workers are told in place of ``info``. It holds until they have answered."""
        return info


class Transport(ABC):
    """One way for weights to travel; a value of ``sync.transport``."""

    name: ClassVar[str]
    one_node: ClassVar[bool] = False
    """Whether the learner and every receiver must be on one node."""
    own_network: ClassVar[bool] = False
    """Whether the sender and the receivers connect with each other by themselves; the nodes are then tried before models are loaded."""

    @abstractmethod
    def fits(self, device: str, layout: str) -> bool:
        """Whether it connects roles on ``device`` (``cpu`` or ``cuda``) in ``layout`` (``placement.layout``)."""

    @abstractmethod
    def sender(self, link: Link) -> Sender:
        """Build this rank's sending half."""

    @abstractmethod
    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        """Build the receiving half around a model on ``device``."""

    def relay(self, workers: int) -> Relay:
        """What passes the sender's messages on to the ``workers`` of an engine, in the engine's own process."""
        return Relay()

    def register(self) -> str:
        """Make the transport known to vLLM in this process, where an engine will receive; the name that vLLM knows it by. Override it for
        one whose receiving half is vLLM's."""
        from actors.weights.vllm_adapters import register

        return register(self)


def names() -> list[str]:
    """The transports that the config can name, in the order in which ``auto`` tries them."""
    return [name for name in get_args(SyncConfig.model_fields["transport"].annotation) if name != "auto"]


def load(name: str) -> Transport:
    """The transport of that name; its module is imported here.

    Raises:
        ValueError: there is none.
    """
    if name not in names():
        raise ValueError(f"sync.transport: no transport is called {name!r}; known: {', '.join(names())}")
    transport: Transport = importlib.import_module(f"actors.weights.{name}").TRANSPORT
    return transport


def choose(asked: str, device: Literal["cuda", "cpu"], layout: str, nodes: int = 1) -> Transport:
    """The transport that ``sync.transport`` names; for ``auto`` the first that fits.

    Args:
        nodes: how many nodes the learner and the receivers are on; 1 where that is not known yet.

    Raises:
        ConfigError: it cannot connect these roles.
    """
    fitting = [way for way in map(load, names()) if way.fits(device, layout) and not (way.one_node and nodes > 1)]
    if asked == "auto":
        return fitting[0]
    for transport in fitting:
        if transport.name == asked:
            return transport
    where = ("on a CPU" if device == "cpu" else f"between {layout} GPUs") + (f", on {nodes} nodes" if nodes > 1 else "")
    raise ConfigError(f"sync.transport: {asked} does not work {where}; use auto, which takes {fitting[0].name} there")


def buffer_bytes(source: WeightSource) -> int:
    """Size of a packing buffer: ``BUFFER_BYTES``, or the largest tensor, since a tensor is never split."""
    largest = max(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in source.metadata())
    return max(BUFFER_BYTES, largest)

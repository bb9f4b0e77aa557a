"""What a transport is: one way for weights to travel from the learner to the copies of the policy.

A new transport is one file in this folder, plus its name among the values of ``sync.transport`` in ``raypref.sections``. The file is called
like the transport and defines ``TRANSPORT``. One sync, as the sender on the learner's first rank drives it (``control`` reaches every
receiver and waits for all of them):

    sender = transport.sender(link)                    control.init_weight_transfer_engine(info)   -> receiver.connect(info)
    sender.send()                                      control.start_weight_update()               -> receiver.begin()
                                                       control.update_weights(info), repeatedly    -> receiver.update(info)
                                                       control.finish_weight_update()              -> receiver.finish()

The references call their receiver directly. In an engine vLLM calls it, through ``actors.weights.vllm_adapters``.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from raypref.errors import ConfigError
from raypref.sections import SyncConfig

if TYPE_CHECKING:
    import torch

    from actors.weights.source import WeightSource

BUFFER_BYTES = 1 << 30
"""Size of a buffer that tensors are packed into, unless one tensor is larger."""


class Control(Protocol):
    """The sender's calls to the receivers, under vLLM's names. Each reaches every receiver and returns when all have answered."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connect. A ``rank_offset`` in ``init_info`` is replaced by each receiver's first rank in the transfer group."""
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
    def send(self) -> None:
        """Bring what the source gives to every receiver, with the calls of ``Control`` around it."""

    @abstractmethod
    def close(self) -> None:
        """Free buffers and leave process groups."""


class Receiver(ABC):
    """The receiving half, around one model. ``update`` ends in calls of the model's ``load_weights``."""

    @abstractmethod
    def connect(self, info: Mapping[str, Any]) -> None:
        """Get ready to receive from the sender that ``info`` describes."""

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
        """Build this rank's sending half and connect with the receivers."""

    @abstractmethod
    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        """Build the receiving half around a model on ``device``."""

    def register(self) -> None:
        """Make the transport known to vLLM in this process, where an engine will receive. Override it for one that vLLM has already."""
        from actors.weights.vllm_adapters import register

        register(self)


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


def choose(asked: str, device: Literal["cuda", "cpu"], layout: str) -> Transport:
    """The transport that ``sync.transport`` names; for ``auto`` the first that fits.

    Raises:
        ConfigError: it cannot connect these roles.
    """
    fitting = [transport for transport in map(load, names()) if transport.fits(device, layout)]
    if asked == "auto":
        return fitting[0]
    for transport in fitting:
        if transport.name == asked:
            return transport
    where = "on a CPU" if device == "cpu" else f"between {layout} GPUs"
    raise ConfigError(f"sync.transport: {asked} does not work {where}; use auto, which takes {fitting[0].name} there")


def buffer_bytes(source: WeightSource) -> int:
    """Size of a packing buffer: ``BUFFER_BYTES``, or the largest tensor, since a tensor is never split."""
    largest = max(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in source.metadata())
    return max(BUFFER_BYTES, largest)

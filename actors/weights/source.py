"""The learner's weights as senders read them: gathered, merged, under the checkpoint's names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from actors.policy_model import stored_buffers, without_weights
from actors.weights.adapters import adapted_layers, factors, merged, module_name
from actors.weights.checksums import ChecksumThread
from actors.weights.stored_form import stored_form
from raypref.plan.learner_memory import GATHER_ELEMENTS
from raypref.sections import PolicyConfig
from raypref.training.packing import unwrapped


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor before its values are."""

    name: str
    """In the checkpoint."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Of the whole tensor, also where ZeRO-3 has partitioned it."""


class WeightSource(ABC):
    """Weights that can be read again and again; has what vLLM's senders ask of a source."""

    complete = True
    """Whether the next passes, and ``metadata``, cover every weight; a source may ignore that they need not."""

    @abstractmethod
    def metadata(self) -> list[TensorInfo]:
        """Every tensor of the next pass, in the order of iteration."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """One pass: (name, whole tensor)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of the training module that is sent."""

    name: str
    """In the module, without an adapter around it."""
    parts: tuple[Tensor, ...]
    """What it is computed from and must be gathered: the weight, and the adapter's factors; or a buffer."""
    compute: Callable[[], Tensor]
    unit: str
    """Entries of one unit are sent together or not at all: an engine loads them so."""

    @property
    def trained(self) -> bool:
        return any(part.requires_grad for part in self.parts)


class DeepSpeedSource(WeightSource):
    """The weights of a model that DeepSpeed may have partitioned and peft may have wrapped.

    - Names and tensors are those of the Hugging Face checkpoint (``actors.weights.stored_form``); a parameter that two modules share (tied
      embeddings) comes once. The buffers that a checkpoint stores come, too: an engine starts with random ones.
    - Under ZeRO-3 all ranks must iterate at the same time: they gather each bucket of parameters together.
    - With a LoRA adapter the weights are W + scale B A; the training module is not changed.
    - ``complete = False`` leaves out what training never changes. An engine fuses neighbouring linear layers (query, key and value; gate
      and up), and reloads a fused layer whole or not at all: where one of them is trained, its neighbours come, too.
    """

    def __init__(self, module: nn.Module, *, dtype: torch.dtype | None = None, bucket_elements: int | None = None) -> None:
        """
        Args:
            module: the model inside the training engine: ``engine.module``.
            dtype: of what is sent; default: the dtype of each tensor.
            bucket_elements: elements gathered at once under ZeRO-3; default: ``GATHER_ELEMENTS`` of the module's device.

        Raises:
            ConfigError: the checkpoint stores a tensor in a form that is no part of one tensor of the module, only one of two layers
                that share a weight has an adapter, or an adapter is on experts.
        """
        self._dtype = dtype
        self.device = next(module.parameters()).device
        self._bucket_elements = bucket_elements or GATHER_ELEMENTS.get(self.device.type, 0)
        self._entries = _entries(module)
        self._stored = stored_form(unwrapped(module), {entry.name: _shape(entry.parts[0]) for entry in self._entries})
        changing = {entry.unit for entry in self._entries if entry.trained}
        self._changing = [entry for entry in self._entries if entry.unit in changing]

    def metadata(self) -> list[TensorInfo]:
        """Every tensor of the next pass, in the order of iteration; gathers nothing."""
        return [
            TensorInfo(stored.name, self._dtype or entry.parts[0].dtype, stored.shape)
            for entry in self._chosen
            for stored in self._stored[entry.name]
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """One pass: (name, whole tensor). A tensor may share memory with its parameter: read it before the next step."""
        for bucket in _buckets(self._chosen, self._bucket_elements):
            with torch.no_grad(), gathered([part for entry in bucket for part in entry.parts]):
                for entry in bucket:
                    whole = entry.compute().to(entry.parts[0].dtype)
                    for stored in self._stored[entry.name]:
                        yield stored.name, stored.of(whole).to(self._dtype or whole.dtype).contiguous()
                    del whole  # else it would outlive its bucket

    @property
    def _chosen(self) -> list[_Entry]:
        return self._entries if self.complete else self._changing


def check_sendable(policy: PolicyConfig) -> None:
    """Refuse a policy whose weights cannot be sent as its checkpoint stores them; the model is built without its weights.

    Raises:
        ConfigError: as ``DeepSpeedSource`` raises it, or the adapter does not fit the model.
    """
    DeepSpeedSource(without_weights(policy))


def _entries(module: nn.Module) -> list[_Entry]:
    """Everything that a complete pass sends. ``named_parameters`` yields a shared parameter once."""
    adapted = adapted_layers(module)
    linear = {module_name(name) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    entries = []
    for key, parameter in module.named_parameters():
        if ".lora_" in key:
            continue
        name, layer = module_name(key), adapted.get(id(parameter))
        layer_name = name.rpartition(".")[0]
        unit = f"{layer_name.rpartition('.')[0]}.*" if layer_name in linear else layer_name
        if layer is None:
            entries.append(_Entry(name, (parameter,), parameter.detach, unit))
        else:
            entries.append(_Entry(name, (parameter, *factors(layer)), partial(merged, parameter, layer), unit))
    for key, buffer in stored_buffers(module).items():
        name = module_name(key)
        entries.append(_Entry(name, (buffer,), buffer.detach, name.rpartition(".")[0]))
    return entries


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """The whole shape, also of a parameter that ZeRO-3 has partitioned."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def _buckets(entries: list[_Entry], elements: int) -> list[list[_Entry]]:
    buckets: list[list[_Entry]] = [[]]
    filled = 0
    for entry in entries:
        size = sum(torch.Size(_shape(part)).numel() for part in entry.parts)
        if filled + size > elements and buckets[-1]:
            buckets.append([])
            filled = 0
        buckets[-1].append(entry)
        filled += size
    return buckets


def gathered(tensors: list[Tensor]) -> AbstractContextManager[None]:
    """In the block the tensors that ZeRO-3 has partitioned are whole on every rank."""
    partitioned = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
    if not partitioned:
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    return GatheredParameters(partitioned, modifier_rank=None)


class RecordingSource(WeightSource):
    """Passes a source's weights on and remembers the checksum of each tensor as it was last sent."""

    def __init__(self, source: WeightSource, *, active: bool) -> None:
        """
        Args:
            source: where the weights come from.
            active: False on a rank that does not send, whose checksums nobody needs.
        """
        self._source = source
        self._active = active
        self._sums: dict[str, Future[Tensor]] = {}
        self._thread = ChecksumThread()

    def metadata(self) -> list[TensorInfo]:
        return self._source.metadata()

    def choose(self, *, complete: bool) -> None:
        """Set what the next pass gives: every weight, or only those that training changes."""
        self._source.complete = complete
        if complete:
            self._sums = {}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._source:
            if self._active:
                self._sums[name] = self._thread.start(tensor)
            yield name, tensor

    def checksums(self) -> dict[str, int]:
        """Parameter name -> checksum, of all that was sent since the last complete pass began. The weights may change once this returns."""
        self._thread.wait()
        return {name: int(value.result()) for name, value in self._sums.items()}

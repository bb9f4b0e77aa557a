"""pi_t in a reference replica: a transformers model that weight sync loads into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from actors.policy_model import stored_buffers
from actors.weights import transport
from actors.weights.checksums import ReceivedChecksums
from actors.weights.stored_form import stored_form
from raypref.errors import SyncError
from raypref.roles import Audience
from raypref.types import Example


class ReceivedPolicy:
    """pi_t, its version, and the way its weights come.

    Weights for the engines alone pass by: they are received, since a transfer may need every receiver, and discarded.
    """

    def __init__(self, model: nn.Module, device: torch.device, transport_name: str) -> None:
        self.model = model
        self.version: int | None = None
        """Which policy is held; None before the first sync and during one."""
        self._tensors = ModelTensors(model)
        self.checksums = ReceivedChecksums(self._tensors)
        self.receiver = transport.load(transport_name).receiver(self._tensors, device)
        self._identity: str | None = None

    def begin(self, audience: Audience, complete: bool) -> None:
        """A sync starts; see ``Engine.start_weight_update`` for the arguments."""
        keep = audience == "all"
        if keep:
            self.version = self._identity = None
        elif self.version is not None:
            self.identity()  # the checksums are those of other weights soon
        self._tensors.keep = keep
        if complete:
            self._tensors.arrived.clear()
        self.checksums.begin(complete=complete)
        self.receiver.begin()

    def finish(self) -> None:
        """The sync has ended.

        Raises:
            SyncError: a tensor did not arrive, in this sync or in one before.
        """
        self.receiver.finish()
        self._tensors.check_complete()

    def take_version(self, version: int) -> None:
        """Name the weights that have arrived, unless they were discarded."""
        if self._tensors.keep:
            self.version = version

    def identity(self) -> str:
        """A hash of the weights that are held as pi_t."""
        if self._identity is None:
            checksums = repr(sorted(self.checksums.values().items()))
            self._identity = hashlib.blake2b(checksums.encode(), digest_size=16).hexdigest()
        return self._identity

    def check(self, example: Example) -> None:
        """Refuse an example that another policy sampled; given data belongs to whatever pi_t is.

        Raises:
            SyncError: the example's policy is not the one held here.
        """
        if self.version is None or example.policy_version not in (None, self.version):
            raise SyncError(
                f"prompt {example.prompt_id!r} was sampled by policy version {example.policy_version}; the reference holds "
                f"{'no pi_t yet' if self.version is None else f'version {self.version}'}"
            )


class ModelTensors:
    """What a checkpoint stores of a transformers model, by name: views of its parameters and buffers, which weights are loaded into."""

    def __init__(self, model: nn.Module) -> None:
        whole: dict[str, Tensor] = dict(model.named_parameters()) | stored_buffers(model)
        form = stored_form(model, {name: tuple(tensor.shape) for name, tensor in whole.items()})
        self.tensors = {stored.name: stored.of(whole[name].detach()) for name, parts in form.items() for stored in parts}
        self.arrived: set[str] = set()
        """Names received since the last complete sync began."""
        self.keep = True
        """Whether what arrives replaces the model's tensors, or is discarded."""

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy each tensor to its place.

        Raises:
            SyncError: the model has no such tensor, or one of another shape.
        """
        for name, tensor in weights:
            if name not in self.tensors or self.tensors[name].shape != tensor.shape:
                raise SyncError(f"sync: {name} {tuple(tensor.shape)} is no parameter of the reference model")
            if self.keep:
                self.tensors[name].copy_(tensor)
            self.arrived.add(name)

    def check_complete(self) -> None:
        """Raises ``SyncError`` when a tensor has never arrived."""
        if missing := sorted(self.tensors.keys() - self.arrived):
            raise SyncError(f"sync: {len(missing)} of {len(self.tensors)} parameters did not arrive, {missing[0]} the first")

"""What a copy of the policy was sent: checksums of the tensors as they reach the model.

Every transport ends in the model's ``load_weights``; engines fuse and repack the tensors behind it. That call is where they are hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

import actors.weights.shm  # noqa: F401  a spawned worker imports this module: the transport is registered there, too
from actors.weights.checksums import checksum


class ReceivedWeights:
    """Records the checksum of each tensor as the model last loaded it."""

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: a module; its ``load_weights(weights)`` is replaced by one that records and then calls it.
        """
        self._sums: dict[str, Tensor] = {}
        load = model.load_weights

        def recorded(weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
            return load(self._record(weights), *args, **kwargs)

        model.load_weights = recorded

    def begin(self, *, complete: bool) -> None:
        """A sync starts: of every tensor, so that what came before is forgotten, or of some, so that the others stay as they are."""
        if complete:
            self._sums.clear()

    def checksums(self) -> dict[str, int]:
        """Parameter name -> checksum, of all that was loaded since the last complete sync began."""
        return {name: int(value) for name, value in self._sums.items()}

    def _record(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self._sums[name] = checksum(tensor)
            yield name, tensor


class WorkerExtension:
    """Methods that vLLM adds to each of its workers (``worker_extension_cls``); called by ``collective_rpc``."""

    raypref_weights: ReceivedWeights | None = None

    def raypref_begin_sync(self, complete: bool) -> None:
        """A weight update starts, of every tensor or of some: record it from its beginning."""
        if self.raypref_weights is None:
            self.raypref_weights = ReceivedWeights(self.get_model())  # type: ignore[attr-defined]
        self.raypref_weights.begin(complete=complete)

    def raypref_received(self) -> dict[str, int]:
        """Checksums of the tensors that this worker holds, as it last received each."""
        return {} if self.raypref_weights is None else self.raypref_weights.checksums()

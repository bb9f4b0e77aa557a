"""What a copy of the policy was sent: checksums of the tensors as they reach the model.

Every transport ends in the model's ``load_weights``; engines fuse and repack the tensors behind it. That call is where they are hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

import actors.transport_shm  # noqa: F401  a spawned worker imports this module: the transport is registered there, too
from actors.checksums import checksum


class ReceivedWeights:
    """Records the checksums of what a model loads from now on."""

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

    def begin(self) -> None:
        """Forget what came before: a new sync starts."""
        self._sums.clear()

    def checksums(self) -> dict[str, int]:
        """Parameter name -> checksum, of the last sync."""
        return {name: int(value) for name, value in self._sums.items()}

    def _record(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self._sums[name] = checksum(tensor)
            yield name, tensor


class WorkerExtension:
    """Methods that vLLM adds to each of its workers (``worker_extension_cls``); called by ``collective_rpc``."""

    raypref_weights: ReceivedWeights | None = None

    def raypref_begin_sync(self) -> None:
        """A weight update starts: record it from its beginning."""
        if self.raypref_weights is None:
            self.raypref_weights = ReceivedWeights(self.get_model())  # type: ignore[attr-defined]
        self.raypref_weights.begin()

    def raypref_received(self) -> dict[str, int]:
        """Checksums of the last sync's tensors as this worker received them."""
        return {} if self.raypref_weights is None else self.raypref_weights.checksums()

"""What raypref adds to each of vLLM's workers.

vLLM imports this module in every worker, spawned tensor-parallel ones included, so this is also where the transports become known there.
"""

from __future__ import annotations

from actors.weights import transport
from actors.weights.checksums import ReceivedChecksums


class WorkerExtension:
    """Methods that vLLM adds to its workers (``worker_extension_cls``); called by ``collective_rpc``."""

    raypref_checksums: ReceivedChecksums | None = None

    def raypref_begin_sync(self, complete: bool) -> None:
        """A weight sync starts, of every tensor or of some: record it from its beginning."""
        if self.raypref_checksums is None:
            self.raypref_checksums = ReceivedChecksums(self.get_model())  # type: ignore[attr-defined]
        self.raypref_checksums.begin(complete=complete)

    def raypref_received(self) -> dict[str, int]:
        """Checksums of the tensors that this worker holds, as it last received each."""
        return {} if self.raypref_checksums is None else self.raypref_checksums.values()


for _name in transport.names():
    transport.load(_name).register()

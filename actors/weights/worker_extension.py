"""What raypref adds to each of vLLM's workers.

vLLM imports this module in every worker, spawned tensor-parallel ones included, so this is also where the transports become known there.
"""

from __future__ import annotations

import traceback
from typing import Any

from actors.weights import transport
from actors.weights.checksums import ReceivedChecksums
from raypref.errors import SyncError


class WorkerExtension:
    """Methods that vLLM adds to its workers (``worker_extension_cls``); called by ``collective_rpc``."""

    raypref_checksums: ReceivedChecksums | None = None

    def raypref_begin_sync(self, complete: bool) -> None:
        """A weight sync starts, of every tensor or of some: record it from its beginning. One that was broken off is forgotten."""
        from vllm.config import set_current_vllm_config

        from actors.weights.vllm_adapters import abandon_update

        worker: Any = self
        with set_current_vllm_config(worker.vllm_config):
            abandon_update(worker.get_model(), worker.model_config)
        worker._weight_update_active = False
        if self.raypref_checksums is None:
            self.raypref_checksums = ReceivedChecksums(worker.get_model())
        self.raypref_checksums.begin(complete=complete)

    def raypref_try(self, method: str, **arguments: Any) -> tuple[str, str] | None:
        """Call a method of the worker; its error, if it raises one, as message and traceback.

        After an error vLLM reads no answers of further workers, and takes them for those to its next call. An exception that a method
        returns is an error to vLLM, too; hence the text.
        """
        try:
            getattr(self, method)(**arguments)
        except Exception as error:  # noqa: BLE001  raised in the engine's process
            return str(error) if isinstance(error, SyncError) else f"{type(error).__name__}: {error}", traceback.format_exc()
        return None

    def raypref_received(self) -> dict[str, int]:
        """Checksums of the tensors that this worker holds, as it last received each."""
        return {} if self.raypref_checksums is None else self.raypref_checksums.values()


for _name in transport.names():
    transport.load(_name).register()

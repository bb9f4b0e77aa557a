"""One element, summed by NCCL or gloo over processes on several nodes: the last check of a network before models are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from actors.cluster import network
from actors.cluster.store import listening_store

if TYPE_CHECKING:
    from torch.distributed import TCPStore

Backend = Literal["nccl", "gloo"]


class CollectiveProbe:
    """One process of the sum. A plain class; Ray runs one on each node that takes part, with a GPU for NCCL."""

    def __init__(self, given: Mapping[str, str], backend: Backend, node_address: str) -> None:
        """
        Args:
            given: the driver's settings of NCCL and gloo.
            backend: what adds.
            node_address: this node's address in Ray.
        """
        network.adopt(given)
        network.name_gloo_interface(node_address)
        self._backend = backend
        self._address = node_address
        self._store: TCPStore | None = None

    def listen(self, timeout_s: float) -> int:
        """The first process: open the store in which the processes meet; its port."""
        self._store = listening_store(self._address, timedelta(seconds=timeout_s))
        return int(self._store.port)

    def total(self, host: str, port: int, rank: int, world_size: int, timeout_s: float) -> float:
        """Meet the other processes in the first one's store and add 1 from each: the number of processes."""
        import torch
        from torch import distributed as dist

        timeout = timedelta(seconds=timeout_s)
        device = torch.device("cuda", 0) if self._backend == "nccl" else torch.device("cpu")
        store = self._store or dist.TCPStore(host, port, None, False, timeout=timeout, wait_for_workers=False)
        bound = device if device.type == "cuda" else None
        dist.init_process_group(self._backend, store=store, rank=rank, world_size=world_size, timeout=timeout, device_id=bound)
        one = torch.ones(1, device=device)
        dist.all_reduce(one)
        total = float(one.item())
        dist.destroy_process_group()
        return total

"""The store in which the processes of a group meet. Whoever reaches it can read and change it, so it is open to the run's network alone."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING

from actors.cluster.network import interface_of

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LOOPBACK = "127.0.0.1"
_WAITING = 1024
"""Connections that the kernel holds until they are accepted."""


def meeting_address() -> str:
    """The address at which the run's other processes reach this one: the node's address in Ray, on a cluster of one node the loopback's."""
    import ray
    import ray.util

    nodes = sum(entry["Alive"] for entry in ray.nodes())
    return str(ray.util.get_node_ip_address()) if nodes > 1 else LOOPBACK


def listening_store(address: str, timeout: timedelta) -> TCPStore:
    """A store that accepts connections to ``address`` only, at a port that the kernel picks. torch alone would take them at every one.

    Behind a translation of addresses, where no interface has ``address``, it accepts them at every address, too.

    Args:
        timeout: of the store's calls.
    """
    from torch.distributed import TCPStore

    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((address if interface_of(address) is not None else "", 0))
    listener.listen(_WAITING)
    port = listener.getsockname()[1]
    return TCPStore(address, port, None, True, timeout=timeout, wait_for_workers=False, master_listen_fd=listener.detach())

"""The store in which a group meets is reached at one address of the machine, and at no other."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from actors.cluster.network import interfaces
from actors.cluster.store import listening_store

LIMIT = timedelta(seconds=10)


def reachable(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("address", sorted(address for address in interfaces().values() if ":" not in address))
def test_a_store_accepts_connections_to_its_own_address_only(address: str) -> None:
    """At every address of this machine; 127.0.0.2 is one that Linux has without naming it."""
    store = listening_store(address, LIMIT)
    others = {"127.0.0.1", "127.0.0.2", *interfaces().values()} - {address}
    assert reachable(address, store.port)
    assert {other for other in others if reachable(other, store.port)} == set()
    store.set("key", "value")
    member = TCPStore(address, store.port, None, False, timeout=LIMIT, wait_for_workers=False)
    assert member.get("key") == b"value"


def test_behind_a_translation_of_addresses_a_store_listens_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """No interface has the address by which others know the machine, so nothing could be bound to it."""
    monkeypatch.setattr("actors.cluster.store.interface_of", lambda address: None)
    store = listening_store("127.0.0.1", LIMIT)
    assert reachable("127.0.0.1", store.port)
    assert reachable("127.0.0.2", store.port)

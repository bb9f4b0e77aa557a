"""Messages between nodes: what one node does of the check. Without Ray.

probe = Probe(settings)                            # on each node
endpoints = probe.open("cpu", node_address)        # the addresses at which other nodes must reach this one
failures = other.reach(endpoints, timeout_s=30)    # on another node: which of them it cannot reach, and why
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from actors.cluster.network import adopt, interface_of, interface_setting, matching_interfaces

_MESSAGE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address at which a node accepts connections."""

    address: str
    port: int
    interface: str
    """``eth0``; empty where no interface has the address, as behind a translation of addresses."""
    bound: bool
    """Whether connections come from the interface of the same purpose on the other node, as gloo makes them."""

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" + (f" on interface {self.interface}" if self.interface else "")


class Probe:
    """Accepts messages on one node and sends messages to others. A plain class; Ray runs one on each node of a run."""

    def __init__(self, given: Mapping[str, str]) -> None:
        """
        Args:
            given: the driver's settings.
        """
        adopt(given)
        self._source: str | None = None
        self._listeners: list[socket.socket] = []

    def open(self, device: Literal["cuda", "cpu"], node_address: str) -> list[Endpoint]:
        """Accept connections where other nodes must reach this one: at its address in Ray, where the rendezvous listens, and at the address
        of the interface that the learner ranks will use, if that is another one.

        Raises:
            NoInterface: the setting names none of this node's.
        """
        variable = interface_setting(device)
        if not os.environ.get(variable):
            found = {interface_of(node_address) or "": node_address}
        else:
            found = matching_interfaces(variable, os.environ[variable])
        interface, address = next(iter(found.items()))
        if device == "cpu" and interface:
            self._source = address
        everywhere = "::" if ":" in node_address else ""
        endpoints = [Endpoint(node_address, self._listen(everywhere), interface_of(node_address) or "", bound=False)]
        if address != node_address:
            endpoints.append(Endpoint(address, self._listen(address), interface, bound=True))
        return endpoints

    def reach(self, endpoints: Sequence[Endpoint], timeout_s: float) -> dict[Endpoint, str]:
        """Exchange a message with each endpoint, all at the same time.

        Args:
            endpoints: of other nodes.
            timeout_s: longest wait for each.

        Returns:
            The endpoints with which it failed, and why.
        """
        if not endpoints:
            return {}
        with ThreadPoolExecutor(max_workers=len(endpoints)) as threads:
            reasons = threads.map(lambda endpoint: self._failure(endpoint, timeout_s), endpoints)
            return {endpoint: reason for endpoint, reason in zip(endpoints, reasons, strict=True) if reason is not None}

    def close(self) -> None:
        """Stop to accept connections."""
        for listener in self._listeners:
            listener.close()

    def _failure(self, endpoint: Endpoint, timeout_s: float) -> str | None:
        message, deadline = secrets.token_bytes(_MESSAGE_BYTES), time.monotonic() + timeout_s
        source = (self._source, 0) if endpoint.bound and self._source else None
        try:
            with socket.create_connection((endpoint.address, endpoint.port), timeout=timeout_s, source_address=source) as connection:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                connection.sendall(message)
                if (answer := _received(connection)) != message:
                    return "another program answered" if answer else "the connection was closed without an answer"
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _listen(self, address: str) -> int:
        """Answer every message with itself, in threads that end with the process; the port, which the kernel picks."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, 0), family=family, backlog=512)
        self._listeners.append(listener)
        threading.Thread(target=_answer_all, args=(listener,), daemon=True, name="probe").start()
        return int(listener.getsockname()[1])


def _answer_all(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True, name="probe").start()


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):  # the other side says what went wrong
        connection.sendall(_received(connection))


def _received(connection: socket.socket) -> bytes:
    parts = b""
    while len(parts) < _MESSAGE_BYTES and (part := connection.recv(_MESSAGE_BYTES - len(parts))):
        parts += part
    return parts

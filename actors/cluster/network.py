"""The settings of NCCL and gloo, and the interfaces of one node that they name. Without Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

_PREFIXES = ("NCCL_", "GLOO_")
_INTERFACE_SETTING = {"cpu": "GLOO_SOCKET_IFNAME", "cuda": "NCCL_SOCKET_IFNAME"}


def settings() -> dict[str, str]:
    """The NCCL_* and GLOO_* variables of this process' environment."""
    return {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}


def adopt(given: Mapping[str, str]) -> None:
    """Put the driver's settings into this process' environment, for NCCL and gloo to read when they connect.

    A variable that the node sets itself stays: what an interface is called may differ from node to node.
    """
    for name, value in given.items():
        os.environ.setdefault(name, value)


def name_gloo_interface(address: str) -> None:
    """Have gloo use the interface of an address, unless GLOO_SOCKET_IFNAME is set.

    Without the variable gloo takes the address of the host's name. On many machines that is 127.0.0.1, to which other nodes cannot connect;
    on others it is one at which other machines can.

    Args:
        address: the node's in Ray, or the loopback's where the run is on one node.
    """
    if (interface := interface_of(address)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_setting(device: str) -> str:
    """The variable that names the interface between learner ranks: they use gloo on a CPU, NCCL on GPUs."""
    return _INTERFACE_SETTING[device]


class NoInterface(ValueError):
    """A setting names no interface of this node; the message says which there are."""


def matching_interfaces(variable: str, value: str) -> dict[str, str]:
    """The interfaces that a setting names, with an address of each.

    gloo takes full names, separated by commas. NCCL takes beginnings of names; ``=`` before the list asks for full names, ``^`` for all
    others.

    Raises:
        NoInterface: there is none.
    """
    present = interfaces()
    others = variable.startswith("NCCL") and value.startswith("^")
    exact = not variable.startswith("NCCL") or value.lstrip("^").startswith("=")
    names = [name for name in value.lstrip("^=").split(",") if name]
    named = {name for name in present if any(name == wanted if exact else name.startswith(wanted) for wanted in names)}
    found = {name: address for name, address in present.items() if (name in named) != others}
    if others:
        found = {name: address for name, address in found.items() if not name.startswith(("lo", "docker"))}
    if not found:
        have = ", ".join(f"{name} {address}" for name, address in present.items())
        raise NoInterface(f"{variable}={value} names no interface there; the node has {have}")
    return found


def interfaces() -> dict[str, str]:
    """The node's interfaces that have an address: name -> the first one, of IPv4 if there is one."""
    import psutil

    found: dict[str, str] = {}
    for family in (socket.AF_INET6, socket.AF_INET):
        for name, addresses in psutil.net_if_addrs().items():
            of_family = [entry.address for entry in addresses if entry.family == family]
            found |= {name: of_family[0]} if of_family else {}
    return found


def interface_of(address: str) -> str | None:
    """The interface that has this address; None behind a translation of addresses."""
    import psutil

    return next((name for name, entries in psutil.net_if_addrs().items() if any(entry.address == address for entry in entries)), None)

"""The network between the nodes of a run: settings, interfaces and messages, with several probes in one process."""

from __future__ import annotations

import os
import socket
import time

import pytest

from actors.cluster import network
from actors.cluster.network import NoInterface, matching_interfaces
from actors.cluster.probe import Endpoint, Probe

PRESENT = {"lo": "127.0.0.1", "eth0": "10.0.0.1", "eth1": "10.1.0.1", "docker0": "172.17.0.1"}


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in network.settings():
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variable", "value", "names"),
    [
        ("GLOO_SOCKET_IFNAME", "eth1", ["eth1"]),
        ("GLOO_SOCKET_IFNAME", "eth1,lo", ["lo", "eth1"]),
        ("NCCL_SOCKET_IFNAME", "eth", ["eth0", "eth1"]),
        ("NCCL_SOCKET_IFNAME", "=eth1", ["eth1"]),
        ("NCCL_SOCKET_IFNAME", "^eth0", ["eth1"]),
        ("NCCL_SOCKET_IFNAME", "^=eth1", ["eth0"]),
    ],
)
def test_a_setting_names_interfaces_as_its_library_reads_it(
    variable: str, value: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo: full names. NCCL: beginnings of names, ``=`` full names, ``^`` all others, of which it never takes lo and docker."""
    monkeypatch.setattr(network, "interfaces", lambda: PRESENT)
    assert matching_interfaces(variable, value) == {name: PRESENT[name] for name in names}


@pytest.mark.parametrize(
    ("variable", "value"), [("GLOO_SOCKET_IFNAME", "eth"), ("NCCL_SOCKET_IFNAME", "=eth"), ("NCCL_SOCKET_IFNAME", "ib")]
)
def test_a_setting_that_names_no_interface_is_told_with_those_that_are_there(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "interfaces", lambda: PRESENT)
    with pytest.raises(NoInterface, match=rf"{variable}={value} names no interface there; the node has lo 127\.0\.0\.1, eth0 10\.0\.0\.1"):
        matching_interfaces(variable, value)


def test_the_drivers_settings_reach_a_process_and_what_a_node_sets_itself_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("NOT_NCCL_DEBUG", "1")
    given = network.settings()
    assert given == {"NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "eth0"}
    monkeypatch.delenv("NCCL_DEBUG")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ens5")
    network.adopt(given)
    assert network.settings() == {"NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "ens5"}


def test_gloo_uses_the_interface_of_the_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the host's name. A name that is set stays, and an address that no interface has says nothing."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "set, so that it is removed after the test")
    network.name_gloo_interface("127.0.0.1")
    assert os.environ.pop("GLOO_SOCKET_IFNAME").startswith("set")
    network.name_gloo_interface("192.0.2.77")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    network.name_gloo_interface("127.0.0.1")
    assert network.interfaces()[os.environ["GLOO_SOCKET_IFNAME"]] == "127.0.0.1"


def test_nodes_that_reach_each_other() -> None:
    """Each of three probes exchanges a message with the other two."""
    probes = [Probe({}) for _ in range(3)]
    endpoints = [probe.open("cpu", "127.0.0.1") for probe in probes]
    for mine, probe in zip(endpoints, probes, strict=True):
        assert [endpoint.address for endpoint in mine] == ["127.0.0.1"]
        assert probe.reach([endpoint for others in endpoints if others is not mine for endpoint in others], timeout_s=10) == {}
    for probe in probes:
        probe.close()


def test_an_interface_of_its_own_is_an_endpoint_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rendezvous listens at the address in Ray, gloo at that of the interface which is named: both must be reached."""
    monkeypatch.setattr(network, "interfaces", lambda: {"eth7": "127.0.0.7"})
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    one, other = Probe({}), Probe({})
    at_ray, at_interface = one.open("cpu", "127.0.0.1")
    other.open("cpu", "127.0.0.1")
    assert (at_ray.address, at_interface.address, at_interface.interface) == ("127.0.0.1", "127.0.0.7", "eth7")
    assert other.reach([at_ray, at_interface], timeout_s=10) == {}
    for probe in (one, other):
        probe.close()


def test_what_cannot_be_reached_is_named_with_the_reason_within_the_limit() -> None:
    """A port that nobody listens at, one where nobody answers, and one where another program does."""
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    silent = socket.create_server(("127.0.0.1", 0))
    refused = Endpoint("127.0.0.1", port, "lo", bound=False)
    unanswered = Endpoint("127.0.0.1", silent.getsockname()[1], "lo", bound=False)
    begun = time.monotonic()
    failures = Probe({}).reach([refused, unanswered], timeout_s=0.5)
    assert time.monotonic() - begun < 5
    assert failures == {refused: "Connection refused", unanswered: "no answer within 0.5 s"}
    assert str(refused) == f"127.0.0.1:{port} on interface lo"
    silent.close()

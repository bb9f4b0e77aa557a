"""How a local cluster is started, and what travels to the nodes of any cluster."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from actors.cluster import connection
from raypref.config import RunConfig
from raypref.errors import ActorFailed, NetworkError
from raypref.plan.placement import Need, plan_placement
from raypref.sections import PlacementConfig

BUSY = Exception("The current node timed out during startup. This could happen because some of the raylet failed to startup.")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Exception | None]:
    """What each start of Ray raises; None: it succeeds. Nothing is started, and the home directory is another one."""
    outcomes: list[Exception | None] = []

    def init(**_: Any) -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return outcomes


def start(environment: Mapping[str, str] = MappingProxyType({})) -> None:
    connection._start_local(
        plan_placement(PlacementConfig(), Need(rollout=True, reference=False, oracle=False)), "cpu", "test", environment
    )


@pytest.mark.parametrize(
    ("named", "started", "joins"),
    [
        (None, None, None),
        ("local", "10.0.0.1:6379", None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("auto", None, "auto"),
    ],
)
def test_which_cluster_is_joined(monkeypatch: pytest.MonkeyPatch, named: str | None, started: str | None, joins: str | None) -> None:
    """Named by RAY_ADDRESS, or made by ``ray start``, which leaves its address. Not the local cluster of another run, which Ray's ``auto``
    finds among the machine's processes."""
    asked: list[str] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named is not None:
        monkeypatch.setenv("RAY_ADDRESS", named)
    monkeypatch.setattr(connection.services, "find_bootstrap_address", lambda _: started)
    monkeypatch.setattr(connection.ray, "init", lambda address, **_: asked.append(address))
    monkeypatch.setattr(connection, "_answers", lambda address: True)
    assert connection._join("test") == (joins is not None)
    assert asked == ([] if joins is None else [joins])


@pytest.mark.parametrize("named", [True, False])
def test_an_address_at_which_nothing_answers(monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """One that was given is an error; one that a cluster of before has left is not."""

    def init(**_: Any) -> None:
        raise ConnectionError("nothing answers")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(connection.services, "find_bootstrap_address", lambda _: "10.0.0.1:6379")
    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection, "_answers", lambda address: True)
    if not named:
        assert not connection._join("test")
        return
    with pytest.raises(ConnectionError, match="nothing answers"):
        connection._join("test")


def test_a_cluster_that_is_gone_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A killed ``ray start`` leaves its address behind. Ray itself would try to connect for minutes, so it is not asked."""
    asked: list[str] = []
    monkeypatch.setattr(connection.ray, "init", lambda address, **_: asked.append(address))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert connection._join("test")
    assert asked == [address]
    with pytest.raises(NetworkError, match=rf"RAY_ADDRESS: nothing answers at {address}; start the cluster"):
        connection._join("test")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(connection.services, "find_bootstrap_address", lambda _: address)
    assert not connection._join("test")
    assert asked == [address]
    assert f"nothing answers at {address}" in caplog.text
    for unknown in ("auto", "ray://10.0.0.1:10001"):
        assert connection._answers(unknown)


def test_nothing_is_started_on_a_cluster_whose_end_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on by itself when its raylet hangs. Ray still counts as connected then, to what is about to disappear."""
    over = threading.Event()
    config = RunConfig.parse({"policy": {"path": "p"}, "loss": {"type": "sppo"}, "placement": {"device": "cpu"}})
    plan = plan_placement(config.placement, Need(rollout=True, reference=False, oracle=False))
    monkeypatch.setattr(connection.teardown, "bounded", partial(connection.teardown.bounded, limit_s=0.05))
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(connection.ray, "shutdown", over.wait)
    monkeypatch.setattr(connection, "STARTS_AGAIN_S", 0.05)
    connection._shut_down()
    with pytest.raises(ActorFailed, match=r"Ray's end hangs"), connection.connected(plan, config):
        pass
    monkeypatch.setattr(connection, "STARTS_AGAIN_S", 20.0)
    threading.Timer(0.1, over.set).start()
    with connection.connected(plan, config) as (device, may_grow):
        assert (device, may_grow) == ("cpu", True)
    assert not connection.teardown.under_way("ray.shutdown", 0.0)


def test_a_busy_machine_gets_another_chance(starts: list[Exception | None], caplog: pytest.LogCaptureFixture) -> None:
    starts += [BUSY, BUSY, None]
    start()
    assert starts == []
    assert "it is started again (2 of 3)" in caplog.text


def test_three_chances_are_enough_and_other_errors_have_none(starts: list[Exception | None]) -> None:
    starts += [BUSY, BUSY, BUSY]
    with pytest.raises(ActorFailed, match="timed out during startup"):
        start()
    starts += [ValueError("no such option"), None]
    with pytest.raises(ValueError, match="no such option"):
        start()
    assert starts == [None]


def test_a_local_cluster_is_at_the_loopback_and_its_processes_have_the_mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What Ray sees while it starts; afterwards the driver's own environment is as it was."""
    seen: list[Any] = []

    def init(_node_ip_address: str, **_: Any) -> None:
        seen.extend([_node_ip_address, connection.ray_constants.ENABLE_RAY_CLUSTER, os.environ["MARK"], os.environ["SPT_NOENV"]])

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("SPT_NOENV", "0")
    start({"MARK": "7", "SPT_NOENV": "1"})
    assert seen == ["127.0.0.1", False, "7", "1"]
    assert connection.ray_constants.ENABLE_RAY_CLUSTER
    assert "MARK" not in os.environ
    assert os.environ["SPT_NOENV"] == "0"


def test_of_rays_words_on_its_token_only_the_warning_is_shown(starts: list[Exception | None], caplog: pytest.LogCaptureFixture) -> None:
    from ray._private.authentication import authentication_token_setup as ray_token

    starts.append(None)
    start()
    ray_token.logger.addHandler(caplog.handler)  # Ray's loggers pass nothing on
    try:
        ray_token._warn_token_auth_enabled()
        ray_token._warn_token_auth_disabled()
    finally:
        ray_token.logger.removeHandler(caplog.handler)
    (message,) = {record.getMessage() for record in caplog.records if record.name == ray_token.logger.name}
    assert message.startswith("Token authentication is disabled")


def test_nobody_else_can_read_the_token_of_the_users_clusters(starts: list[Exception | None], tmp_path: Path) -> None:
    starts += [None, None]
    start()
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    start()
    assert token.stat().st_mode & 0o777 == 0o600


def test_the_callers_modules_travel_and_installed_packages_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in a folder of ``PYTHONPATH`` with an installer's records is installed; a module beside the user's script is his own."""
    packages, scripts = tmp_path / "packages", tmp_path / "scripts"
    (packages / "large").mkdir(parents=True)
    (packages / "large" / "__init__.py").touch()
    (packages / "large-1.0.dist-info").mkdir()
    scripts.mkdir()
    (scripts / "my_oracle.py").touch()
    (scripts / "my_project.egg-info").mkdir()
    for folder in (packages, scripts):
        monkeypatch.syspath_prepend(str(folder))
    by_value: list[str] = []
    monkeypatch.setattr(connection.ray.cloudpickle, "register_pickle_by_value", lambda module: by_value.append(module.__name__))
    for name in ("large", "my_oracle"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    connection.ship_modules()
    assert "my_oracle" in by_value
    assert not {"large", "numpy", "ray", "json", "raypref"} & set(by_value)

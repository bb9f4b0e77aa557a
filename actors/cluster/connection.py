"""Which Ray cluster a run uses, and what travels to it."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import math
import os
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import ray
from ray._private import ray_constants, services

from actors.cluster import teardown
from actors.cluster.leftovers import Leftovers
from actors.cluster.store import LOOPBACK
from raypref.config import RunConfig
from raypref.errors import ActorFailed, NetworkError
from raypref.plan.placement import Plan

logger = logging.getLogger(__name__)

Device = Literal["cuda", "cpu"]

ANSWER_S = 5.0
"""Longest wait for a connection to a cluster that should be there."""
STARTS = 3
"""How often a local cluster is tried to be started."""
STARTS_AGAIN_S = 30.0
"""Longest wait for the end of the cluster of the attempt before; it hangs at most until what is left of that cluster is ended."""


@contextlib.contextmanager
def connected(plan: Plan, config: RunConfig) -> Iterator[tuple[Device, bool]]:
    """Use the cluster that the caller is connected to, or join the one that there is (``_join``), or start a local one for the block.

    Yields:
        What the roles compute on, and whether the cluster may get more nodes: one that was started here never does.

    Raises:
        ActorFailed: the cluster of the attempt before hangs in its end, or Ray does not start.
    """
    if teardown.under_way("ray.shutdown", STARTS_AGAIN_S):  # Ray still counts as connected
        raise ActorFailed("Ray's end hangs since the attempt before: this process cannot start it again, and another one can")
    if ray.is_initialized():
        yield _device_of(config), True
        return
    with contextlib.ExitStack() as stack:
        with _kept_handler(signal.SIGTERM):
            os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # every call is awaited; a failed run reports its error once
            started_here = not _join(config.name)
            if started_here:
                leftovers = stack.enter_context(contextlib.closing(Leftovers()))
                _start_local(plan, _device_of(config), config.name, leftovers.environment)
        stack.callback(_shut_down)
        yield _device_of(config), not started_here


def _shut_down() -> None:
    if not teardown.bounded("ray.shutdown", ray.shutdown):
        atexit.unregister(ray.shutdown)  # it would hang again when the interpreter ends


@contextlib.contextmanager
def _kept_handler(number: signal.Signals) -> Iterator[None]:
    """Restore the signal's handler after the block: ``ray.init`` makes the process abort with a stack trace at SIGTERM."""
    handler = signal.getsignal(number)
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _device_of(config: RunConfig) -> Device:
    """``placement.device``; for ``auto`` cuda where this machine or a node of the cluster has a GPU."""
    if config.placement.device != "auto":
        return config.placement.device
    import torch

    resources = ray.cluster_resources() if ray.is_initialized() else {}
    has_gpu = torch.cuda.is_available() or any(name.startswith("accelerator_type:") for name in resources)
    return "cuda" if has_gpu else "cpu"


def _join(name: str) -> bool:
    """Join the cluster that RAY_ADDRESS names, or that ``ray start`` made this machine a part of; False when there is none, or RAY_ADDRESS
    is ``local``.

    Ray's own ``auto`` would also join the local cluster of another run, and end with it.

    Raises:
        NetworkError: nothing answers at the address that RAY_ADDRESS names.
    """
    named = os.environ.get("RAY_ADDRESS")
    address = named or services.find_bootstrap_address(None)
    if not address or address == "local":
        return False
    if not _answers(address):  # Ray would try again for minutes, and say nothing that helps
        if named:
            raise NetworkError(f"RAY_ADDRESS: nothing answers at {address}; start the cluster (`ray start`), or unset RAY_ADDRESS")
        logger.warning(
            "nothing answers at %s, where `ray start` had begun a cluster; a local one is started (`ray stop` forgets it)", address
        )
        return False
    packages = [str(Path(inspect.getfile(module)).parent) for module in _packages()]
    try:
        ray.init(address=address, namespace=name, log_to_driver=False, runtime_env={"py_modules": packages}, logging_level=logging.WARNING)
    except ConnectionError:
        if named:
            raise
        return False
    return True


def _answers(address: str) -> bool:
    """Whether a cluster's port takes connections; of an address without a port (``auto``, ``ray://...``) Ray itself finds out."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "//" in host:
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def _start_local(plan: Plan, device: str, name: str, environment: Mapping[str, str]) -> None:
    """Start a cluster of this machine alone, which nobody reaches from another one.

    On a CPU Ray is told to count the GPUs and cores that the plan asks for, so that placement works as on a cluster.

    Args:
        environment: further environment variables of the cluster's processes.
    """
    counted: dict[str, Any] = {}
    if device == "cpu":
        cores = os.cpu_count() or 1
        counted = {"num_gpus": math.ceil(plan.total("GPU")), "num_cpus": max(cores, math.ceil(plan.total("CPU")))}
    # Processes of Ray that outlive a killed driver look for its GCS for so long before they end. Of a local cluster it never comes back.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "20")
    unused = {"prestart_worker_first_driver": False}  # idle workers; every actor of a run has an environment, and so a worker of its own
    logging.getLogger("ray._private.authentication.authentication_token_setup").addFilter(_is_news)
    for attempt in range(1, STARTS + 1):
        try:
            with _at_loopback(), _environment(environment):
                ray.init(
                    address="local",
                    namespace=name,
                    log_to_driver=False,
                    include_dashboard=False,
                    logging_level=logging.WARNING,
                    _node_ip_address=LOOPBACK,
                    _system_config=unused,
                    **counted,
                )
            break
        except Exception as error:  # Ray raises a bare one where its processes take longer than its own 30 seconds
            if "timed out during startup" not in str(error):
                raise
            if attempt == STARTS:
                said = str(error).splitlines()[0]
                raise ActorFailed(
                    f"Ray did not start, {STARTS} times: {said}; the machine is busy: `raypref doctor` looks at it"
                ) from error
            logger.warning(
                "Ray did not start within its own time limit: the machine is busy; it is started again (%d of %d)", attempt, STARTS
            )
            ray.shutdown()
    _protect_token()


@contextlib.contextmanager
def _at_loopback() -> Iterator[None]:
    """Have Ray take the loopback's address as it is given.

    On Linux it would replace it by the machine's own, and listen at every address. This is its own switch for clusters of one machine,
    which its documentation sets by an environment variable, but on other systems only.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started in the block have further environment variables."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _is_news(record: logging.LogRecord) -> bool:
    """Not Ray's notice that the cluster is protected by a token, as it should be; that it is not remains a warning."""
    return "Token authentication is enabled" not in record.getMessage()


def _protect_token() -> None:
    """Let nobody else on the machine read the token with which processes join this user's clusters; Ray writes it for all to read."""
    token = Path.home() / ".ray" / "auth_token"
    try:
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("%s can be read by other users of this machine: %s", token, error)


def _packages() -> list[ModuleType]:
    import actors
    import raypref

    return [raypref, actors]


def ship_modules() -> None:
    """Make the caller's functions and classes reach every node, with the modules that they use.

    What ``__main__`` defines is pickled by value anyway. A module that is neither installed nor part of raypref may exist on the driver's
    machine only, so it is pickled by value, too.
    """
    installed = _installation_folders()
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and not _on_every_node(module, installed):
            ray.cloudpickle.register_pickle_by_value(module)


def _installation_folders() -> list[Path]:
    """Folders with installed packages: Python's own, and those on the path in which an installer left its records.

    The latter are what ``pip install --target`` and the software trees of clusters make, with ``PYTHONPATH``. Pickled by value, a package
    as large as Ray ends in a RecursionError.
    """
    standard = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib", "platstdlib")]
    return standard + [Path(folder) for folder in sys.path if folder and next(Path(folder).glob("*.dist-info"), None) is not None]


def _on_every_node(module: ModuleType, installed: Sequence[Path]) -> bool:
    if module.__name__ == "__main__" or module.__name__.split(".")[0] in {"raypref", "actors"} | sys.stdlib_module_names:
        return True
    source = getattr(module, "__file__", None)
    return source is None or any(Path(source).is_relative_to(folder) for folder in installed)

"""Two hosts on one machine: network namespaces that a pair of virtual interfaces joins, each with its own /tmp, /dev/shm and host name.

    python -m tests.several_nodes.hosts DIRECTORY COMMAND ...      # the command runs on the first host, with both in one Ray cluster

Both hosts see DIRECTORY as ``SHARED``. The namespaces are those of a user: no rights are needed, where a machine allows them at all
(``why_not``).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SHARED = Path("/mnt")
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
PORT = 6379
RAY = Path(sys.executable).with_name("ray")
ALONE = ["unshare", "--map-root-user", "--net", "--mount", "--uts"]
"""Begins a command that gets namespaces of its own."""
SHAPE = ["--num-cpus=2", "--num-gpus=2", f"--object-store-memory={100 << 20}", "--disable-usage-stats", "--block"]
"""Of each host, as ``ray start`` takes it."""
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
"""``ip`` is often where only root looks."""


def why_not() -> str | None:
    """Why this machine cannot do it; None where it can."""
    for program in ("unshare", "mount", "ip"):
        if shutil.which(program, path=SEARCH_PATH) is None:
            return f"needs the program {program}"
    probe = f"mount -t tmpfs tmpfs {SHARED} && ip link add one type veth peer name other"
    done = subprocess.run([*ALONE, "sh", "-c", probe], env=environment(), capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"needs network namespaces of a user: {done.stderr.strip()}"


def environment() -> dict[str, str]:
    """Of every process on the hosts. A token for Ray that the user may have is ignored."""
    return {**os.environ, "PATH": SEARCH_PATH, "RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def main(arguments: Sequence[str]) -> int:
    """The first host, in the namespaces that ``ALONE`` makes."""
    directory, *command = arguments
    os.environ.update(environment())
    call("mount", "--bind", directory, str(SHARED))
    become("first")
    with subprocess.Popen(
        [*ALONE[:1], *ALONE[2:], sys.executable, "-m", __spec__.name, "--second"], env=environment(), stdout=subprocess.DEVNULL
    ) as second:
        while os.readlink(f"/proc/{second.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.05)
        call("ip", "link", "add", "first", "type", "veth", "peer", "name", "second", "netns", str(second.pid))
        connect("first", FIRST)
        head = [RAY, "start", "--head", f"--node-ip-address={FIRST}", f"--port={PORT}", "--include-dashboard=false", *SHAPE]
        with subprocess.Popen(head, env=environment(), stdout=subprocess.DEVNULL) as first:
            try:
                wait_for_both()
                return subprocess.run(command, env={**environment(), "RAY_ADDRESS": f"{FIRST}:{PORT}"}, check=False).returncode
            finally:
                second.terminate()
                first.terminate()


def second_host() -> None:
    """The second host: waits for its interface and for Ray on the first one, then becomes ``ray start``."""
    become("second")
    until(lambda: subprocess.run(["ip", "link", "show", "second"], env=environment(), capture_output=True, check=False).returncode == 0)
    connect("second", SECOND)
    until(lambda: answers(FIRST, PORT))
    os.execve(RAY, [str(RAY), "start", f"--address={FIRST}:{PORT}", f"--node-ip-address={SECOND}", *SHAPE], environment())


def become(name: str) -> None:
    """Give this process' namespaces a host name and memory of their own."""
    socket.sethostname(name)
    for place in ("/tmp", "/dev/shm"):
        call("mount", "-t", "tmpfs", "tmpfs", place)


def connect(interface: str, address: str) -> None:
    for device in ("lo", interface):
        call("ip", "link", "set", device, "up")
    call("ip", "addr", "add", f"{address}/24", "dev", interface)


def wait_for_both() -> None:
    import ray

    until(lambda: answers(FIRST, PORT))
    ray.init(address=f"{FIRST}:{PORT}", log_to_driver=False)
    until(lambda: len(ray.nodes()) == 2)
    ray.shutdown()


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the other host or its Ray is not there")
        time.sleep(0.1)


def call(*command: str) -> None:
    subprocess.run(command, env=environment(), check=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--second"]:
        second_host()
    sys.exit(main(sys.argv[1:]))

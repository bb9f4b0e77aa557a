"""Ray, as ``raypref doctor`` sees it: the cluster that a run would join, its token, its ports."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from raypref.cli.findings import Finding
from raypref.cli.machine import WAIT_S, last_line, run, version

PORTS = {6379: "ray start --head", 8265: "Ray's dashboard"}

_JOIN = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
resources = ray.cluster_resources()
alive = sum(node["Alive"] for node in ray.nodes())
print(f"{alive} node(s), {resources.get('GPU', 0):g} GPU, {resources.get('CPU', 0):g} CPU, Ray {ray.__version__}")
"""


def cluster() -> Finding:
    """The Ray cluster that a run would join; joined and left again in a process of its own, which has a few seconds."""
    address = os.environ.get("RAY_ADDRESS") or _left_address()
    if not address or address == "local":
        return Finding("OK", "Ray", f"{version('ray')}; no cluster here: a run starts one of its own")
    named = "RAY_ADDRESS" in os.environ
    remedy = "start it with `ray start --head`" + (", or unset RAY_ADDRESS" if named else ", if there should be one")
    if "://" in address:
        text = f"RAY_ADDRESS={address} is the address of a client or of jobs; a run joins HOST:6379"
        return Finding("problem", "Ray", text, "unset RAY_ADDRESS, and submit the run: raypref submit --address http://HEAD:8265")
    if address != "auto" and not _answers(*address.rsplit(":", 1)):
        text = f"no cluster answers at {address}"
        if named:
            return Finding("problem", "Ray", text, remedy)
        return Finding("warning", "Ray", f"{text}, as one did before; a run starts one of its own", remedy)
    code, output = run([sys.executable, "-c", _JOIN, address], wait_s=2 * WAIT_S)
    last = last_line(output)
    if code == 0:
        return Finding("OK", "Ray", f"cluster at {address}: {last}")
    if "Version mismatch" in output:
        text = " ".join(line.strip() for line in output.splitlines() if line.strip().startswith(("Ray:", "Python:")))
        remedy = "use the same environment on every node and for `ray start`"
        return Finding("problem", "Ray", f"cluster at {address} has other versions: {text}, here last", remedy)
    if "token" in output.lower():
        return Finding("problem", "Ray", f"cluster at {address} wants a token: {last}", TOKEN)
    return Finding("problem", "Ray", f"cluster at {address} cannot be joined: {last}", remedy)


TOKEN = (
    "export RAY_AUTH_MODE=token; the token is read from RAY_AUTH_TOKEN, from the file RAY_AUTH_TOKEN_PATH, or from ~/.ray/auth_token, "
    "and must be the one with which the cluster was started"
)
"""What to do where Ray asks for its authentication token."""


def ports() -> Finding:
    """Whether this machine's own address can be listened at, and who has the ports of a cluster."""
    try:
        with socket.socket() as listening:
            listening.bind((_own_address(), 0))
    except OSError as error:
        remedy = "give the host name of this machine an address of its own in /etc/hosts"
        return Finding("problem", "ports", f"this machine's own address cannot be listened at: {error}", remedy)
    taken = [port for port in PORTS if _answers("127.0.0.1", str(port))]
    if taken and not _left_address():
        text = "; ".join(f"{port} is taken by another program ({PORTS[port]} would use it)" for port in taken)
        return Finding("warning", "ports", text, "ray start --head --port P --dashboard-port Q; a run without a cluster needs neither")
    return Finding("OK", "ports", f"free to listen at {_own_address()}; a cluster uses {' and '.join(map(str, PORTS))}")


def _address_file() -> Path:
    """Where ``ray start`` leaves the address of this machine's cluster."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"


def _left_address() -> str:
    """The address in that file; empty where there is none."""
    file = _address_file()
    return file.read_text().strip() if file.is_file() else ""


def _answers(host: str, port: str) -> bool:
    """Whether something listens at the address."""
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except (OSError, ValueError):  # ValueError: the port is no number
        return False


def _own_address() -> str:
    """This machine's address towards others: what its processes listen at in a cluster."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: connecting chooses the interface
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])

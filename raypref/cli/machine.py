"""The machine and Ray, as ``raypref doctor`` sees them: GPUs, memory, shared memory, ports, limits, the cluster."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raypref.cli.findings import Finding

SHARED_MEMORY = Path("/dev/shm")
_LEAST_SHARED = 256 * 2**20
"""Bytes below which Ray's object store and NCCL have too little; a container has 64 MiB unless it is told otherwise."""
_LEAST_MEMORY = 4 * 2**30
_LEAST_FILES, _ENOUGH_FILES = 1024, 8192
PORTS = {6379: "ray start --head", 8265: "Ray's dashboard"}
_WAIT_S = 4.0
"""Longest wait for ``nvidia-smi``, for torch in a process of its own, and for Ray."""
_JOIN = """
import logging, ray
ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
resources = ray.cluster_resources()
alive = sum(node["Alive"] for node in ray.nodes())
print(f"{alive} node(s), {resources.get('GPU', 0):g} GPU, {resources.get('CPU', 0):g} CPU, Ray {ray.__version__}")
"""
_TORCH = """
import torch
usable = torch.cuda.is_available()
print(torch.cuda.device_count() if usable else 0, ".".join(map(str, torch.cuda.nccl.version())) if usable else "-", torch.__version__)
"""


@dataclass(frozen=True, slots=True)
class Gpus:
    """What ``nvidia-smi`` says."""

    names: tuple[str, ...] = ()
    driver: str = ""
    failure: str = ""


def gpus() -> Gpus:
    """This machine's GPUs."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Gpus()
    code, output = _run([command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    rows = [[part.strip() for part in line.split(",")] for line in output.splitlines() if line.count(",") == 2]
    if code != 0 or not rows:
        return Gpus(failure=output.strip() or "no answer")
    return Gpus(tuple(f"{name} ({memory})" for name, memory, _ in rows), rows[0][2])


def gpu_findings(found: Gpus) -> list[Finding]:
    """The GPUs, whether torch reaches them, and NCCL's version."""
    if found.failure:
        text = f"nvidia-smi fails: {found.failure.splitlines()[0]}"
        return [Finding("problem", "GPUs", text, "restart the driver, or give the container its GPUs (docker run --gpus all)")]
    if not found.names:
        return [Finding("OK", "GPUs", "none; runs use the CPU (placement.device=auto)")]
    kinds = ", ".join(f"{found.names.count(name)} x {name}" for name in dict.fromkeys(found.names))
    lines = [Finding("OK", "GPUs", f"{kinds}, driver {found.driver}")]
    code, output = _run([sys.executable, "-c", _TORCH], wait_s=2 * _WAIT_S)
    count, nccl, version = [*output.split(), "", "", ""][:3]
    if code != 0 or not count.isdigit():
        lines.append(Finding("problem", "CUDA", f"torch cannot be asked: {_last_line(output)}", "make setup EXTRA=gpu"))
    elif int(count) == 0:
        remedy = "make setup EXTRA=gpu; if torch is a CUDA build, the driver is too old for it: nvidia-smi shows its CUDA version"
        lines.append(Finding("problem", "CUDA", f"torch {version} sees none of these GPUs", remedy))
    elif int(count) < len(found.names):
        remedy = "unset CUDA_VISIBLE_DEVICES, unless the others are not for you"
        lines.append(Finding("warning", "CUDA", f"torch {version} sees {count} of {len(found.names)} GPUs", remedy))
    else:
        lines.append(Finding("OK", "CUDA", f"torch {version} sees all of them; NCCL {nccl}"))
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        lines.append(Finding("problem", "C compiler", "none; vLLM's kernels are compiled at the start", "apt-get install gcc"))
    if _version("liger-kernel") == "not installed":
        text = "liger-kernel is not installed: training takes more memory and time"
        lines.append(Finding("warning", "kernels", text, 'pip install "raypref[liger]"'))
    return lines


def shared_memory(policy_bytes: int = 0, directory: Path = SHARED_MEMORY) -> Finding:
    """/dev/shm against what uses it: Ray's object store, NCCL, and on CPUs a copy of the policy (``sync.transport: shm``).

    Args:
        policy_bytes: size of the policy; 0: not known.
        directory: where it is mounted.
    """
    remedy = "docker run --shm-size=16g; in Kubernetes an emptyDir with medium: Memory, mounted at /dev/shm"
    if not directory.is_dir():
        return Finding("problem", "shared memory", f"{directory} is not there", remedy)
    usage, third = shutil.disk_usage(directory), int(0.3 * _total_memory())
    text = f"{directory} has {gib(usage.free)} free of {gib(usage.total)}"
    if usage.free < max(_LEAST_SHARED, policy_bytes):
        needed = f"the policy takes {gib(policy_bytes)}" if policy_bytes > _LEAST_SHARED else f"at least {gib(_LEAST_SHARED)} are needed"
        return Finding("problem", "shared memory", f"{text}; {needed}", remedy)
    if usage.total < third:
        return Finding("warning", "shared memory", f"{text}; Ray wants {gib(third)}, and keeps objects on disk otherwise", remedy)
    return Finding("OK", "shared memory", text)


def memory() -> Finding:
    """Host memory that is free now."""
    import psutil

    free = psutil.virtual_memory().available
    text = f"{gib(free)} free of {gib(_total_memory())}, {os.cpu_count()} CPU cores"
    if free < _LEAST_MEMORY:
        return Finding("warning", "memory", text, "end other programs: Ray ends actors at 95% (RAY_memory_usage_threshold)")
    return Finding("OK", "memory", text)


def cluster() -> Finding:
    """The Ray cluster that a run would join; joined and left again in a process of its own, which has a few seconds."""
    address = os.environ.get("RAY_ADDRESS") or _left_address()
    if not address or address == "local":
        return Finding("OK", "Ray", f"{_version('ray')}; no cluster here: a run starts one of its own")
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
    code, output = _run([sys.executable, "-c", _JOIN], wait_s=2 * _WAIT_S)
    last = _last_line(output)
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


def open_files() -> Finding:
    """The limit of open files, of which each of Ray's connections takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"at most {soft} per process (can be raised to {hard})"
    remedy = f"ulimit -n {min(65536, hard)}, or LimitNOFILE= of the service" if hard > soft else "have the administrator raise it to 65536"
    if soft < _LEAST_FILES:
        return Finding("problem", "open files", text, remedy)
    return Finding("warning", "open files", text, remedy) if soft < _ENOUGH_FILES else Finding("OK", "open files", text)


def gib(size: float) -> str:
    """Bytes, in GiB."""
    return f"{size / 2**30:.1f} GiB"


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


def _run(command: list[str], wait_s: float = _WAIT_S) -> tuple[int, str]:
    """Exit code and all output of a command; 124 where it takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=wait_s)
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {wait_s:.0f} s"
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no answer"])[-1]


def _total_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

"""What the README promises: the quickstart, as its command runs it; and the same run as a Ray job."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypref.metrics.families import family
from raypref.metrics.table import MetricTable

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
SHELL = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
    "RAY_AUTH_MODE": "disabled",
    "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
}
"""A shell with the virtual environment active. Unlike the tests it may join a cluster; a token that its user may have is ignored."""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a whole quickstart; its base policy lies beside it."""
    directory = tmp_path_factory.mktemp("runs") / "quickstart"
    command = [sys.executable, "-m", "examples.quickstart.quickstart", "--output-dir", directory]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "responses before and after 3 iterations" in done.stdout
    return directory


def test_the_policy_gets_better(quickstart: Path) -> None:
    """The last iteration's win rate against the base: its interval lies above 0.6, and the engines held the learner's weights."""
    summary = json.loads((quickstart / "summary.json").read_text())
    last = summary["evaluations"][-1]
    assert last["iteration"] == 3
    assert last["base"]["low"] > 0.6
    assert last["base"]["confidence"] == 0.95
    assert summary["sync"]["sync/logprob_difference_max"] < 1e-4
    assert summary["versions"].keys() >= {"vllm", "deepspeed", "ray", "torch"}
    environment = json.loads((quickstart / "environment.json").read_text())
    assert environment["versions"] == summary["versions"]
    assert [len(node["actors"]) for node in environment["nodes"]] == [4]
    assert [warning for warning in summary["warnings"] if warning["severity"] != "note"] == [], "a healthy run"


def test_as_a_ray_job(quickstart: Path, tmp_path: Path) -> None:
    """``raypref submit`` against ``ray start --head``: nothing is installed by the job. One short iteration, whose
    metrics are read at the node's Prometheus port while it goes on.

    A job whose config is wrong ends with the run's exit code.
    """
    (tmp_path / "job_base").symlink_to(quickstart.with_name(f"{quickstart.name}_base"))
    run = ["submit", "examples/quickstart/run.yaml", f"output_dir={tmp_path / 'job'}", "name=short"]
    short = ["loop.iterations=1", "loop.prompts_per_iteration=16", "data.held_out_prompts=8", "evaluation.responses=1"]
    with head_node(metrics_port := free_port()) as address, scraped(f"http://127.0.0.1:{metrics_port}/metrics") as series:
        at = ["--address", address]
        done = raypref([*run, *short, *at, "--follow"])
        listed = raypref(["jobs", "status", *at])
        log = raypref(["jobs", "logs", listed.stdout.split()[0], *at])
        again = raypref([*run, *short, *at, "--follow"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held-out win rates, 8 prompts" in done.stdout
    assert json.loads((tmp_path / "job" / "summary.json").read_text())["steps"] == 2
    assert listed.stdout.startswith("short-")
    assert "  SUCCEEDED, exit code 0  " in listed.stdout
    assert "held-out win rates, 8 prompts" in log.stdout
    assert again.returncode == 2, again.stdout + again.stderr
    assert "error: output_dir" in again.stdout
    lines = [json.loads(line) for line in (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()]
    entries = [MetricTable().find(name) for line in lines for name in line.keys() - {"step", "time/run_s"}]
    assert {family(entry).exported for entry in entries if entry is not None} - series.keys() == set()
    assert all('run="short"' in labels for labels in series.values())


def raypref(command: list[str]) -> subprocess.CompletedProcess[str]:
    """The ``raypref`` command in the clone, as a user of the cluster types it."""
    return subprocess.run([sys.executable, "-m", "raypref", *command], cwd=ROOT, env=SHELL, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def scraped(url: str) -> Iterator[dict[str, str]]:
    """Reads a Prometheus port during the block, and yields the labels of each series of raypref that was seen, by its name."""
    seen: dict[str, str] = {}
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.5):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as page:
                text = page.read().decode()
                seen.update(re.findall(r"^(ray_raypref_\w+)\{(.*)\} ", text, re.MULTILINE))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        over.set()
        reader.join()


@contextlib.contextmanager
def head_node(metrics_port: int) -> Iterator[str]:
    """A second cluster, on free ports; yields the address that jobs are submitted to. Metrics reach its port every second."""
    port = free_port()
    ports = [f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
    ports.append(f"--metrics-export-port={metrics_port}")
    command = [RAY, "start", "--head", "--block", "--num-cpus=4", "--num-gpus=3", *ports]
    environment = SHELL | {"RAY_metrics_report_interval_ms": "1000"}
    # A folder with a short name: Ray makes Unix sockets there, whose paths must not exceed 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        node = subprocess.Popen([*command, f"--temp-dir={folder}", "--disable-usage-stats"], env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/version")
            yield f"http://127.0.0.1:{port}"
        finally:
            node.terminate()
            node.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, timeout_s: float = 120.0) -> None:
    """Until the job server answers."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{url} does not answer")

"""``ray job submit --working-dir .`` against a cluster that ``ray start --head`` made: nothing is installed by the job."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
OUTSIDE = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
    "RAY_AUTH_MODE": "disabled",
    "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
}
"""A shell with the virtual environment active: without what keeps tests from joining a cluster, and whatever token its user may have."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def dashboard() -> Iterator[str]:
    """A head node of its own, on ports of its own; yields the address that jobs are submitted to."""
    port = free_port()
    head = [RAY, "start", "--head", "--block", "--num-cpus=4", "--num-gpus=3", f"--port={free_port()}", f"--dashboard-port={port}"]
    # A folder with a short name: Ray makes Unix sockets there, whose paths must not exceed 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        node = subprocess.Popen([*head, f"--temp-dir={folder}", "--disable-usage-stats"], env=OUTSIDE, stdout=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{address}/api/version")
            yield address
        finally:
            node.terminate()
            node.wait(timeout=60)


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


def test_job_runs_from_the_working_directory(dashboard: str, tied_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{k} w{k + 1}"}) + "\n" for k in range(12)))
    config = {
        "output_dir": str(tmp_path / "run"),
        "policy": {"path": str(tied_model), "dtype": "float32"},
        "data": {"path": str(prompts), "chat_template": False, "held_out_prompts": 4},
        "loop": {"iterations": 1},
        "rollout": {"responses": 3, "max_tokens": 8, "kv_cache_gib": 0.05},
        "oracle": {"type": "callable", "function": "examples.quickstart.oracle:panel"},
        "selection": {"type": "all_responses"},
        "loss": {"type": "sppo", "eta": 5.0},
        "learner": {"global_batch": 4, "optimizer": {"lr": 1e-3}},
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    command = [RAY, "job", "submit", "--address", dashboard, "--working-dir", ".", "--", "python", "-m", "raypref", "train"]
    done = subprocess.run([*command, tmp_path / "run.yaml"], cwd=ROOT, env=OUTSIDE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held-out win rates" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2

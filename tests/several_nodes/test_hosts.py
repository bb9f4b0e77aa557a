"""Two hosts that share nothing but a network and one directory: the quickstart's loop, and a link that breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.several_nodes import hosts
from tests.several_nodes.test_run import has_cpu_engine
from tests.tiny_models import make_model

ROOT = Path(__file__).parents[2]
WHY_NOT = hosts.why_not() or (None if has_cpu_engine() else "needs vLLM's CPU build (the extra `cpu`)")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(WHY_NOT is not None, reason=f"two hosts on one machine: {WHY_NOT}"),
]

SHORT = ["loop.iterations=1", "loop.prompts_per_iteration=16", "data.held_out_prompts=8", "evaluation.responses=1"]


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def on_two_hosts(directory: Path, command: list[str]) -> None:
    """Run a command on the first host, which sees ``directory`` as ``hosts.SHARED``."""
    run([*hosts.ALONE, sys.executable, "-m", "tests.several_nodes.hosts", str(directory), *command])


def quickstart(output_dir: Path) -> list[str]:
    return [sys.executable, "-m", "examples.quickstart.quickstart", "--output-dir", str(output_dir), *SHORT]


def test_the_quickstarts_loop_on_two_hosts_does_what_one_host_does(tmp_path: Path) -> None:
    """Each host has two cores, and the run needs four. The parameters are those of one host bit for bit."""
    run(quickstart(tmp_path / "one"), RAY_ADDRESS="local")
    (tmp_path / "two_base").symlink_to("one_base")
    on_two_hosts(tmp_path, quickstart(hosts.SHARED / "two"))
    one, two = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("one", "two"))
    assert two.keys() == one.keys()
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["sync"]["sync/logprob_difference_max"] < 1e-4


def test_a_cut_link_is_named_within_the_preflights_limit(tmp_path: Path) -> None:
    make_model(tmp_path / "model", tied=True)
    model, output_dir, outcome = (str(hosts.SHARED / name) for name in ("model", "run", "outcome"))
    on_two_hosts(tmp_path, [sys.executable, "-m", "tests.several_nodes.cut_link", model, output_dir, "10", outcome])
    seconds, *error = (tmp_path / "outcome").read_text().splitlines()
    assert float(seconds) < 10 + 5
    assert error[0].startswith(f"network: node second ({hosts.SECOND}) does not answer the driver through Ray")

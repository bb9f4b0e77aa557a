"""``environment.json``: what a run runs on, and nothing that should stay on the machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from raypref.output.environment import NAME, Gpu, Machine, in_words, versions, write_environment

GPU = Gpu("NVIDIA H100 80GB HBM3", 80 << 30, "570.86")


def node(host: str, count: int) -> Machine:
    return Machine(host, "AMD EPYC 9654", 192, 1511 << 30, (GPU,) * count, (f"learner-{host}",))


def test_what_a_run_on_two_nodes_writes(tmp_path: Path) -> None:
    write_environment(tmp_path, "cuda", [node("a", 8), node("b", 8)])
    found = json.loads((tmp_path / NAME).read_text())
    assert (found["device"], found["versions"]) == ("cuda", versions())
    assert [(entry["host"], entry["actors"], len(entry["gpus"])) for entry in found["nodes"]] == [
        ("a", ["learner-a"], 8),
        ("b", ["learner-b"], 8),
    ]
    assert os.listdir(tmp_path) == [NAME]


def test_no_value_of_an_environment_variable_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "NCCL_SOCKET_IFNAME", "HOME"):
        monkeypatch.setenv(name, f"value-of-{name}")
    write_environment(tmp_path, "cpu", [Machine.here()])
    assert "value-of-" not in (tmp_path / NAME).read_text()


def test_equal_nodes_are_counted() -> None:
    """Without the names of hosts: a model card, which is published, has these words."""
    machines = [node("a", 8), node("b", 8), node("c", 0)]
    entries = [json.loads(json.dumps({slot: getattr(one, slot) for slot in Machine.__slots__} | {"gpus": gpus(one)})) for one in machines]
    rest = "AMD EPYC 9654 (192 cores), 1511 GiB of memory"
    assert in_words(entries) == [f"2 nodes, each with 8 NVIDIA H100 80GB HBM3 (80 GiB), {rest}", f"1 node with {rest}"]


def gpus(machine: Machine) -> list[dict[str, object]]:
    return [{"name": gpu.name, "memory_bytes": gpu.memory_bytes, "driver": gpu.driver} for gpu in machine.gpus]


def test_what_another_version_did_not_write_is_left_out() -> None:
    assert in_words([{}, {"host": "a"}]) == []


def test_this_machine() -> None:
    here = Machine.here()
    assert here.cores == os.cpu_count()
    assert here.memory_bytes > 1 << 28
    assert here.processor

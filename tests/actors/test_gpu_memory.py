"""What a node says of its GPUs. ``tests/plan/test_memory.py`` tests what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.cluster.gpu_memory import gpu_memories


@pytest.mark.parametrize(
    ("script", "expected"), [("echo 81559; echo 143771", [81_559 << 20, 143_771 << 20]), ("echo 'no driver'; exit 9", [])]
)
def test_what_nvidia_smi_answers(script: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_memories() == expected


def test_a_machine_without_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_memories() == []

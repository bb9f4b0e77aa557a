"""What a node says of its GPUs. ``tests/plan/test_memory.py`` tests what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypref.output.environment import Gpu, Machine, gpus

H100, H200 = Gpu("NVIDIA H100 80GB HBM3", 81_559 << 20, "570.86"), Gpu("NVIDIA H200", 143_771 << 20, "570.86")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H100 80GB HBM3, 81559, 570.86'; echo 'NVIDIA H200, 143771, 570.86'", [H100, H200]),
        ("echo 'no driver'; exit 9", []),
        ("echo 'NVIDIA H200, [N/A], 570.86'", []),
    ],
)
def test_what_nvidia_smi_answers(script: str, expected: list[Gpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus() == expected
    assert list(Machine.here().gpus) == expected


def test_a_machine_without_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []

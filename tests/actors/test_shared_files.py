"""Files that one node writes and another reads."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from actors.cluster.shared_files import appears, model_appears
from actors.rollout.compile_cache import use_own_cache


def test_a_file_that_is_shown_late(tmp_path: Path) -> None:
    late = threading.Timer(0.3, (tmp_path / "late").touch)
    late.start()
    assert appears(tmp_path / "late", timeout_s=10)
    late.join()
    assert not appears(tmp_path / "never", timeout_s=0.1)


def test_a_model_is_there_with_its_last_shard(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert not model_appears(tmp_path, timeout_s=0)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert not model_appears(tmp_path, timeout_s=0)
    late = threading.Timer(0.3, (tmp_path / "model-2.safetensors").touch)
    late.start()
    assert model_appears(tmp_path, timeout_s=10)
    late.join()


def test_a_small_model_has_one_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert not model_appears(tmp_path, timeout_s=0)
    (tmp_path / "config.json").touch()
    assert model_appears(tmp_path, timeout_s=0)


def test_engines_on_other_gpus_compile_into_other_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = []
    for gpus in ("0,1", "2,3"):
        monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        use_own_cache()
        found.append(os.environ["VLLM_CACHE_ROOT"])
    assert found == [str(tmp_path / "raypref-gpus-0-1"), str(tmp_path / "raypref-gpus-2-3")]
    monkeypatch.delenv("VLLM_CACHE_ROOT")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_own_cache()
    assert os.environ["VLLM_CACHE_ROOT"] == str(tmp_path / "vllm" / "raypref-gpus-2-3")

"""What a replacement is sent from the disk is what the last sync sent from the learner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.learner.policy_export import export
from actors.policy_model import load_model
from actors.weights.source import DeepSpeedSource, RecordingSource, WeightSource
from actors.weights.stored_source import StoredSource
from raypref.errors import ConfigError
from raypref.sections import LoraConfig, PolicyConfig
from tests.tiny_models import make_model

CPU = torch.device("cpu")


def checksums(source: WeightSource) -> dict[str, int]:
    recording = RecordingSource(source, active=True)
    assert [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in recording] == [
        (info.name, info.dtype, info.shape) for info in source.metadata()
    ]
    return recording.checksums()


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_exported_policy_and_the_base_policy_are_what_was_sent(tied: bool, dtype: str, lora: LoraConfig | None, tmp_path: Path) -> None:
    """The base policy is stored in another dtype than the run's. Training has changed every weight since the export."""
    policy = PolicyConfig.parse({"path": str(make_model(tmp_path / "base", tied=tied)), "dtype": dtype, "lora": lora})
    model = load_model(policy, CPU, trainable=True)
    source = DeepSpeedSource(model)
    assert checksums(StoredSource(source, policy, policy.path, read=True)) == checksums(source)
    expected = {}
    for name in ("then", "now"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).to(parameter.dtype))
        expected[name] = checksums(source)
        export(source, policy, tmp_path / name, write=True)
    for name in expected:
        assert checksums(StoredSource(source, policy, str(tmp_path / name), read=True)) == expected[name]
    assert expected["then"] != expected["now"]
    assert list(StoredSource(source, policy, policy.path, read=False)) == []


def test_files_that_lack_a_tensor_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    tied, untied = (PolicyConfig(path=str(make_model(tmp_path / f"{tied}", tied=tied)), dtype="float32") for tied in (True, False))
    source = DeepSpeedSource(load_model(untied, CPU, trainable=True))
    with pytest.raises(ConfigError, match=rf"{tied.path} holds no .*lm_head"):
        StoredSource(source, untied, tied.path, read=True)
    with pytest.raises(ConfigError, match="cannot load"):
        StoredSource(source, untied, str(tmp_path / "nothing"), read=True)

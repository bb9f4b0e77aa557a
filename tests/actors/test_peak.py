"""The operations that a token takes, and the peak of the GPUs that they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from actors.cluster import peak
from actors.policy_model import model_config
from raypref.config import RunConfig
from raypref.plan.model_shape import ModelShape
from raypref.sections import PolicyConfig
from tests.tiny_models import make_model


@pytest.mark.parametrize("tied", [True, False])
def test_operations_follow_from_the_projections(tied: bool, tmp_path: Path) -> None:
    """Every parameter of a Llama but its norms and its embedding multiplies each token; a tied embedding is the head."""
    model = make_model(tmp_path, tied=tied)
    config = model_config(PolicyConfig(path=str(model)))
    shape = ModelShape.of(config)
    norms = (2 * shape.layers + 1) * shape.hidden
    assert shape.active == shape.parameters - norms - (0 if tied else shape.embedding)


@pytest.mark.parametrize(
    ("resources", "tflops"),
    [
        (["accelerator_type:H100", "GPU", "CPU"], 989.0),
        (["accelerator_type:A100-80G"], 312.0),
        (["accelerator_type:A100-40G", "accelerator_type:A100-80G"], 312.0),
        (["accelerator_type:A100", "accelerator_type:H100"], None),
        (["accelerator_type:TPU-V4"], None),
        (["CPU"], None),
    ],
)
def test_the_peak_is_that_of_the_one_known_type(
    resources: list[str], tflops: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: dict.fromkeys(resources, 1.0))
    sections: dict[str, Any] = {"policy": {"path": str(make_model(tmp_path, tied=True))}, "loss": "sppo"}
    found = peak.speed_of(RunConfig.parse(sections), "cuda")
    assert (None if found is None else found.peak_flops / 1e12) == tflops
    assert peak.speed_of(RunConfig.parse(sections), "cpu") is None
    stated = peak.speed_of(RunConfig.parse(sections | {"metrics": {"peak_tflops": 2.5}}), "cpu")
    assert stated is not None
    assert stated.peak_flops == 2.5e12
    lora = peak.speed_of(
        RunConfig.parse(sections | {"metrics": {"peak_tflops": 2.5}, "policy": sections["policy"] | {"lora": True}}), "cpu"
    )
    assert lora is not None
    assert lora.flops_per_token == pytest.approx(stated.flops_per_token * 4 / 6), "frozen weights need no gradient"

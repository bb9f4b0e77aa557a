"""One iteration of SPPO, on the real engines, with policies whose files have another form than the module that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import raypref
from raypref.errors import SyncError
from tests.integration.runs import PROMPTS, config_for, more_different_words
from tests.integration.test_run import steps_of
from tests.tiny_models import OTHER_FORMS, make_other_form

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster")]

IN_EVERY_RUN = "qwen3_moe"
"""Of each expert three tensors, which engine and module fuse each in its own way; the others are slow tests."""

DIFFERENT_ON_A_CPU = pytest.mark.xfail(
    raises=SyncError, strict=True, reason="vLLM 0.32 computes other log-probs of DeepSeek-V2 than transformers on a CPU, from the files too"
)
CLASSES = [
    pytest.param(name, marks=[pytest.mark.slow] * (name != IN_EVERY_RUN) + [DIFFERENT_ON_A_CPU] * (name == "deepseek_v2"))
    for name in OTHER_FORMS
]


def one_iteration(model_type: str, directory: Path, **sections: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The stored tensors before and after; in between the engine was compared with the learner before and after training."""
    model = make_other_form(model_type, directory / "model")
    sync = {"probe_prompts": 8, "tolerance": 1e-4}
    config = config_for(model, directory / "run", **{"loop": {"iterations": 1}, "sync": sync} | sections)
    result = raypref.run(config, prompts=PROMPTS, oracle=more_different_words)
    assert result.summary["sync"]["sync/logprob_difference_max"] < 1e-4
    assert abs(steps_of(result)[0]["kl_previous"]) < 2e-3, "the reference took the weights, too"
    assert result.policy_dir is not None
    return load_file(model / "model.safetensors"), load_file(result.policy_dir / "model.safetensors")


@pytest.mark.parametrize(
    "model_type", [name if name == IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.slow) for name in OTHER_FORMS]
)
def test_an_iteration_of_sppo(model_type: str, tmp_path: Path) -> None:
    """Engine, reference and learner agree before and after training, of which every tensor was a part; the export has the files' form."""
    if model_type == "qwen3_5_text":
        pytest.importorskip("torchvision", reason="vLLM's Qwen3.5 imports torchvision, for images")
    before, after = one_iteration(model_type, tmp_path)
    assert {name: tensor.shape for name, tensor in before.items()} == {name: tensor.shape for name, tensor in after.items()}
    assert [name for name in before if before[name].equal(after[name])] == []


@pytest.mark.slow
def test_an_adapter_on_the_attention_of_a_mixture(tmp_path: Path) -> None:
    """The second sync leaves the experts out, and the engine keeps those that it has."""
    adapted = {"path": str(tmp_path / "model"), "dtype": "float32", "lora": {"rank": 4, "target_modules": ["q_proj", "v_proj"]}}
    before, after = one_iteration("qwen3_moe", tmp_path, policy=adapted)
    changed = [name for name in before if not before[name].equal(after[name])]
    assert len(changed) == 4
    assert all(".q_proj." in name or ".v_proj." in name for name in changed)


@pytest.mark.slow
def test_a_mixture_that_zero_3_partitions(tmp_path: Path) -> None:
    """Two ranks gather the experts of a layer together, and send each by itself."""
    before, after = one_iteration(
        "qwen3_moe",
        tmp_path,
        learner={"global_batch": 4, "optimizer": {"lr": 1e-3}, "timeout_s": 120, "zero_stage": 3},
        placement={"device": "cpu", "oracle": {"gpus": 0}, "learner": {"ranks": 2, "cpus": 0.5}},
    )
    assert [name for name in before if before[name].equal(after[name])] == []

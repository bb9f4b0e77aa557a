from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.policy_model import context_limit, end_token_ids, facts_of, load_model, load_tokenizer, named_end_tokens, without_weights
from raypref.checks import check_learner
from raypref.errors import ConfigError
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig
from tests.learner_bench import make_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    return make_policy(tmp_path_factory.mktemp("policy"))


def test_frozen_and_trainable(policy: PolicyConfig) -> None:
    """Frozen: nothing requires a gradient, evaluation mode. With an adapter: its factors do, and nothing else."""
    frozen = load_model(policy, torch.device("cpu"))
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    adapted = load_model(policy.model_copy(update={"lora": LoraConfig(rank=2)}), torch.device("cpu"), trainable=True)
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in adapted.named_parameters() if "lora_" in name}
    assert len(trainable) == 2 * 7 * 2, "two factors for each of seven projections of two layers"


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "v_proj"], r".*\.mlp\..*_proj", ["layers.0.mlp.up_proj"]])
def test_adapters_that_fit(policy: PolicyConfig, modules: str | list[str]) -> None:
    without_weights(policy.model_copy(update={"lora": LoraConfig(target_modules=modules)}))
    without_weights(policy)


@pytest.mark.parametrize("modules", [["q_proj", "v_porj"], ["query_key_value"], [], "q_porj", "(", ["model"], ["norm"]])
def test_adapters_that_match_no_module_are_refused(policy: PolicyConfig, modules: str | list[str]) -> None:
    with pytest.raises(ConfigError, match=r"policy\.lora\.target_modules: .*the model has .*down_proj"):
        without_weights(policy.model_copy(update={"lora": LoraConfig(target_modules=modules)}))


def test_facts_know_the_vocabulary(policy: PolicyConfig) -> None:
    assert facts_of(policy).vocabulary == load_model(policy, torch.device("cpu")).get_input_embeddings().weight.shape[0]


def test_dtype(policy: PolicyConfig) -> None:
    model = load_model(policy.model_copy(update={"dtype": "bfloat16"}), torch.device("cpu"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_tokens_and_limits(policy: PolicyConfig) -> None:
    assert end_token_ids(policy) == (2, 3)
    assert context_limit(policy) == 128
    assert context_limit(policy.model_copy(update={"max_context_tokens": 50})) == 50
    with pytest.raises(ConfigError, match=r"policy\.max_context_tokens: 129 is above the 128"):
        context_limit(policy.model_copy(update={"max_context_tokens": 129}))
    assert load_tokenizer(policy)("w7 w9").input_ids == [7, 9]


def test_rotary_frequencies_that_change_at_a_length_limit_the_context(policy: PolicyConfig, tmp_path: Path) -> None:
    config = json.loads((Path(policy.path) / "config.json").read_text())
    config.pop("rope_parameters", None)
    factors = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_parameters": factors | {"original_max_position_embeddings": 64}}))
    with pytest.raises(ConfigError, match=r"policy\.max_context_tokens: 128, but .* beyond 64 tokens \(longrope\).* set at most 64"):
        context_limit(PolicyConfig(path=str(tmp_path)))
    assert context_limit(PolicyConfig(path=str(tmp_path), max_context_tokens=64)) == 64


def test_end_tokens_without_a_generation_config(policy: PolicyConfig, tmp_path: Path) -> None:
    config = json.loads((Path(policy.path) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 9}))
    load_tokenizer(policy).save_pretrained(tmp_path)
    assert named_end_tokens(PolicyConfig(path=str(tmp_path))) == (9,)
    assert end_token_ids(PolicyConfig(path=str(tmp_path))) == (2, 9), "the tokenizer's comes first"


@pytest.mark.parametrize("path", ["/no/such/model", "./no_such_model", "no/such/model"])
def test_a_directory_that_does_not_exist(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.path: no model directory at '{path}'"):
        load_model(PolicyConfig(path=path), torch.device("cpu"))


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.path: cannot load"):
        load_model(PolicyConfig(path=str(tmp_path)), torch.device("cpu"))


def test_a_missing_tokenizer_is_named_by_its_own_key(policy: PolicyConfig) -> None:
    with pytest.raises(ConfigError, match=r"policy\.tokenizer: no model directory at '/nowhere'"):
        load_tokenizer(policy.model_copy(update={"tokenizer": "/nowhere"}))


def test_what_deepspeed_trains_wrongly_is_refused() -> None:
    check_learner(PolicyConfig(path="m", dtype="bfloat16"), LearnerConfig(zero_stage=1))
    check_learner(PolicyConfig(path="m", dtype="float32"), LearnerConfig(zero_stage=0))
    with pytest.raises(ConfigError, match=r"learner\.zero_stage: 0, which trains wrongly"):
        check_learner(PolicyConfig(path="m", dtype="bfloat16"), LearnerConfig(zero_stage=0))


def test_weights_that_are_not_in_the_files(policy: PolicyConfig, tmp_path: Path) -> None:
    """transformers makes up random values for them, and says so in its log only."""
    model = load_model(policy, torch.device("cpu"))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"policy\.path: .* lack 1 weights of its model, model\.layers\.1\.mlp\.up_proj\.weight the first"
    ):
        load_model(PolicyConfig(path=str(tmp_path)), torch.device("cpu"))

"""What is sent and exported is what ``save_pretrained`` writes, tensor for tensor, whatever form the module has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import Concatenate, WeightConverter, WeightRenaming

from actors.learner.policy_export import export
from actors.policy_model import check_routers, load_model
from actors.weight_files import empty_model, stored_weights
from actors.weights.received_policy import ModelTensors
from actors.weights.source import DeepSpeedSource, check_sendable
from actors.weights.stored_form import stored_form
from raypref.errors import ConfigError
from raypref.sections import LoraConfig, PolicyConfig
from tests.tiny_models import OTHER_FORMS, make_model, make_other_form

CPU = torch.device("cpu")
FILE = "model.safetensors"


@pytest.fixture(params=sorted(OTHER_FORMS))
def policy(request: pytest.FixtureRequest, tmp_path: Path) -> PolicyConfig:
    return PolicyConfig(path=str(make_other_form(request.param, tmp_path / "policy")), dtype="float32")


def test_the_files_of_these_models_have_other_names_than_the_module(policy: PolicyConfig) -> None:
    """Otherwise the other tests would compare nothing."""
    assert load_file(Path(policy.path) / FILE).keys() != load_model(policy, CPU).state_dict().keys()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_sent_is_what_is_stored(dtype: torch.dtype | None, policy: PolicyConfig) -> None:
    """Of a policy that training has changed; in many small buckets. Nothing is copied, and the metadata say what comes."""
    model = load_model(policy, CPU, trainable=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    source = DeepSpeedSource(model, dtype=dtype, bucket_elements=5000)
    sent = list(source)
    assert [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()] == [(name, t.dtype, tuple(t.shape)) for name, t in sent]
    model.save_pretrained(Path(policy.path) / "trained")
    stored = load_file(Path(policy.path) / "trained" / FILE)
    assert dict(sent).keys() == stored.keys() == load_file(Path(policy.path) / FILE).keys()
    assert len(sent) == len(stored)
    assert all(torch.equal(tensor, stored[name].to(tensor.dtype)) for name, tensor in sent)
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert all(tensor.untyped_storage().data_ptr() in storages for _, tensor in sent) == (dtype is None)


def test_a_copy_of_the_policy_takes_the_stored_tensors(policy: PolicyConfig) -> None:
    """The learner's policy, sent to a reference and exported, has the learner's logits to the last bit in both places."""
    learner = load_model(policy, CPU, trainable=True)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(1.5)
    source = DeepSpeedSource(learner)
    reference = load_model(policy, CPU)
    tensors = ModelTensors(reference)
    tensors.load_weights(source)
    tensors.check_complete()
    export(source, policy, Path(policy.path) / "exported", write=True)
    exported = load_model(policy.model_copy(update={"path": str(Path(policy.path) / "exported")}), CPU)
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        expected = learner.eval()(ids).logits
        assert torch.equal(reference(ids).logits, expected)
        assert torch.equal(exported(ids).logits, expected)
    assert load_file(Path(policy.path) / "exported" / FILE).keys() == load_file(Path(policy.path) / FILE).keys()


def test_a_model_that_is_filled_tensor_by_tensor_knows_the_form_of_its_files(policy: PolicyConfig) -> None:
    """As ZeRO-3 and references on several GPUs fill it; before, and without, any tensor being read, since most ranks read none."""
    model = empty_model(policy)
    weights = stored_weights(policy, model)
    assert {meta.name for meta in DeepSpeedSource(model).metadata()} == load_file(Path(policy.path) / FILE).keys()
    loaded, filled = load_model(policy, CPU).state_dict(), dict(weights)
    assert loaded.keys() == filled.keys()
    assert all(tensor.equal(filled[name]) for name, tensor in loaded.items())


def check(policy: PolicyConfig, modules: str | list[str]) -> None:
    check_sendable(policy.model_copy(update={"lora": LoraConfig(rank=2, target_modules=modules)}))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:The following .*_pattern keys:RuntimeWarning")
def test_adapters_on_experts_are_refused_before_anything_starts(tmp_path: Path) -> None:
    """peft's "all-linear" means a mixture's experts and routers, too."""
    policy = PolicyConfig(path=str(make_other_form("mixtral", tmp_path / "policy")))
    with pytest.raises(ConfigError, match=r"target_modules: .* experts and gate, .* MixtralForCausalLM, .* alone: \['k_proj', 'o_proj', "):
        check(policy, "all-linear")
    check(policy, ["q_proj", "v_proj"])


def test_a_mixture_with_an_adapter_on_its_attention(tmp_path: Path) -> None:
    """At first everything is sent; later the four projections of each layer, which engines fuse, and no expert."""
    policy = PolicyConfig(path=str(make_other_form("mixtral", tmp_path / "policy")), lora=LoraConfig(rank=2, target_modules=["q_proj"]))
    source = DeepSpeedSource(load_model(policy, CPU, trainable=True))
    assert {name for name, _ in source} == load_file(tmp_path / "policy" / FILE).keys()
    source.complete = False
    assert [name for name, _ in source] == [f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in range(2) for part in "qkvo"]


def test_an_auxiliary_loss_of_the_routers_is_refused(tmp_path: Path) -> None:
    """It would be left out of the training in silence."""
    policy = PolicyConfig(path=str(make_other_form("mixtral", tmp_path / "policy")))
    check_routers(policy)
    file = tmp_path / "policy" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"output_router_logits": True}))
    with pytest.raises(ConfigError, match=r"policy\.path: .*output_router_logits: true.*auxiliary loss"):
        check_routers(policy)


def llama(tmp_path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "llama", tied=False))


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_a_form_with_the_modules_own_names_is_the_module(tmp_path: Path) -> None:
    model = llama(tmp_path)
    form = stored_form(model, shapes_of(model))
    assert [(name, [part.name for part in parts]) for name, parts in form.items()] == [(name, [name]) for name in shapes_of(model)]
    head = model.lm_head.weight
    assert form["lm_head.weight"][0].of(head) is head


def test_a_model_whose_files_fuse_two_parameters_is_refused(tmp_path: Path) -> None:
    """The fused tensor is a part of neither: sending it would take both at once, and memory for a third."""
    model = llama(tmp_path)
    parts = ["mlp.gate_proj.weight", "mlp.up_proj.weight"]
    model._weight_conversions = [WeightConverter("mlp.gate_up_proj.weight", parts, [Concatenate(dim=0).reverse_op])]
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM .* model.layers.0.mlp.gate_up_proj.weight is computed from its parameters"):
        stored_form(model, shapes_of(model))


def test_a_model_whose_renaming_does_not_lead_back_is_refused(tmp_path: Path) -> None:
    """Stored under a name that transformers does not load into the place it came from."""
    model = llama(tmp_path)
    model._weight_conversions = [WeightRenaming("head.weight", "lm_head.weight")]
    with pytest.raises(ConfigError, match=r"lm_head\.weight is stored as head.weight, which transformers loads as head.weight"):
        stored_form(model, shapes_of(model))


def test_a_model_whose_renaming_makes_two_names_one_is_refused(tmp_path: Path) -> None:
    model = llama(tmp_path)
    model._weight_conversions = [WeightRenaming("mlp.proj", "mlp.up_proj"), WeightRenaming("mlp.proj", "mlp.gate_proj")]
    with pytest.raises(ConfigError, match=r"store 0 tensors for model.layers.\d.mlp.\w+_proj.weight, which are not the whole of it"):
        stored_form(model, shapes_of(model))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2", "opt", "glm4", "smollm3", "exaone4"])
def test_other_models_keep_their_names(model_type: str) -> None:
    """Built from their config on the meta device, in the sizes of their class."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, num_hidden_layers=1))
    shapes = shapes_of(model)
    assert [part.name for parts in stored_form(model, shapes).values() for part in parts] == list(shapes)

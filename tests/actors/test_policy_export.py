"""The exported policy: whatever its files hold, what was trained is written; what could not be written is refused before the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from actors.learner import policy_export
from actors.learner.adapter_export import Adapter
from actors.learner.policy_export import check_savable, export
from actors.policy_model import end_token_ids, facts_of, load_model, load_tokenizer
from actors.weights.source import DeepSpeedSource
from raypref.errors import ConfigError
from raypref.sections import LoraConfig, PolicyConfig
from tests.tiny_models import make_model

GENERATION = [
    {"eos_token_id": 2, "temperature": 0.9, "top_p": 0.6},  # vicuna-v1.5: sampling flags without do_sample
    {"eos_token_id": [2, 3], "do_sample": True, "top_k": 20},
    {"eos_token_id": 2, "num_beams": 1, "early_stopping": True, "length_penalty": 2.0},
    {"eos_token_id": 2, "some_other_tool": {"x": [1]}},
    None,
]
IN_CONFIG = [{}, {"temperature": 0.7, "do_sample": False}, {"top_p": 0.5, "max_length": 30}]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_config", IN_CONFIG)
@pytest.mark.parametrize("generation", GENERATION)
def test_a_policy_is_written_with_its_generation_config_as_it_came(
    generation: dict[str, Any] | None, in_config: dict[str, Any], tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", tied=True)
    file = base / "generation_config.json"
    if generation is None:
        file.unlink()
    else:
        file.write_text(json.dumps(generation))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | in_config))
    policy = PolicyConfig(path=str(base), dtype="float32")
    check_savable(policy, load_tokenizer(policy))
    trained = AutoModelForCausalLM.from_pretrained(base)
    export(DeepSpeedSource(trained), policy, tmp_path / "policy", write=True)
    written = tmp_path / "policy" / "generation_config.json"
    if generation is None:
        assert GenerationConfig.from_pretrained(tmp_path / "policy").eos_token_id == 2
    else:
        assert written.read_bytes() == file.read_bytes()
    assert not in_config.keys() & json.loads((tmp_path / "policy" / "config.json").read_text()).keys()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert all(a.equal(b) for a, b in zip(again.parameters(), trained.parameters(), strict=True))


def test_the_export_names_the_tokenizers_end_token(tmp_path: Path) -> None:
    """The engines of the run stopped at </s> (2), too; whoever serves the export must."""
    base = make_model(tmp_path / "base", tied=True)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 3, "top_p": 0.6}))
    policy = PolicyConfig(path=str(base), dtype="float32")
    assert facts_of(policy).end_token_ids == end_token_ids(policy) == (2, 3)
    export(DeepSpeedSource(AutoModelForCausalLM.from_pretrained(base)), policy, tmp_path / "policy", write=True)
    assert json.loads((tmp_path / "policy" / "generation_config.json").read_text()) == {"eos_token_id": [2, 3], "top_p": 0.6}


def test_what_cannot_be_saved_is_refused_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = PolicyConfig(path=str(make_model(tmp_path / "base", tied=True)), dtype="float32")
    tokenizer = load_tokenizer(policy)
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: {}["vocabulary"])
    with pytest.raises(ConfigError, match=r"^policy.tokenizer: transformers loads the tokenizer of '.*base' but cannot save it.*KeyError"):
        check_savable(policy, tokenizer)


@pytest.mark.parametrize("tied", [True, False])
def test_an_export_of_several_files(tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file exceeds the limit, the index names each tensor's file, and nothing is left of an earlier export; ranks that do not write
    only iterate."""
    base = make_model(tmp_path / "base", tied=tied)
    policy = PolicyConfig(path=str(base), dtype="float32")
    trained = AutoModelForCausalLM.from_pretrained(base)
    export(DeepSpeedSource(trained), policy, tmp_path / "nothing", write=False)
    assert not (tmp_path / "nothing").exists()
    directory = tmp_path / "policy"
    for limit, count in ((40_000, None), (1 << 30, 1), (33_000, None)):
        monkeypatch.setattr(policy_export, "FILE_BYTES", limit)
        export(DeepSpeedSource(trained), policy, directory, write=True)
        files = sorted(directory.glob("*.safetensors"))
        assert (len(files) == count) if count else len(files) > 3
        stored = [load_file(file) for file in files]
        assert all(sum(tensor.nbytes for tensor in held.values()) <= limit for held in stored)
        assert (directory / "model.safetensors.index.json").exists() == (count != 1)
        if count != 1:
            index = json.loads((directory / "model.safetensors.index.json").read_text())
            assert index["weight_map"] == {key: file.name for file, held in zip(files, stored, strict=True) for key in held}
            assert index["metadata"]["total_size"] == 4 * trained.num_parameters()
        again = AutoModelForCausalLM.from_pretrained(directory)
        assert all(a.equal(b) for a, b in zip(again.parameters(), trained.parameters(), strict=True))
    by_transformers = tmp_path / "by_transformers"
    trained.save_pretrained(by_transformers)
    assert (by_transformers / "config.json").read_text() == (directory / "config.json").read_text()
    assert load_file(by_transformers / "model.safetensors").keys() == {key for held in stored for key in held}


def test_the_adapter_is_written_as_peft_reads_it(tmp_path: Path) -> None:
    """The base policy with the adapter on top computes what the trained model computes, and differs from the base policy."""
    policy = PolicyConfig(path=str(make_model(tmp_path / "base", tied=True)), dtype="float32", lora=LoraConfig(rank=4))
    trained = load_model(policy, torch.device("cpu"), trainable=True)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    adapter = Adapter.of(trained)
    assert adapter is not None
    adapter.write(policy, tmp_path / "policy")
    base = AutoModelForCausalLM.from_pretrained(policy.path)
    assert Adapter.of(base) is None
    ids = torch.tensor([[5, 6, 7]])
    expected, before = trained(ids).logits, base(ids).logits
    found = peft.PeftModel.from_pretrained(base, tmp_path / "policy" / "adapter")(ids).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, before)
    written = json.loads((tmp_path / "policy" / "adapter" / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["inference_mode"], written["r"]) == (policy.path, True, 4)

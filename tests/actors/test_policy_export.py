"""The exported policy: whatever its files hold, what was trained is written; what could not be written is refused before the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from actors.learner.policy_export import check_savable, export
from actors.policy_model import end_token_ids, facts_of, load_tokenizer
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig
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
    export(trained.named_parameters(), policy, tmp_path / "policy", write=True)
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
    export(AutoModelForCausalLM.from_pretrained(base).named_parameters(), policy, tmp_path / "policy", write=True)
    assert json.loads((tmp_path / "policy" / "generation_config.json").read_text()) == {"eos_token_id": [2, 3], "top_p": 0.6}


def test_what_cannot_be_saved_is_refused_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = PolicyConfig(path=str(make_model(tmp_path / "base", tied=True)), dtype="float32")
    tokenizer = load_tokenizer(policy)
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: {}["vocabulary"])
    with pytest.raises(ConfigError, match=r"^policy.tokenizer: transformers loads the tokenizer of '.*base' but cannot save it.*KeyError"):
        check_savable(policy, tokenizer)

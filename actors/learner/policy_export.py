"""The policy as a Hugging Face model directory."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.policy_model import end_token_ids, load_model, load_tokenizer, model_config, named_end_tokens
from actors.weights.received_policy import ModelTensors
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig

if TYPE_CHECKING:
    import torch

GENERATION_CONFIG = "generation_config.json"


def export(weights: Iterable[tuple[str, torch.Tensor]], policy: PolicyConfig, directory: Path, *, write: bool) -> None:
    """Write config, generation config, weights and tokenizer.

    Args:
        weights: the policy's parameters as a checkpoint stores them. Under ZeRO-3 iterating is a collective, so every rank must do it.
        policy: the policy as it was loaded: its architecture, generation config and tokenizer.
        directory: created, or overwritten.
        write: True on one rank; the others only iterate.
    """
    import torch

    state: dict[str, torch.Tensor] = {}
    for name, tensor in weights:
        if write:
            state[name] = tensor.detach().to("cpu", copy=True)
    if not write:
        return
    model: Any = load_model(policy, torch.device("cpu"))
    tensors = ModelTensors(model)
    tensors.load_weights(state.items())
    tensors.check_complete()
    generation = model.generation_config
    model.generation_config = type(generation)()  # transformers refuses to save one with a temperature and without do_sample
    _without_generation_parameters(model.config)
    model.save_pretrained(directory)
    generation.to_json_file(directory / GENERATION_CONFIG, use_diff=True)
    if (as_it_came := _generation_config(policy)) is not None:
        (directory / GENERATION_CONFIG).write_bytes(as_it_came)
    _name_end_tokens(policy, directory / GENERATION_CONFIG)
    load_tokenizer(policy).save_pretrained(directory)


def check_savable(policy: PolicyConfig, tokenizer: Any) -> None:
    """Save the policy's config and tokenizer for trial: what transformers refuses to save at the end is refused before the start.

    Args:
        policy: the policy.
        tokenizer: its tokenizer.

    Raises:
        ConfigError: naming what cannot be saved, and why.
    """
    config = model_config(policy)
    _without_generation_parameters(config)
    with tempfile.TemporaryDirectory() as directory:
        for key, name, part in (("policy.path", "config.json", config), ("policy.tokenizer", "the tokenizer", tokenizer)):
            try:
                part.save_pretrained(directory)
            except Exception as error:  # whatever a model's code raises
                source = policy.path if key == "policy.path" else policy.tokenizer or policy.path
                raise ConfigError(
                    f"{key}: transformers loads {name} of {source!r} but cannot save it, so the trained policy could not be written: "
                    f"{type(error).__name__}: {error}; correct the files"
                ) from error


def _generation_config(policy: PolicyConfig) -> bytes | None:
    """The content of the policy's generation_config.json, of which nothing is the run's; None where there is none that can be read."""
    from transformers.utils import cached_file

    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(policy.path, GENERATION_CONFIG, **optional)
    if path is None:
        return None
    content = Path(path).read_bytes()
    with contextlib.suppress(ValueError):
        json.loads(content)
        return content
    return None


def _name_end_tokens(policy: PolicyConfig, file: Path) -> None:
    """Add the end tokens at which the run's engines stopped and which the policy's generation config does not name."""
    ends = end_token_ids(policy)
    if not set(ends) <= set(named_end_tokens(policy)):
        named = json.loads(file.read_bytes())
        file.write_text(json.dumps(named | {"eos_token_id": list(ends)}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_generation_parameters(config: Any) -> None:
    """Remove what old models have in config.json instead of generation_config.json, where it goes now; transformers refuses to save it."""
    for name in config._get_generation_parameters():
        delattr(config, name)

"""The policy as a Hugging Face model directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.policy_model import end_token_ids, load_model, load_tokenizer, named_end_tokens
from raypref.sections import PolicyConfig

if TYPE_CHECKING:
    import torch


def export(weights: Iterable[tuple[str, torch.Tensor]], policy: PolicyConfig, directory: Path, *, write: bool) -> None:
    """Write config, generation config, weights and tokenizer.

    Args:
        weights: the policy's parameters under the checkpoint's names. Under ZeRO-3 iterating is a collective, so every rank must do it.
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
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    if unexpected or (set(missing) - tied):
        raise RuntimeError(f"export: the learner's parameters do not fit the model: missing {missing}, unexpected {unexpected}")
    ends = end_token_ids(policy)
    if set(ends) != set(named_end_tokens(policy)):
        model.generation_config.eos_token_id = list(ends)
    model.save_pretrained(directory)
    load_tokenizer(policy).save_pretrained(directory)

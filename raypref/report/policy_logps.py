"""Log-probs of a group's sequences under the policies that a run has left on disk: base, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.report.run_directory import RunDirectory
from raypref.training.collation import sequences
from raypref.types import Example, TokenSequence

BASE, BEFORE, AFTER = "log pi_base", "log pi_t, before", "log pi_t+1, after"


def policies_around(run: RunDirectory, config: RunConfig, iteration: int) -> dict[str, Path]:
    """The policies before and after an iteration, and the base policy, as far as they are on disk."""
    exported = run.exported
    last = run.iterations == iteration
    paths = {
        BASE: Path(config.policy.path),
        BEFORE: Path(config.policy.path) if iteration == 1 else exported.get(iteration - 1),
        AFTER: exported.get(iteration) or (exported.get(None) if last else None),
    }
    return {name: path for name, path in paths.items() if path is not None and path.is_dir()}


def logps_of(policies: Mapping[str, Path], example: Example, config: RunConfig) -> dict[str, NDArray[np.float64]]:
    """Name -> (S,) of the sequences of an example; see ``logps_under``."""
    return logps_under(policies, sequences([example]), config)


def logps_under(policies: Mapping[str, Path], wanted: Sequence[TokenSequence], config: RunConfig) -> dict[str, NDArray[np.float64]]:
    """Name -> (N,) log pi(y | x) of each sequence, summed over its response tokens, in nats, computed in float32.

    Args:
        policies: name -> model directory. Each is loaded once, one after the other, on a GPU if there is one.
        wanted: N sequences.
        config: of the run.

    Raises:
        ConfigError: a policy cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from raypref.training.logprobs import per_token_logps

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, NDArray[np.float64]] = {}
    loaded: dict[Path, NDArray[np.float64]] = {}
    for name, path in policies.items():
        if path not in loaded:
            try:
                model: Any = AutoModelForCausalLM.from_pretrained(
                    path, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=config.policy.trust_remote_code
                )
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
            with torch.no_grad():
                logps = per_token_logps(model.to(device).eval(), wanted, config.learner.micro_batch_tokens)
            loaded[path] = np.array([float(entry.sum()) for entry in logps])
        found[name] = loaded[path]
    return found

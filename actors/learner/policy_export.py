"""The policy as a Hugging Face model directory."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from actors.learner import disk_errors
from actors.policy_model import end_token_ids, load_tokenizer, model_config, named_end_tokens
from actors.weight_files import empty_model
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig

if TYPE_CHECKING:
    from torch import Tensor

    from actors.learner.background import HostCopies
    from actors.weights.source import TensorInfo, WeightSource

GENERATION_CONFIG = "generation_config.json"
FILE_BYTES = 2 << 30
"""Weights that one file holds at most, and host memory while it is written."""


def export(weights: WeightSource, policy: PolicyConfig, directory: Path, *, write: bool) -> None:
    """Write config, generation config, weights and tokenizer. Host memory holds the weights of one file at a time.

    Args:
        weights: the policy's parameters as a checkpoint stores them. Under ZeRO-3 iterating is a collective, so every rank must do it.
        policy: the policy as it was loaded: its architecture, generation config and tokenizer.
        directory: created, or overwritten.
        write: True on one rank; the others only iterate.
    """
    if not write:
        deque(weights, maxlen=0)
        return
    describe(policy, directory)
    write_weights(weights, directory)


def describe(policy: PolicyConfig, directory: Path) -> None:
    """Write everything but the weights, in place of an earlier export. While this runs nothing else of the process may build a model or
    draw random numbers."""
    model = empty_model(policy)
    generation = model.generation_config
    model.generation_config = type(generation)()  # transformers refuses to save one with a temperature and without do_sample
    _without_generation_parameters(model.config)
    model.save_pretrained(directory, state_dict={})  # config and custom code
    for earlier in directory.glob("model*.safetensors*"):
        earlier.unlink()
    generation.to_json_file(directory / GENERATION_CONFIG, use_diff=True)
    if (as_it_came := _generation_config(policy)) is not None:
        (directory / GENERATION_CONFIG).write_bytes(as_it_came)
    _name_end_tokens(policy, directory / GENERATION_CONFIG)
    load_tokenizer(policy).save_pretrained(directory)


@dataclass(frozen=True, slots=True)
class CopiedWeights:
    """The weights of one pass in host memory, to be written later."""

    tensors: Sequence[TensorInfo]
    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, weights: WeightSource, copies: HostCopies, *, keep: bool) -> Self:
        """Copy the weights. Under ZeRO-3 a collective.

        Args:
            weights: read once.
            copies: where the copies are made.
            keep: True on one rank; the others only iterate.
        """
        return cls(weights.metadata(), {name: copies.alone(tensor) for name, tensor in weights if keep})

    def metadata(self) -> Sequence[TensorInfo]:
        return self.tensors

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.values.items())


def write_weights(weights: WeightSource | CopiedWeights, directory: Path) -> None:
    """Write safetensors files as transformers does: one, or several with an index.

    Raises:
        OSError: the disk did not take them.
    """
    from safetensors.torch import save_file

    tensors = weights.metadata()
    files = _split(tensors)
    names = [f"model-{k:05}-of-{len(files):05}.safetensors" for k in range(1, len(files) + 1)] if len(files) > 1 else ["model.safetensors"]
    values = iter(weights)
    for name, file in zip(names, files, strict=True):
        held = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in islice(values, len(file))}
        with disk_errors.named(directory / name):
            save_file(held, directory / name, metadata={"format": "pt"})
        del held
    deque(values, maxlen=0)  # the end of the pass is a collective, too
    if len(files) > 1:
        total = {"total_parameters": sum(map(_elements, tensors)), "total_size": sum(map(_size, tensors))}
        places = {tensor.name: name for name, file in zip(names, files, strict=True) for tensor in file}
        index = json.dumps({"metadata": total, "weight_map": places}, indent=2) + "\n"
        (directory / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def _split(tensors: Sequence[TensorInfo]) -> list[list[TensorInfo]]:
    """The tensors of each file, in order, ``FILE_BYTES`` at most; a larger tensor is a file by itself."""
    files: list[list[TensorInfo]] = [[]]
    for tensor in tensors:
        if files[-1] and sum(map(_size, files[-1])) + _size(tensor) > FILE_BYTES:
            files.append([])
        files[-1].append(tensor)
    return files


def _elements(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape)


def _size(tensor: TensorInfo) -> int:
    return _elements(tensor) * tensor.dtype.itemsize


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

"""Models that are filled from the checkpoint's files one tensor at a time, because no device or host holds the whole model.

    model = empty_model(policy)                                    # parameters on the meta device
    for name, tensor in stored_weights(policy, model):             # host memory holds one tensor of the model, less than a file
        put(model, {name: Parameter(...)})                         # where its device or its share of ZeRO-3 is
    finish(model, missing, policy)

Names and conversions are those of transformers' ``from_pretrained``, which reads every file before it fills a model that ZeRO-3 partitions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.policy_model import model_config, refuse_missing
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def empty_model(policy: PolicyConfig) -> Any:
    """The model with its parameters on the meta device, and its buffers in host memory as its constructor makes them.

    Raises:
        ConfigError: ``policy.path`` is not a model that can be read.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import build_glob_alternation
    from transformers.initialization import no_init_weights

    dtype = getattr(torch, policy.dtype)
    with init_empty_weights(include_buffers=False), no_init_weights(), torch.random.fork_rng(devices=[]):
        model: Any = AutoModelForCausalLM.from_config(
            model_config(policy), dtype=dtype, attn_implementation=policy.attention, trust_remote_code=policy.trust_remote_code
        )
    if in_float32 := list(model._get_dtype_plan(dtype)):  # what ``from_pretrained`` keeps in float32
        kept, _, _ = build_glob_alternation(in_float32)
        for module_name, module in model.named_modules():
            for name, buffer in module.named_buffers(recurse=False):
                if kept.search(f"{module_name}.{name}"):
                    module._buffers[name] = buffer.float()
    return model


def weight_files(policy: PolicyConfig) -> list[str]:
    """Paths of the safetensors files of ``policy.path``, which hold other weights each.

    Raises:
        ConfigError: there is none, or one that the index names is missing.
    """
    from transformers.utils import cached_file
    from transformers.utils.hub import get_checkpoint_shard_files

    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        if (single := cached_file(policy.path, WEIGHTS, **optional)) is not None:
            return [single]
        if (index := cached_file(policy.path, INDEX, **optional)) is not None:
            return list(get_checkpoint_shard_files(policy.path, index)[0])
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.path: cannot load {policy.path!r}: {error}") from error
    raise ConfigError(f"policy.path: cannot load {policy.path!r}: there is neither {WEIGHTS} nor {INDEX}")


def stored_weights(policy: PolicyConfig, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name in the model, tensor in host memory) of every stored tensor that the model has, in the model's dtypes.

    Renamed and converted as ``from_pretrained`` does it: by transformers' conversions of the model's class, on the keys in natural order.
    The call reads the names in the files, and the iteration the tensors.

    Args:
        model: of transformers, whose tensors may be on the meta device. As after ``from_pretrained``, it then knows which conversions its
            files need, so that its weights can be stored in the same form again (``actors.weights.stored_form``).

    Raises:
        ConfigError: as ``weight_files``, a file cannot be read, or a tensor has another shape than in the model.
    """
    targets = model.state_dict()
    return _read_all(policy, model, targets, _conversions(policy, model, targets))


def _read_all(
    policy: PolicyConfig, model: Any, targets: Mapping[str, torch.Tensor], conversions: Mapping[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    for target, conversion in conversions.items():
        for name, value in conversion.convert(target, model=model, config=model.config).items():
            tensor = value[0] if isinstance(value, list) else value
            if tensor.shape != targets[name].shape:
                shapes = f"{tuple(tensor.shape)} in the files, and {tuple(targets[name].shape)} by config.json"
                raise ConfigError(f"policy.path: {name} of {policy.path!r} is {shapes}")
            yield name, tensor


def _conversions(policy: PolicyConfig, model: Any, targets: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """First name in the model -> how its tensors are made of those in the files; see transformers' ``core_model_loading``."""
    from safetensors import SafetensorError, safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    file_of: dict[str, str] = {}
    for file in weight_files(policy):
        try:
            with safe_open(file, framework="pt") as opened:
                file_of |= dict.fromkeys(opened.keys(), file)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"policy.path: cannot read {file}: {error}") from error
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    conversions: dict[str, Any] = {}
    for key in sorted(file_of, key=dot_natural_key):
        target, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, targets)
        if target not in targets and key in targets:
            target, pattern = rename_source_key(key, [], [], model.base_model_prefix, targets)
        if target not in targets:
            continue  # from_pretrained leaves it out, too: a head of another task, say
        if pattern is None:
            conversion = conversions.setdefault(target, WeightRenaming(key, target))
        else:
            conversion = conversions.setdefault(target, deepcopy(by_pattern[pattern]))
        conversion.add_tensor(target, key, pattern or key, partial(_read, file_of[key], key, targets[target].dtype))
    model._weight_conversions = [entry for entry in mapping if entry.was_used()]
    return conversions


def _read(file: str, key: str, dtype: torch.dtype) -> torch.Tensor:
    """One tensor. The file is opened for it alone, so that what is read of it does not stay mapped into memory."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(key).to(dtype)
    return tensor


def put(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make the tensors the model's, by name."""
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, tensor)


def finish(model: Any, missing: set[str], policy: PolicyConfig) -> None:
    """Make weights that the model's config ties one tensor.

    Args:
        missing: names in the model that the files do not hold.

    Raises:
        ConfigError: one of them is neither tied to a weight that the files hold, nor a buffer that the model computes.
    """
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    computed = re.compile("|".join(model._keys_to_ignore_on_load_missing or ["(?!)"]))
    buffers = {name for name, _ in model.named_buffers() if computed.search(name)}
    refuse_missing(missing - buffers, policy)

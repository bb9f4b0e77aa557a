"""How the tensors of a transformers model are stored in its checkpoint: under which names, and in which parts.

transformers keeps some weights under other names than the checkpoint, or several of its tensors as one: GPT-NeoX's head is
``embed_out.weight`` in the files and ``lm_head.weight`` in the module; Qwen3-MoE's files have three matrices for each expert, its module
two tensors for all experts of a layer. Engines and other programs know the stored form, so it is what syncs send and exports write:

    for name, stored in stored_form(model, tensors).items():       # a name in the module, and what is stored of it
        for part in stored:
            send(part.name, part.of(tensors[name]))                # a view: nothing is copied

The form comes from transformers' own table (``conversion_mapping``), reversed by the function that ``save_pretrained`` calls. It is
computed on the meta device, from shapes alone. A model is supported where each stored tensor is a view of one tensor of the module; then
the conversion is exact, needs no memory, and can be done as soon as that one tensor is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from raypref.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of the checkpoint, as a view of a tensor of the module."""

    name: str
    """In the checkpoint."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """Index of the first element in the module's tensor."""

    def of(self, whole: Tensor) -> Tensor:
        """The view of the module's tensor; writing to it changes that tensor.

        Args:
            whole: contiguous, of the shape that ``stored_form`` was given.
        """
        if self.shape == whole.shape:
            return whole if self.stride == whole.stride() else whole.as_strided(self.shape, self.stride)
        return whole.as_strided(self.shape, self.stride, whole.storage_offset() + self.offset)


def stored_form(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[StoredTensor, ...]]:
    """What the checkpoint stores of each tensor.

    Args:
        model: the model as transformers built it, without an adapter around it.
        shapes: name in the module -> whole shape, of the parameters and buffers that are stored; tied ones under one name.

    Returns:
        Name in the module -> its stored tensors, in the order of ``shapes``.

    Raises:
        ConfigError: transformers stores a tensor in a form that is no view of one tensor of the module, or would load a stored tensor
            into another place than it came from.
    """
    from transformers.core_model_loading import revert_weight_conversion

    whole = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    owners = {_storage(tensor): name for name, tensor in whole.items()}
    with _WithoutCopies():
        stored = revert_weight_conversion(model, dict(whole))
    form: dict[str, list[StoredTensor]] = {name: [] for name in shapes}
    for name, part in stored.items():
        owner = owners.get(_storage(part))
        if owner is None:
            raise _refusal(model, f"{name} is computed from its parameters, and not a part of one of them")
        form[owner].append(StoredTensor(name, tuple(part.shape), part.stride(), int(part.storage_offset())))
    _check_complete(model, whole, form)
    _check_loading(model, whole, form)
    return {name: tuple(parts) for name, parts in form.items()}


class _WithoutCopies(TorchFunctionMode):
    """In the block ``Tensor.contiguous`` copies nothing, so that parts of a tensor stay views of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.contiguous else func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _check_complete(model: nn.Module, whole: Mapping[str, Tensor], form: Mapping[str, list[StoredTensor]]) -> None:
    """Refuse a model of which the stored tensors leave something out, or have something twice."""
    for name, parts in form.items():
        if sum(torch.Size(part.shape).numel() for part in parts) != whole[name].numel():
            raise _refusal(model, f"its files store {len(parts)} tensors for {name}, which are not the whole of it")


def _check_loading(model: Any, whole: Mapping[str, Tensor], form: Mapping[str, list[StoredTensor]]) -> None:
    """Refuse a model of which transformers would load a stored tensor into another place than it came from."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, names = getattr(model, "base_model_prefix", None), dict(whole)
    for name, parts in form.items():
        for part in parts:
            loaded, _ = rename_source_key(part.name, renamings, converters, prefix, names)
            if loaded not in whole and part.name in whole:
                loaded = part.name  # what a renaming does not lead into the model, transformers loads by its own name
            if loaded != name:
                raise _refusal(model, f"{name} is stored as {part.name}, which transformers loads as {loaded}")


def _refusal(model: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"policy.path: {type(model).__name__} keeps its weights in another form than its checkpoint, and the way back is not exact: "
        f"{reason}; choose another model"
    )

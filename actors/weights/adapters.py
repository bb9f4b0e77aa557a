"""LoRA adapters in the weights that are sent: W + scale B A, under the names of the model without an adapter."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from raypref.errors import ConfigError
from raypref.training.packing import unwrapped


def module_name(name: str) -> str:
    """Without what peft adds: ``base_model.model.model.norm.base_layer.weight`` -> ``model.norm.weight``."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").removesuffix(".base_layer")


def adapted_layers(module: nn.Module) -> dict[int, Any]:
    """``id`` of a weight that has an adapter -> peft's layer around it.

    Raises:
        ConfigError: an adapter cannot be merged where it is.
    """
    _refuse_experts(module)
    layers: list[Any] = [layer for layer in module.modules() if hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight")]
    adapted = {id(layer.base_layer.weight): layer for layer in layers}
    _refuse_tied(module, adapted.keys())
    return adapted


def factors(layer: Any) -> tuple[nn.Parameter, ...]:
    """The parameters of a layer's adapter."""
    return tuple(parameter for key, parameter in layer.named_parameters() if key.startswith("lora_"))


def merged(weight: Tensor, layer: Any) -> Tensor:
    """W + sum over the active adapters of scale B A, as peft merges them; the layer is not changed."""
    result = weight.detach()
    for adapter in layer.active_adapters:
        result = result + layer.get_delta_weight(adapter)
    return result


def _refuse_tied(module: nn.Module, adapted: Collection[int]) -> None:
    """Refuse an adapter on one of two layers that share a weight: merged into the weight it would act on both.

    Args:
        module: the model.
        adapted: ``id`` of each weight that has an adapter.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(module_name(name))
    for key, (first, *others) in names.items():
        if others and key in adapted:
            layers = " and ".join(name.rpartition(".")[0].rpartition(".")[2] for name in (first, *others))
            raise ConfigError(
                f"policy.lora.target_modules: {first} is also {', '.join(others)}; an adapter cannot be merged there, leave out {layers}"
            )


def _refuse_experts(module: nn.Module) -> None:
    """Refuse an adapter on parameters that belong to no linear layer: the experts and routers of a mixture.

    peft computes B A of all experts in each forward pass, which takes as much memory as the experts themselves, and replaces the
    parameter while it does, which ZeRO-3 may have partitioned.
    """
    adapted = {name: layer for name, layer in module.named_modules() if hasattr(layer, "base_layer")}
    experts, linear = (
        sorted({module_name(name).rpartition(".")[2] for name, layer in adapted.items() if hasattr(layer, "parameter_name") == wanted})
        for wanted in (True, False)
    )
    if experts:
        raise ConfigError(
            f"policy.lora.target_modules: an adapter on {' and '.join(experts)}, the experts or routers of "
            f"{type(unwrapped(module)).__name__}, is not supported; name linear layers alone: {linear}"
        )

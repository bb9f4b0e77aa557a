"""The sizes of a model that its memory and arithmetic depend on, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from raypref.errors import ConfigError
from raypref.sections import LoraConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder with gated MLPs."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    adapter_parameters: int = 0
    """Parameters of a LoRA adapter; 0: all parameters are trained."""

    @classmethod
    def of(cls, config: PretrainedConfig, lora: LoraConfig | None = None) -> Self:
        """The shape of a model's config. Parameters are counted on the meta device, so that any architecture is supported.

        Args:
            config: the model's, of transformers.
            lora: the adapter that is trained, if any.

        Raises:
            ConfigError: the architecture does not state the size of its MLPs.
        """
        import torch
        from transformers import AutoModelForCausalLM

        if getattr(config.get_text_config(), "intermediate_size", None) is None:
            raise ConfigError(f"policy.path: {type(config).__name__} has no intermediate_size; the memory model supports gated MLPs only")
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        heads = text.num_attention_heads
        return cls(
            parameters=model.num_parameters(),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
            adapter_parameters=0 if lora is None else _adapter_parameters(model, lora),
        )

    @property
    def trained(self) -> int:
        return self.adapter_parameters or self.parameters


def _adapter_parameters(model: Any, lora: LoraConfig) -> int:
    import peft

    adapted = peft.get_peft_model(model, peft.LoraConfig(r=lora.rank, target_modules=lora.target_modules, task_type="CAUSAL_LM"))
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)

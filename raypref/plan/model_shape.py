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
    """The sizes of a decoder with gated MLPs, or with mixtures of them."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    """Width of the MLPs that one token passes through: in a mixture, of its experts together."""
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    adapter_parameters: int = 0
    """Parameters of a LoRA adapter; 0: all parameters are trained."""
    experts_per_token: int = 0
    """Experts that one token passes through; 0: no mixture."""
    largest_parameter: int = 0
    """Elements of the largest parameter. A mixture has the experts of a layer in one."""

    @classmethod
    def of(cls, config: PretrainedConfig, lora: LoraConfig | None = None, *, trust_remote_code: bool = False) -> Self:
        """The shape of a model's config. Parameters are counted on the meta device, so that any architecture is supported.

        Args:
            config: the model's, of transformers.
            lora: the adapter that is trained, if any.
            trust_remote_code: ``policy.trust_remote_code``.

        Raises:
            ConfigError: the architecture does not state the size of its MLPs.
        """
        import torch
        from transformers import AutoModelForCausalLM

        if getattr(config.get_text_config(), "intermediate_size", None) is None:
            raise ConfigError(f"policy.path: {type(config).__name__} has no intermediate_size; the memory model supports gated MLPs only")
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        text = config.get_text_config()
        heads = text.num_attention_heads
        return cls(
            parameters=model.num_parameters(),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=_token_width(text),
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
            adapter_parameters=0 if lora is None else _adapter_parameters(model, lora),
            experts_per_token=getattr(text, "num_experts_per_tok", None) or 0,
            largest_parameter=max(parameter.numel() for parameter in model.parameters()),
        )

    @property
    def trained(self) -> int:
        return self.adapter_parameters or self.parameters

    @property
    def active(self) -> int:
        """Parameters that one token is multiplied with: projections, the MLPs that it passes through, and the head."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_width
        return self.layers * self.hidden * (attention + 3 * self.intermediate) + self.embedding

    @property
    def embedding(self) -> int:
        """Elements of the embedding, as many as the head's."""
        return self.vocabulary * self.hidden


def _token_width(text: PretrainedConfig) -> int:
    """Width of the MLPs that one token passes through in a layer: the dense one, or its experts and those that all tokens share."""
    chosen = getattr(text, "num_experts_per_tok", None)
    if not chosen:
        return int(text.intermediate_size)
    expert = getattr(text, "moe_intermediate_size", None)
    width = expert or text.intermediate_size
    shared = (getattr(text, "n_shared_experts", None) or 0) * width
    shared += sum(getattr(text, name, None) or 0 for name in ("shared_expert_intermediate_size", "shared_intermediate_size"))
    return max(int(chosen * width + shared), text.intermediate_size if expert else 0)  # some layers of such models are dense


def _adapter_parameters(model: Any, lora: LoraConfig) -> int:
    import peft

    adapted = peft.get_peft_model(model, peft.LoraConfig(r=lora.rank, target_modules=lora.target_modules, task_type="CAUSAL_LM"))
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)

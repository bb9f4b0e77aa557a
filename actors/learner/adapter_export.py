"""The trained LoRA adapter as peft's own directory, ``adapter/`` in the policy's. The policy itself has it merged."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from actors.learner import disk_errors
from actors.weights.source import gathered

if TYPE_CHECKING:
    from torch import Tensor

    from raypref.sections import PolicyConfig

DIRECTORY = "adapter"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in host memory."""

    config: Any
    """peft's."""
    tensors: dict[str, Tensor]
    """Under the names of ``adapter_model.safetensors``."""

    @classmethod
    def of(cls, module: Any) -> Self | None:
        """A copy of the adapter of a model in its training engine; None where it has none. Under ZeRO-3 a collective."""
        if not hasattr(module, "peft_config"):
            return None
        import peft

        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        with gathered(trained):
            state = peft.get_peft_model_state_dict(module, save_embedding_layers=False)
            tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
        return cls(module.peft_config[module.active_adapter], tensors)

    def write(self, policy: PolicyConfig, directory: Path) -> None:
        """Write what ``peft.PeftModel.from_pretrained(base, directory / "adapter")`` reads, in place of an earlier one.

        Raises:
            OSError: the disk did not take it.
        """
        from safetensors.torch import save_file

        target = directory / DIRECTORY
        target.mkdir(parents=True, exist_ok=True)
        config = copy.copy(self.config)
        config.base_model_name_or_path, config.inference_mode = policy.path, True
        with disk_errors.named(target):
            save_file(self.tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
            config.save_pretrained(target)

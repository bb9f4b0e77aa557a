"""What is read of a run's files before it is planned."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from raypref.config import RunConfig
from raypref.plan.model_shape import ModelShape
from raypref.plan.oracle_weights import oracle_bytes
from raypref.plan.run_plan import Known
from raypref.sections import LoraConfig
from raypref.types import RunData


def known(config: RunConfig, data: RunData | None, tokenizer: Any = None, *, fused: bool | None = None, oracle: int | None = None) -> Known:
    """The shape of the policy and of the oracle, and the data.

    Args:
        config: of the run.
        data: as it was loaded; None: it cannot be.
        tokenizer: the policy's.
        fused: whether the learner will have Liger's kernels; default: whether they are installed here, and the run uses GPUs.
        oracle: bytes of the oracle's models; default: of the files that are on this machine.

    Raises:
        ConfigError: the memory model does not know the policy's architecture.
    """
    from transformers import AutoConfig

    policy = config.policy
    model_config = AutoConfig.from_pretrained(policy.path, trust_remote_code=policy.trust_remote_code)
    shapes: dict[str, ModelShape] = {}

    def shape_of(lora: LoraConfig | None) -> ModelShape:
        key = repr(lora)
        if key not in shapes:
            shapes[key] = ModelShape.of(model_config, lora, trust_remote_code=policy.trust_remote_code)
        return shapes[key]

    if fused is None:
        fused = config.placement.device != "cpu" and find_spec("liger_kernel") is not None
    return Known(shape_of, data, tokenizer, fused, oracle_bytes(config) if oracle is None else oracle)

"""The records of the memory model: what it depends on, and what it gives for one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from raypref.config import RunConfig
from raypref.plan.model_shape import ModelShape
from raypref.plan.placement import Role

CPU_KV_CACHE_GIB = 0.25
"""Size of a CPU engine's key-value cache, in GiB, unless ``rollout.kv_cache_gib`` says otherwise."""
Phase = Literal["rollout", "train", "sync"]
Transport = Literal["nccl", "ipc", "shm", "object_store"]


@dataclass(frozen=True, slots=True)
class Job:
    """The quantities that memory depends on, out of a run's config."""

    model: ModelShape
    dtype_bytes: Literal[2, 4]
    """Bytes per parameter: 2 for bfloat16, 4 for float32."""
    zero_stage: Literal[0, 1, 2, 3]
    ranks: int
    micro_batch_tokens: int
    device: Literal["cuda", "cpu"] = "cuda"
    """A chunk of the head's logits is larger on a GPU (``raypref.training.head``)."""
    gradient_checkpointing: bool = False
    prefix_sharing: bool = False
    """Whether prefix sharing may be used (``raypref.training.packing``), which needs a mask."""
    row_tokens: int | None = None
    """Tokens of the longest row of a micro-batch, where the data is known; None: all tokens of a micro-batch may be in one row."""
    fused: bool = False
    """Whether Liger's kernels compute norms and gated activations (``raypref.training.fused``); they keep less for the backward pass."""
    moments: int = 2
    """Moments that the optimiser keeps per parameter: AdamW 2, RMSprop 1."""
    tensor_parallel: int = 1
    kv_cache_bytes: int = 0
    """KV cache on one GPU of an engine."""
    reference_slots: int = 0
    """Number of frozen policies in a reference replica (pi_ref, pi_t)."""
    reference_gpus: int = 1
    """GPUs over which a replica divides the blocks of each of its policies."""
    reference_receives: bool = False
    """Whether a replica holds pi_t, whose weights it receives as an engine does."""
    divergence: bool = False
    """Whether each rank computes a KL to pi_ref (``token_kl``, a regulariser): from a frozen copy, or with the adapter switched off."""
    transport: Transport = "nccl"
    sleep: bool = False
    """``placement.sleep``."""
    oracle_bytes: int = 0
    """Weights of an oracle on its GPU."""
    copies: bool = False
    """Whether checkpoints are written from copies in host memory (``checkpoint.background``)."""
    policies: bool = False
    """Whether the policy is written with each checkpoint (``checkpoint.policies``)."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        model: ModelShape,
        *,
        kv_cache_bytes: int | None = None,
        oracle_bytes: int = 0,
        row_tokens: int | None = None,
        fused: bool = False,
    ) -> Self:
        """The job of a run.

        Args:
            model: shape of ``config.policy``, its adapter included.
            kv_cache_bytes: default: ``rollout.kv_cache_gib``; without it what a CPU engine takes, or 0 if an engine takes all that is left.
            oracle_bytes: weights of the oracle; a config does not state them.
            row_tokens: of the longest row, where the data is known.
            fused: whether Liger is installed where the learner runs.
        """
        on_cpu = config.placement.device == "cpu"
        default: Transport = "shm" if on_cpu else "ipc" if config.placement.layout == "colocated" else "nccl"
        cache_gib = config.rollout.kv_cache_gib or (CPU_KV_CACHE_GIB if on_cpu else 0)
        given = int(cache_gib * 2**30) if kv_cache_bytes is None else kv_cache_bytes
        return cls(
            model=model,
            dtype_bytes=2 if config.policy.dtype == "bfloat16" else 4,
            zero_stage=config.learner.zero_stage,
            ranks=config.placement.learner.ranks,
            micro_batch_tokens=config.learner.micro_batch_tokens,
            device="cpu" if on_cpu else "cuda",
            gradient_checkpointing=config.policy.gradient_checkpointing,
            prefix_sharing=config.policy.attention != "flash_attention_2",
            row_tokens=row_tokens,
            fused=fused,
            moments=2 if config.learner.optimizer.type == "adamw" else 1,
            tensor_parallel=config.placement.rollout.tensor_parallel,
            kv_cache_bytes=given,
            reference_slots=len(config.frozen_logps),
            reference_gpus=max(1, int(config.placement.reference.gpus)),
            reference_receives="previous" in config.loss.needs,
            divergence=config.loss.token_kl or config.regulariser.on,
            transport=default if config.sync.transport == "auto" else config.sync.transport,
            sleep=config.placement.sleep,
            oracle_bytes=oracle_bytes,
            copies=config.checkpoint.background,
            policies=config.checkpoint.policies > 0,
        )


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """The memory that one process of a role holds in one phase."""

    role: Role
    phase: Phase
    gpu: Mapping[str, int]
    """Item -> bytes of its GPU."""
    host: Mapping[str, int] = field(default_factory=dict)
    """Item -> bytes of host memory."""

    @property
    def gpu_bytes(self) -> int:
        return sum(self.gpu.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())

"""What a run holds in memory, by role and phase: one model of it, in plain arithmetic.

    model = ModelShape.of(transformers.AutoConfig.from_pretrained(path), config.policy.lora)
    for share in estimate(Job.of(config, model, kv_cache_bytes=20 * 2**30)):
        print(share.role, share.phase, share.gpu_bytes / 2**30, share.gpu)

Figures are bytes of one GPU (a learner rank's, one of an engine's, a replica's), and of the host beside it. Left out: CUDA contexts and
library workspaces, fragmentation, an engine's own activations and CUDA graphs, all logits of a model whose head is not a plain one.

Sources: DeepSpeed 0.19.8 (``stage_1_and_2.py``, ``stage3.py``, ``bf16_optimizer.py``) for what each ZeRO stage allocates, after Rajbhandari
et al. 2020 (arXiv 1910.02054), section 3; the tensors that autograd saves for a Llama block of transformers 5.19; vLLM 0.32's packing
buffers; ``raypref.training.head`` and ``actors.learner.phases``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from raypref.config import RunConfig
from raypref.training.model_shape import ModelShape

Role = Literal["learner", "rollout", "reference", "oracle"]
Phase = Literal["rollout", "train", "sync"]
Transport = Literal["nccl", "ipc", "shm"]
PHASES: tuple[Phase, ...] = ("rollout", "train", "sync")

FP32 = 4
REDUCE_BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's ``reduce_bucket_size``, its default: allocated whole at the first backward pass, so that the learner asks for no more than is
trained."""
LIVE_ELEMENTS = 1_000_000_000
"""ZeRO-3's ``stage3_max_live_parameters``: gathered at a time."""
PACKING_BYTES = 2**30
"""A buffer of vLLM's packed transfers: nccl has two on either side, ipc one on the learner's, whose contents a receiver copies."""
HEAD_CHUNK_BYTES = FP32 << 25
"""Logits held at once (``raypref.training.head.CHUNK_ELEMENTS``)."""


@dataclass(frozen=True, slots=True)
class Job:
    """What memory depends on, out of a run's config."""

    model: ModelShape
    dtype_bytes: Literal[2, 4]
    """Of a parameter: bfloat16 or float32."""
    zero_stage: Literal[0, 1, 2, 3]
    ranks: int
    micro_batch_tokens: int
    gradient_checkpointing: bool = False
    shared_rows: bool = False
    """Whether responses to a prompt may stand in one row (``raypref.training.packing``), which takes a mask."""
    moments: int = 2
    """Of the optimiser, for each parameter: AdamW 2, RMSprop 1."""
    tensor_parallel: int = 1
    kv_cache_bytes: int = 0
    """Of one GPU of an engine."""
    reference_slots: int = 0
    """Frozen policies of a reference replica: pi_ref, pi_t."""
    reference_receives: bool = False
    """Whether a replica holds pi_t, whose weights arrive as an engine's do."""
    divergence: bool = False
    """Whether each rank compares distributions with those of pi_ref (``token_kl``, a regulariser): of a copy, or without the adapter."""
    transport: Transport = "nccl"
    sleep: bool = False
    """``placement.sleep``."""
    oracle_bytes: int = 0
    """Weights of a judge, on its GPU."""

    @classmethod
    def of(cls, config: RunConfig, model: ModelShape, *, kv_cache_bytes: int | None = None, oracle_bytes: int = 0) -> Self:
        """
        Args:
            model: of ``config.policy``, its adapter included.
            kv_cache_bytes: default: ``rollout.kv_cache_gib``, or 0 where an engine takes what is left.
            oracle_bytes: weights of the oracle, which only the oracle knows.
        """
        own: Transport = "ipc" if config.placement.layout == "colocated" else "nccl"
        given = int((config.rollout.kv_cache_gib or 0) * 2**30) if kv_cache_bytes is None else kv_cache_bytes
        return cls(
            model=model,
            dtype_bytes=2 if config.policy.dtype == "bfloat16" else 4,
            zero_stage=config.learner.zero_stage,
            ranks=config.placement.learner.ranks,
            micro_batch_tokens=config.learner.micro_batch_tokens,
            gradient_checkpointing=config.policy.gradient_checkpointing,
            shared_rows=config.policy.attention != "flash_attention_2",
            moments=2 if config.learner.optimizer.type == "adamw" else 1,
            tensor_parallel=config.placement.rollout.tensor_parallel,
            kv_cache_bytes=given,
            reference_slots=len(config.loss.needs),
            reference_receives="previous" in config.loss.needs,
            divergence=config.loss.token_kl or config.regulariser.on,
            transport=own if config.sync.transport == "auto" else config.sync.transport,
            sleep=config.placement.sleep,
            oracle_bytes=oracle_bytes,
        )


@dataclass(frozen=True, slots=True)
class Share:
    """What one process of a role holds in one phase."""

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


def estimate(job: Job) -> tuple[Share, ...]:
    """Every role's share in every phase; roles without memory of their own are left out."""
    shares = [make(job, phase) for make in (_learner, _rollout) for phase in PHASES]
    if job.reference_slots:
        shares += [_reference(job, phase) for phase in PHASES]
    if job.oracle_bytes:
        shares += [Share("oracle", phase, {"weights": job.oracle_bytes}) for phase in PHASES]
    return tuple(shares)


def colocated_peak(shares: Iterable[Share]) -> tuple[Phase, int]:
    """The phase in which a GPU that holds one process of every role holds most, and how many bytes."""
    totals = dict.fromkeys(PHASES, 0)
    for share in shares:
        totals[share.phase] += share.gpu_bytes
    worst = max(PHASES, key=totals.__getitem__)
    return worst, totals[worst]


# --- the learner ------------------------------------------------------------------------------------------------------------------------


def parameter_bytes(job: Job) -> int:
    """What the forward pass reads, the adapter included: whole on every rank, or a share under ZeRO-3."""
    whole = job.dtype_bytes * (job.model.parameters + job.model.adapter_parameters)
    return _shard(whole, job.ranks) if job.zero_stage == 3 else whole


def optimizer_bytes(job: Job) -> int:
    """fp32 master weights (DeepSpeed keeps them beside float32 parameters, too) and moments, of a rank's share of what is trained.

    AdamW: 4 + 8 = 12 bytes a parameter. Stage 0 shards nothing and has no master weights.
    """
    if job.zero_stage == 0:
        return FP32 * job.moments * job.model.trained
    return _shard(FP32 * (1 + job.moments) * job.model.trained, job.ranks)


def gradient_bytes(job: Job) -> int:
    """Gradients as they are accumulated, without the bucket that they are reduced in.

    Stage 0: one of each parameter. Stage 1: every rank has all of them, in bfloat16 a second time in fp32. Stages 2 and 3: fp32, a share.
    """
    trained = job.model.trained
    if job.zero_stage == 0:
        return job.dtype_bytes * trained
    if job.zero_stage == 1:
        return (job.dtype_bytes + (FP32 if job.dtype_bytes == 2 else 0)) * trained
    return _shard(FP32 * trained, job.ranks)


def bucket_bytes(job: Job) -> int:
    """The buffer in which gradients are reduced; stage 0, and stage 1 in bfloat16, have none of that size."""
    if job.zero_stage == 0 or (job.zero_stage == 1 and job.dtype_bytes == 2):
        return 0
    return min(REDUCE_BUCKET_ELEMENTS, job.model.trained) * job.dtype_bytes


def block_bytes_per_token(model: ModelShape, dtype_bytes: int, shared_rows: bool = False) -> int:
    """What autograd saves in one block for each token of a micro-batch, with attention that keeps no score matrix (sdpa, flash).

    In the parameters' dtype: the residual stream before and after the norms, and the inputs of the linear layers, 5 H; q, k and v (given
    a mask, transformers repeats k and v for every query head); the MLP's gate, up, activation and product, 4 I. In fp32: two norms'
    inputs, 2 H, their two scales, and attention's normaliser, one a head. Source: counted with
    ``torch.autograd.graph.saved_tensors_hooks``; the test does it again.
    """
    qkv = (model.heads + 2 * (model.heads if shared_rows else model.kv_heads)) * model.head_width
    own = 5 * model.hidden + qkv + 4 * model.intermediate
    return dtype_bytes * own + FP32 * (2 * model.hidden + 2 + model.heads)


def mask_bytes(job: Job) -> int:
    """The mask of shared rows, one for all blocks, where it is largest: all tokens in one row."""
    return job.dtype_bytes * job.micro_batch_tokens**2 if job.shared_rows else 0


def activation_bytes(job: Job) -> int:
    """Saved for the backward pass of one micro-batch. Checkpointed: each block's input, and one block at work."""
    block = block_bytes_per_token(job.model, job.dtype_bytes, job.shared_rows)
    if not job.gradient_checkpointing:
        return job.micro_batch_tokens * job.model.layers * block
    return job.micro_batch_tokens * (job.model.layers * job.dtype_bytes * job.model.hidden + block)


def chunk_bytes(job: Job) -> int:
    """A chunk of logits in fp32."""
    return min(HEAD_CHUNK_BYTES, FP32 * job.micro_batch_tokens * job.model.vocabulary)


def head_bytes(job: Job) -> int:
    """Two chunks of logits in fp32, or three, and the head's gradient, which is summed in fp32 where the head is trained."""
    gradient = 0 if job.model.adapter_parameters else FP32 * job.model.vocabulary * job.model.hidden
    return (3 if job.divergence else 2) * chunk_bytes(job) + gradient


def _learner(job: Job, phase: Phase) -> Share:
    """While the engines sample a rank computes log-probs at most, for the check after a sync."""
    training = phase == "train"
    states = {"optimizer": optimizer_bytes(job), "gradients": gradient_bytes(job) if training else _kept_gradient_bytes(job)}
    away = job.sleep and not training
    gpu = {
        "parameters": parameter_bytes(job),
        "frozen": job.dtype_bytes * job.model.parameters if job.divergence and not job.model.adapter_parameters else 0,
        "gathered": job.dtype_bytes * min(LIVE_ELEMENTS, job.model.parameters) if job.zero_stage == 3 else 0,
        "bucket": bucket_bytes(job) if training or (job.zero_stage == 3 and not away) else 0,  # ZeRO-3 keeps its own
        "activations": activation_bytes(job) if training else 0,
        "mask": mask_bytes(job) if training else 0,
        "head": head_bytes(job) if training else 0,
        "forward": _forward_bytes(job) if phase == "rollout" else 0,
        "transport": _transport_bytes(job) if phase == "sync" or job.transport == "ipc" else 0,
    }
    shared = job.dtype_bytes * job.model.parameters if job.transport == "shm" else 0
    return Share("learner", phase, _present(**gpu, **({} if away else states)), _present(transport=shared, **(states if away else {})))


def _kept_gradient_bytes(job: Job) -> int:
    """Buffers that stay between steps: the whole fp32 one of stage 1 in bfloat16, ZeRO-3's share."""
    if job.zero_stage == 1 and job.dtype_bytes == 2:
        return FP32 * job.model.trained
    return gradient_bytes(job) if job.zero_stage == 3 else 0


# --- the others -------------------------------------------------------------------------------------------------------------------------


def kv_bytes_per_token(job: Job) -> int:
    """Keys and values of one token on one of an engine's GPUs, which has at least one key-value head."""
    heads = max(1, job.model.kv_heads // job.tensor_parallel)
    return 2 * job.model.layers * heads * job.model.head_width * job.dtype_bytes


def _rollout(job: Job, phase: Phase) -> Share:
    """Asleep while the learner trains; while weights arrive, one reloaded layer is there twice."""
    weights = _shard(job.dtype_bytes * job.model.parameters, job.tensor_parallel)
    if job.sleep and phase == "train":
        return Share("rollout", phase, {}, _present(weights=weights if job.model.adapter_parameters else 0))
    cache = 0 if job.sleep and phase == "sync" else job.kv_cache_bytes
    arriving = {}
    if phase == "sync":
        arriving = {"layer": _shard(_largest_layer_bytes(job), job.tensor_parallel), "transport": _transport_bytes(job)}
    return Share("rollout", phase, _present(weights=weights, cache=cache, **arriving))


def _reference(job: Job, phase: Phase) -> Share:
    """Log-probs are asked for while engines sample and while the learner trains."""
    weights = job.reference_slots * job.dtype_bytes * job.model.parameters
    if phase == "sync":
        return Share("reference", phase, _present(weights=weights, transport=_transport_bytes(job) if job.reference_receives else 0))
    return Share("reference", phase, _present(weights=weights, forward=_forward_bytes(job)))


def _forward_bytes(job: Job) -> int:
    """A pass without gradient: one block's tensors, the mask, and two chunks of logits."""
    block = job.micro_batch_tokens * block_bytes_per_token(job.model, job.dtype_bytes, job.shared_rows)
    return block + mask_bytes(job) + 2 * chunk_bytes(job)


def _transport_bytes(job: Job) -> int:
    """Packing buffers on the GPU, on either side; a tensor is not split, so a buffer holds the largest."""
    buffers = {"nccl": 2, "ipc": 1, "shm": 0}[job.transport]
    return buffers * max(PACKING_BYTES, job.dtype_bytes * job.model.vocabulary * job.model.hidden)


def _largest_layer_bytes(job: Job) -> int:
    """Gate and up, which engines fuse, or the embedding."""
    model = job.model
    return job.dtype_bytes * model.hidden * max(2 * model.intermediate, model.vocabulary)


def _shard(size: int, parts: int) -> int:
    return math.ceil(size / parts)


def _present(**items: int) -> dict[str, int]:
    """The items that take any memory."""
    return {name: size for name, size in items.items() if size}

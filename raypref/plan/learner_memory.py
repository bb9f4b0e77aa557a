"""What a learner rank holds in memory, and the passes and buffers that other roles have in common with it. Bytes of one GPU or its host.

Sources: DeepSpeed 0.19.8 (``stage_1_and_2.py``, ``stage3.py``, ``bf16_optimizer.py``) for what each ZeRO stage allocates, after Rajbhandari
et al. 2020 (arXiv 1910.02054), section 3; the tensors that autograd saves for a Llama block of transformers 5.19; vLLM 0.32's packing
buffers; ``raypref.training.head`` and ``actors.learner.phases``.
"""

from __future__ import annotations

import math

from raypref.plan.memory_job import Job, Phase, ProcessMemory
from raypref.plan.model_shape import ModelShape

FP32 = 4
REDUCE_BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default ``reduce_bucket_size``. The bucket is allocated whole at the first backward pass, so the learner sets it to
the number of trained parameters if that is smaller."""
LIVE_ELEMENTS = 1_000_000_000
"""ZeRO-3's ``stage3_max_live_parameters``: the most that are gathered at a time."""
GATHER_ELEMENTS = {"cpu": 2_000_000, "cuda": 200_000_000}
"""Device -> elements that ZeRO-3 gathers at once where weights are read whole (sync, export), or partitions at once where they are loaded.
Fewer than ``LIVE_ELEMENTS``, so they need no memory beyond it. On a CPU gathers of 2 million are five times faster than one by one; a GPU
stops for each gather (``partition_parameters.py``, ``_allgather_params``), so there should be few."""
PACKING_BYTES = 2**30
"""A buffer of packed transfers. nccl sends from one while the next is packed; a receiver loads one while the next arrives, and vLLM may
keep a third until a layer is whole. ipc has one on the learner's side, whose contents a receiver copies."""
CHUNK_BYTES = 2**26
"""A chunk in Ray's object store (``actors.weights.object_store.CHUNK_BYTES``, which raypref cannot import)."""
HEAD_CHUNK_BYTES = {"cpu": FP32 << 25, "cuda": FP32 << 28}
"""Device -> a chunk of logits in fp32 (``raypref.training.head.CHUNK_ELEMENTS``, which cannot be imported without torch)."""


def parameter_bytes(job: Job) -> int:
    """The parameters, the adapter included: whole on every rank, or a shard under ZeRO-3."""
    whole = job.dtype_bytes * (job.model.parameters + job.model.adapter_parameters)
    return shard(whole, job.ranks) if job.zero_stage == 3 else whole


def optimizer_bytes(job: Job) -> int:
    """fp32 master weights (DeepSpeed keeps them for float32 parameters, too) and moments of a rank's shard of the trained parameters.

    AdamW: 4 + 8 = 12 bytes per parameter. Stage 0 does not shard and has no master weights.
    """
    if job.zero_stage == 0:
        return FP32 * job.moments * job.model.trained
    return shard(FP32 * (1 + job.moments) * job.model.trained, job.ranks)


def gradient_bytes(job: Job) -> int:
    """Accumulated gradients, without the bucket in which they are reduced.

    Stage 0: one per parameter. Stage 1: all of them on every rank; with bfloat16, a second time in fp32. Stages 2 and 3: a shard, in fp32.
    """
    trained = job.model.trained
    if job.zero_stage == 0:
        return job.dtype_bytes * trained
    if job.zero_stage == 1:
        return (job.dtype_bytes + (FP32 if job.dtype_bytes == 2 else 0)) * trained
    return shard(FP32 * trained, job.ranks)


def bucket_bytes(job: Job) -> int:
    """The buffers in which gradients are reduced: one, and on a GPU at stage 2 another that fills while it is sent (``overlap_comm``).

    Stage 0, and stage 1 with bfloat16, have none of that size.
    """
    if job.zero_stage == 0 or (job.zero_stage == 1 and job.dtype_bytes == 2):
        return 0
    buffers = 2 if job.zero_stage == 2 and job.device == "cuda" else 1
    return buffers * min(REDUCE_BUCKET_ELEMENTS, job.model.trained) * job.dtype_bytes


def frozen_bytes(job: Job) -> int:
    """pi_ref's copy for a KL, if there is one; under ZeRO-3 a share of it, and its whole head."""
    if not job.divergence or job.model.adapter_parameters:
        return 0
    whole = job.dtype_bytes * job.model.parameters
    return shard(whole, job.ranks) + job.dtype_bytes * job.model.embedding if job.zero_stage == 3 else whole


def gathered_bytes(job: Job) -> int:
    """What ZeRO-3 holds whole during a pass, of the policy and of pi_ref's copy each: at least the largest parameter.

    One rank has all of it already (``partition_parameters.py``, ``NoGatherHandle``).
    """
    if job.zero_stage < 3 or job.ranks == 1:
        return 0
    models = 2 if frozen_bytes(job) else 1
    return models * job.dtype_bytes * max(min(LIVE_ELEMENTS, job.model.parameters), job.model.largest_parameter)


def offloaded_bytes(job: Job) -> dict[str, int]:
    """The optimiser's state and the gradients that remain between steps, in host memory. On a GPU the buffers are pinned, and pinned
    memory comes in powers of two (torch's ``CachingHostAllocator``)."""
    states = (1 + job.moments) * _pinned(job, shard(FP32 * job.model.trained, job.ranks))
    return {"optimizer": states, "gradients": _pinned(job, _kept_gradient_bytes(job))}


def _pinned(job: Job, size: int) -> int:
    return 1 << (size - 1).bit_length() if job.device == "cuda" and size else size


def block_bytes_per_token(model: ModelShape, dtype_bytes: int, prefix_sharing: bool = False, fused: bool = False) -> int:
    """Bytes that autograd saves in one block per token of a micro-batch, with attention that keeps no score matrix (sdpa, flash).

    In the parameters' dtype: the residual stream before and after the norms, and the inputs of the linear layers, 5 H; q, k and v (given
    a mask, transformers repeats k and v for every query head); the MLP's gate, up, activation and product, 4 I; each expert's input and
    output, 2 H. In fp32: two norms' inputs, 2 H, their two scales, and attention's normaliser, one per head. Source: counted with
    ``torch.autograd.graph.saved_tensors_hooks``, as the test does.

    Liger's norms keep no input in fp32, and its gated activation computes the activation again: 3 I (liger-kernel 0.8.5,
    ``ops/rms_norm.py`` and ``ops/swiglu.py``).
    """
    qkv = (model.heads + 2 * (model.heads if prefix_sharing else model.kv_heads)) * model.head_width
    in_dtype = (5 + 2 * model.experts_per_token) * model.hidden + qkv + (3 if fused else 4) * model.intermediate
    return dtype_bytes * in_dtype + FP32 * ((0 if fused else 2 * model.hidden) + 2 + model.heads)


def mask_bytes(job: Job) -> int:
    """The mask of prefix sharing, one for all blocks: the square of a row's length for each row."""
    longest = min(job.row_tokens or job.micro_batch_tokens, job.micro_batch_tokens)
    return job.dtype_bytes * job.micro_batch_tokens * longest if job.prefix_sharing else 0


def activation_bytes(job: Job) -> int:
    """Saved for the backward pass of one micro-batch. With gradient checkpointing: each block's input, and one whole block."""
    block = block_bytes_per_token(job.model, job.dtype_bytes, job.prefix_sharing, job.fused)
    if not job.gradient_checkpointing:
        return job.micro_batch_tokens * job.model.layers * block
    return job.micro_batch_tokens * (job.model.layers * job.dtype_bytes * job.model.hidden + block)


def chunk_bytes(job: Job) -> int:
    """A chunk of logits in fp32."""
    return min(HEAD_CHUNK_BYTES[job.device], _logits_bytes(job))


def _logits_bytes(job: Job) -> int:
    return FP32 * job.micro_batch_tokens * job.model.vocabulary


def chunks_bytes(job: Job, chunks: int) -> int:
    """Chunks of logits in fp32, as many as there are, and with bfloat16 the logits of one of them as the head returns them."""
    return min(chunks * chunk_bytes(job), _logits_bytes(job)) + (chunk_bytes(job) // 2 if job.dtype_bytes == 2 else 0)


def head_forward_bytes(job: Job) -> int:
    """The chunk of probabilities that is kept for the backward pass, and the one that is computed; with a KL three of one chunk."""
    return _divergence_bytes(job) if job.divergence else chunks_bytes(job, 2)


def head_backward_bytes(job: Job) -> int:
    """A chunk of logits, which becomes their gradient, or three with a KL; and the head's gradient in fp32 if the head is trained, of which
    a copy is made at the end if the parameters have another dtype."""
    chunks = _divergence_bytes(job) if job.divergence else chunks_bytes(job, 1)
    if job.model.adapter_parameters:
        return chunks
    copy = job.dtype_bytes * job.model.embedding if job.dtype_bytes != FP32 else 0
    return FP32 * job.model.embedding + max(chunks, copy)


def _divergence_bytes(job: Job) -> int:
    return 3 * chunk_bytes(job) + (chunk_bytes(job) // 2 if job.dtype_bytes == 2 else 0)


def head_and_bucket(job: Job) -> dict[str, int]:
    """What the head and the reduction of gradients take together, at whichever moment that is most: in the head's forward or backward pass,
    or behind it. ZeRO-3's bucket is always there; those of stages 1 and 2 are allocated when the first parameter has its gradient
    (``stage_1_and_2.py``, ``process_gradients``), which is when only the head's own gradient is left of the head."""
    bucket = bucket_bytes(job)
    always = bucket if job.zero_stage == 3 else 0
    gradient = 0 if job.model.adapter_parameters else job.dtype_bytes * job.model.embedding
    in_head = {"bucket": always, "head": max(head_forward_bytes(job), head_backward_bytes(job))}
    behind_it = {"bucket": bucket, "head": gradient}
    return max(in_head, behind_it, key=lambda items: sum(items.values()))


def learner_memory(job: Job, phase: Phase) -> ProcessMemory:
    """While the engines sample, a rank at most computes log-probs, for the check after a weight sync."""
    training = phase == "train"
    states = {"optimizer": optimizer_bytes(job), "gradients": gradient_bytes(job) if training else _kept_gradient_bytes(job)}
    offloaded = job.sleep and not training
    gpu = {
        "parameters": parameter_bytes(job),
        "frozen": frozen_bytes(job),
        "gathered": gathered_bytes(job),
        "bucket": bucket_bytes(job) if job.zero_stage == 3 and not offloaded else 0,  # ZeRO-3 never frees it
        "activations": activation_bytes(job) if training else 0,
        "mask": mask_bytes(job) if training else 0,
        **(head_and_bucket(job) if training else {}),
        "forward": forward_bytes(job) if phase == "rollout" else 0,
        "transport": transport_bytes(job, sends=True) if phase == "sync" or job.transport == "ipc" else 0,
    }
    host = {"transport": transport_host_bytes(job), "checkpoint": copied_bytes(job), **(offloaded_bytes(job) if offloaded else {})}
    return ProcessMemory("learner", phase, nonzero(**gpu, **({} if offloaded else states)), nonzero(**host))


def _kept_gradient_bytes(job: Job) -> int:
    """Gradient buffers that remain between steps: the whole fp32 one of stage 1 with bfloat16, and the shard of ZeRO-3."""
    if job.zero_stage == 1 and job.dtype_bytes == 2:
        return FP32 * job.model.trained
    return gradient_bytes(job) if job.zero_stage == 3 else 0


def forward_bytes(job: Job) -> int:
    """A pass without gradient: the tensors of one block, the mask, and two chunks of logits."""
    block = job.micro_batch_tokens * block_bytes_per_token(job.model, job.dtype_bytes, job.prefix_sharing, job.fused)
    return block + mask_bytes(job) + chunks_bytes(job, 2)


def transport_bytes(job: Job, *, sends: bool = False) -> int:
    """Packing buffers on the GPU of a receiver, or of the sender; a tensor is not split, so a buffer holds the largest."""
    buffers = {"nccl": 2 if sends else 3, "ipc": 1, "shm": 0, "object_store": 0}[job.transport]
    return buffers * max(PACKING_BYTES, job.dtype_bytes * job.model.embedding)


def copied_bytes(job: Job) -> int:
    """Rank 0's copy of the state, kept from one checkpoint to the next: the optimiser's state, below stage 3 all weights, at stage 3 its
    share of those that are not trained; and what is written beside it of a policy whose weights are not these: gathered at stage 3, or with
    an adapter merged into them. The other ranks' copy has no weights below stage 3."""
    if not job.copies:
        return 0
    policy = job.dtype_bytes * job.model.parameters
    weights = policy + job.dtype_bytes * job.model.adapter_parameters
    if job.zero_stage == 3:
        weights = shard(policy, job.ranks) if job.model.adapter_parameters else 0
    others = job.zero_stage == 3 or job.model.adapter_parameters > 0
    return optimizer_bytes(job) + weights + (policy if job.policies and others else 0)


def transport_host_bytes(job: Job) -> int:
    """Host memory of the first rank: the whole weights in shared memory, or one chunk that is packed and two in the object store."""
    if job.transport == "object_store":
        return 3 * max(CHUNK_BYTES, job.dtype_bytes * job.model.vocabulary * job.model.hidden)
    return job.dtype_bytes * job.model.parameters if job.transport == "shm" else 0


def shard(size: int, parts: int) -> int:
    """Bytes of the largest of ``parts`` shards."""
    return math.ceil(size / parts)


def nonzero(**items: int) -> dict[str, int]:
    """The items that take memory."""
    return {name: size for name, size in items.items() if size}

"""The memory model: an 8B model by hand, and what autograd saves, counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config, GPT2Config, LlamaConfig, MixtralConfig, Qwen3MoeConfig

from actors.weights import object_store
from benchmarks.gpu_models import model_config
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.plan import learner_memory
from raypref.plan.learner_memory import (
    GATHER_ELEMENTS,
    HEAD_CHUNK_BYTES,
    LIVE_ELEMENTS,
    activation_bytes,
    block_bytes_per_token,
    bucket_bytes,
    gradient_bytes,
    head_backward_bytes,
    head_forward_bytes,
    mask_bytes,
    optimizer_bytes,
    parameter_bytes,
)
from raypref.plan.memory import check_fits, colocated_peak, estimate, kv_bytes_per_token
from raypref.plan.memory_job import Job, ProcessMemory, Transport
from raypref.plan.model_shape import ModelShape
from raypref.sections import LoraConfig
from raypref.training.head import CHUNK_ELEMENTS

LLAMA_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
SHAPE = ModelShape.of(LLAMA_8B)
JOB = Job(SHAPE, dtype_bytes=2, zero_stage=2, ranks=8, micro_batch_tokens=8192, kv_cache_bytes=20 * 2**30, reference_slots=1)


def process(job: Job, role: str, phase: str) -> ProcessMemory:
    (found,) = [share for share in estimate(job) if (share.role, share.phase) == (role, phase)]
    return found


def test_parameters_of_an_8b_model() -> None:
    """2 x 128,256 x 4096 + 32 (2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14,336 + 2 x 4096) + 4096 = 8,030,261,248."""
    assert SHAPE.parameters == SHAPE.trained == 8_030_261_248
    assert (SHAPE.layers, SHAPE.hidden, SHAPE.kv_heads, SHAPE.head_width) == (32, 4096, 8, 128)


def test_adapter_of_an_8b_model() -> None:
    """Rank 16 on all linear layers: 16 times in + out of q, k, v, o (8192, 5120, 5120, 8192) and gate, up, down (18,432 each), 32 blocks:
    16 x 81,920 x 32 = 41,943,040. On q and v alone 16 x 13,312 x 32 = 6,815,744."""
    assert ModelShape.of(LLAMA_8B, LoraConfig(rank=16)).trained == 41_943_040
    assert ModelShape.of(LLAMA_8B, LoraConfig(rank=16, target_modules=["q_proj", "v_proj"])).trained == 6_815_744


def test_a_model_of_unknown_shape() -> None:
    with pytest.raises(ConfigError, match=r"policy\.path: GPT2Config has no intermediate_size"):
        ModelShape.of(GPT2Config(n_layer=1))


def test_experts_count_in_full_where_they_are_held_and_by_token_where_they_compute() -> None:
    """Qwen3-30B-A3B: 30.5e9 parameters, and 8 of 128 experts, of 768 each, for a token. The largest parameter has the gates and
    ups of all 128: 2 x 768 x 2048 x 128 = 402,653,184. DeepSeek-V2-Lite: 6 experts of 1408 and 2 that all tokens share, but 10,944 in
    the dense layer; 15.7e9 parameters."""
    qwen = ModelShape.of(
        Qwen3MoeConfig(
            vocab_size=151_936,
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=48,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
        )
    )
    assert qwen.parameters == pytest.approx(30.53e9, rel=1e-3)
    assert (qwen.intermediate, qwen.experts_per_token, qwen.largest_parameter) == (8 * 768, 8, 402_653_184)
    lite = ModelShape.of(
        DeepseekV2Config(
            vocab_size=102_400,
            hidden_size=2048,
            intermediate_size=10_944,
            num_hidden_layers=27,
            num_attention_heads=16,
            num_key_value_heads=16,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            moe_intermediate_size=1408,
            first_k_dense_replace=1,
            kv_lora_rank=512,
            q_lora_rank=None,
        )
    )
    assert lite.parameters == pytest.approx(15.7e9, rel=1e-2)
    assert (lite.intermediate, lite.experts_per_token) == (8 * 1408, 6)


def test_training_state_of_an_8b_model() -> None:
    """bfloat16, AdamW, 8 ranks, P = 8,030,261,248. Parameters 2 P = 16,060,522,496; fp32 master weights and two moments 12 P / 8 =
    12,045,391,872; fp32 gradients 4 P / 8 = 4,015,130,624 and two buckets of 5e8 x 2 bytes, of which a CPU has one. ZeRO-3 shards the
    parameters: 2,007,565,312.
    ZeRO-1 in bfloat16 keeps gradients whole, twice: 6 P = 48,181,567,488, and no bucket."""
    assert parameter_bytes(JOB) == 16_060_522_496
    assert optimizer_bytes(JOB) == 12_045_391_872
    assert gradient_bytes(JOB) == 4_015_130_624
    assert bucket_bytes(JOB) == 2_000_000_000
    assert bucket_bytes(replace(JOB, device="cpu")) == bucket_bytes(replace(JOB, zero_stage=3)) == 1_000_000_000
    assert parameter_bytes(replace(JOB, zero_stage=3)) == 2_007_565_312
    assert gradient_bytes(replace(JOB, zero_stage=1)) == 48_181_567_488
    assert bucket_bytes(replace(JOB, zero_stage=1)) == 0
    assert optimizer_bytes(replace(JOB, moments=1)) == 8_030_261_248


def test_an_adapter_is_all_that_is_trained() -> None:
    """A = 41,943,040 on one rank: 12 A = 503,316,480 and 4 A = 167,772,160; the parameters are 2 (P + A) = 16,144,408,576."""
    job = replace(JOB, model=ModelShape.of(LLAMA_8B, LoraConfig(rank=16)), ranks=1)
    assert (optimizer_bytes(job), gradient_bytes(job), parameter_bytes(job)) == (503_316_480, 167_772_160, 16_144_408_576)


def test_stage_0_in_float32() -> None:
    """Nothing is sharded, there are no master weights: moments 8 P, gradients 4 P."""
    job = replace(JOB, zero_stage=0, dtype_bytes=4)
    assert (optimizer_bytes(job), gradient_bytes(job), bucket_bytes(job)) == (64_242_089_984, 32_121_044_992, 0)


def test_activations_of_an_8b_model() -> None:
    """A block, for each token: 2 (5 x 4096 + 6144 + 4 x 14,336) + 4 (2 x 4096 + 2 + 32) = 200,840 bytes; 32 blocks, 8192 tokens: 52.6 GB.
    Checkpointed 8192 (32 x 2 x 4096 + 200,840) = 3,792,764,928."""
    assert block_bytes_per_token(SHAPE, 2) == 200_840
    assert activation_bytes(JOB) == 8192 * 32 * 200_840
    assert activation_bytes(replace(JOB, gradient_checkpointing=True)) == 3_792_764_928


def test_shared_rows_of_an_8b_model() -> None:
    """k and v of 32 heads instead of 8: 2 x 2 x 24 x 128 = 12,288 bytes more for each token of a block; a mask of 2 x 8192^2 bytes in
    either kind of pass."""
    job = replace(JOB, prefix_sharing=True)
    assert activation_bytes(job) - activation_bytes(JOB) == 8192 * 32 * 12_288
    assert process(job, "learner", "train").gpu["mask"] == mask_bytes(job) == 134_217_728
    extra = process(job, "reference", "train").gpu["forward"] - process(JOB, "reference", "train").gpu["forward"]
    assert extra == 8192 * 12_288 + 134_217_728


def test_head() -> None:
    """8192 x 128,256 logits are more than two chunks hold, of 1 GiB on a GPU and 128 MiB on a CPU; bfloat16 logits are half a chunk more.
    The gradient in fp32: 4 x 128,256 x 4096. Few tokens take less; the gradient's copy in bfloat16
    is then larger than a chunk."""
    assert (head_forward_bytes(JOB), head_backward_bytes(JOB)) == (2.5 * 2**30, 1.5 * 2**30 + 2_101_346_304)
    kl = replace(JOB, divergence=True)
    assert (head_forward_bytes(kl), head_backward_bytes(kl)) == (3.5 * 2**30, 3.5 * 2**30 + 2_101_346_304)
    few = replace(JOB, micro_batch_tokens=10)
    assert (head_forward_bytes(few), head_backward_bytes(few)) == (1.5 * 4 * 10 * 128_256, 1.5 * 2_101_346_304)
    on_cpu = replace(JOB, device="cpu", dtype_bytes=4)
    assert (head_forward_bytes(on_cpu), head_backward_bytes(on_cpu)) == (2 * 128 * 2**20, 128 * 2**20 + 2_101_346_304)
    assert head_backward_bytes(replace(on_cpu, divergence=True)) == 3 * 128 * 2**20 + 2_101_346_304
    assert {device: 4 * elements for device, elements in CHUNK_ELEMENTS.items()} == HEAD_CHUNK_BYTES


def test_keys_and_values() -> None:
    """2 x 32 layers x 8 heads x 128 x 2 bytes = 128 KiB a token; over 4 GPUs 32 KiB; over 16 still one head each, 16 KiB."""
    assert [kv_bytes_per_token(replace(JOB, tensor_parallel=width)) for width in (1, 4, 16)] == [131_072, 32_768, 16_384]


def test_shares_of_a_separate_layout() -> None:
    """The optimiser's state stays all the time; stage 2 frees its gradients and bucket, and has no bucket yet while the head computes.
    nccl: buffers of 1 GiB, or of the largest tensor (1,050,673,152 bytes of embedding are less): two to send, three to receive."""
    resting = {"parameters": 16_060_522_496, "optimizer": 12_045_391_872}
    forward = 8192 * 200_840 + 5 * 2**29
    assert process(JOB, "learner", "rollout").gpu == resting | {"forward": forward}
    assert process(JOB, "learner", "sync").gpu == resting | {"transport": 2**31}
    assert process(JOB, "learner", "train").gpu == resting | {
        "gradients": 4_015_130_624,
        "activations": activation_bytes(JOB),
        "head": head_backward_bytes(JOB),
    }
    assert process(JOB, "rollout", "rollout").gpu == {"weights": 16_060_522_496, "cache": 20 * 2**30}
    assert process(JOB, "rollout", "sync").gpu_bytes == 16_060_522_496 + 20 * 2**30 + 1_050_673_152 + 3 * 2**30
    assert process(JOB, "reference", "train").gpu == {"weights": 16_060_522_496, "forward": forward}
    assert not [entry for entry in estimate(replace(JOB, reference_slots=0)) if entry.role in ("reference", "oracle")]


def test_engines_of_several_gpus() -> None:
    job = replace(JOB, tensor_parallel=4, transport="shm")
    assert process(job, "rollout", "rollout").gpu == {"weights": 4_015_130_624, "cache": 20 * 2**30}
    assert process(job, "learner", "sync").host == {"transport": 16_060_522_496}
    through_ray = process(replace(job, transport="object_store"), "learner", "sync")
    assert through_ray.host == {"transport": 3 * 2 * 128_256 * 4096}, "one chunk that is packed, two that are sent, of the largest tensor"
    assert object_store.CHUNK_BYTES == learner_memory.CHUNK_BYTES


def test_turns_on_one_gpu() -> None:
    """Colocated, ipc: one staging buffer of 1 GiB, which stays; an engine copies what is in it. Asleep an engine holds nothing; sampling,
    the optimiser's state is the host's, in three pinned buffers of 4 P / 8 bytes, rounded up to 2^32; at a sync the cache is still away.
    The worst phase of a rank, an engine and no reference is the one that samples; without sleep the one that trains."""
    job = replace(JOB, transport="ipc", sleep=True, reference_slots=0, gradient_checkpointing=True)
    assert process(job, "rollout", "train").gpu == process(job, "rollout", "train").host == {}
    sampling = process(job, "learner", "rollout")
    assert sampling.gpu == {"parameters": 16_060_522_496, "forward": 8192 * 200_840 + 5 * 2**29, "transport": 2**30}
    assert sampling.host == {"optimizer": 3 * 2**32}
    assert process(replace(job, device="cpu"), "learner", "rollout").host == {"optimizer": 12_045_391_872}
    assert process(job, "rollout", "sync").gpu == {"weights": 16_060_522_496, "layer": 1_050_673_152, "transport": 2**30}
    phase, worst = colocated_peak(estimate(job))
    assert phase == "rollout"
    assert worst == sampling.gpu_bytes + 16_060_522_496 + 20 * 2**30
    awake_phase, awake = colocated_peak(estimate(replace(job, sleep=False)))
    assert awake_phase == "train"
    assert awake - process(job, "learner", "train").gpu_bytes == 16_060_522_496 + 20 * 2**30


def test_a_replica_receives_pi_t_as_an_engine_does() -> None:
    """Three buffers of 1 GiB by nccl, a copy of one by ipc, none through the host's memory; pi_ref alone receives nothing."""
    job = replace(JOB, reference_receives=True)
    found = [process(replace(job, transport=transport), "reference", "sync").gpu for transport in get_args(Transport)]
    assert found == [{"weights": 16_060_522_496} | extra for extra in ({"transport": 3 * 2**30}, {"transport": 2**30}, {}, {})]
    assert "transport" not in process(job, "reference", "train").gpu
    assert process(JOB, "reference", "sync").gpu == {"weights": 16_060_522_496}


def test_an_adapters_engine_sleeps_in_host_memory() -> None:
    job = replace(JOB, model=ModelShape.of(LLAMA_8B, LoraConfig(rank=16)), transport="ipc", sleep=True)
    asleep = process(job, "rollout", "train")
    assert (asleep.gpu_bytes, asleep.host_bytes) == (0, 16_060_522_496)


def test_zero_3_keeps_its_buffers_unless_they_go() -> None:
    """Its fp32 gradients of 4 P / 8 and its bucket are there between steps; gathered parameters are 1e9 of 2 bytes at most. Away they are
    in pinned buffers of 2^32 bytes."""
    job = replace(JOB, zero_stage=3)
    kept = process(job, "learner", "sync").gpu
    assert (kept["gradients"], kept["bucket"], kept["gathered"]) == (4_015_130_624, 1_000_000_000, 2_000_000_000)
    away = process(replace(job, sleep=True, transport="ipc"), "learner", "sync")
    assert away.gpu.keys() == {"parameters", "gathered", "transport"}
    assert away.host == {"optimizer": 3 * 2**32, "gradients": 2**32}


def test_job_of_a_config() -> None:
    config = RunConfig.parse(
        {
            "policy": {"path": "m", "gradient_checkpointing": True},
            "loss": {"type": "inpo"},
            "learner": {"zero_stage": 3, "micro_batch_tokens": 4096, "optimizer": {"type": "rmsprop"}},
            "rollout": {"kv_cache_gib": 2.0},
            "placement": {"layout": "colocated", "sleep": True, "learner": {"ranks": 4}, "rollout": {"tensor_parallel": 2}},
        }
    )
    assert Job.of(config, SHAPE, oracle_bytes=7) == Job(
        SHAPE,
        dtype_bytes=2,
        zero_stage=3,
        ranks=4,
        micro_batch_tokens=4096,
        gradient_checkpointing=True,
        prefix_sharing=True,
        moments=1,
        tensor_parallel=2,
        kv_cache_bytes=2**31,
        reference_slots=2,
        reference_receives=True,
        transport="ipc",
        sleep=True,
        oracle_bytes=7,
        copies=True,
        policies=True,
    )


def test_the_copy_that_a_checkpoint_is_written_from() -> None:
    """12 P / 8 of optimiser, 2 P of weights on rank 0 below stage 3, from which the policy is written, too; at stage 3, or with an adapter,
    2 P for that; in every phase. With an adapter under stage 3 the share of the weights that are not trained. Nothing where training
    waits."""
    job = replace(JOB, copies=True)
    assert all(
        process(job, "learner", phase).host == {"checkpoint": 12_045_391_872 + 16_060_522_496} for phase in ("rollout", "train", "sync")
    )
    job = replace(job, policies=True)
    assert process(job, "learner", "train").host == {"checkpoint": 12_045_391_872 + 16_060_522_496}
    job = replace(job, zero_stage=3)
    assert process(job, "learner", "train").host == {"checkpoint": 12_045_391_872 + 16_060_522_496}
    adapted = replace(job, model=ModelShape.of(LLAMA_8B, LoraConfig(rank=16)))
    share = process(adapted, "learner", "train").host["checkpoint"] - optimizer_bytes(adapted)
    assert share == 16_060_522_496 // 8 + 16_060_522_496
    assert "checkpoint" not in process(JOB, "learner", "train").host


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix_sharing", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_autograd_saves_in_a_block(dtype: torch.dtype, prefix_sharing: bool, checkpointing: bool) -> None:
    """A Llama of three blocks against one of one, 128 tokens: the difference is two blocks', to the byte."""
    saved = {layers: saved_bytes(grouped(layers), dtype, prefix_sharing, checkpointing) for layers in (1, 3)}
    block = dtype.itemsize * 128 if checkpointing else block_bytes_per_token(ModelShape.of(grouped(1)), dtype.itemsize, prefix_sharing)
    assert saved[3] - saved[1] == 2 * 128 * block


@pytest.mark.parametrize("chosen", [1, 2, 4])
def test_what_autograd_saves_in_a_mixture(chosen: int) -> None:
    """As in the test above; the indices of the chosen experts, which the formula leaves out, are less than 2% here."""

    def mixture(layers: int) -> MixtralConfig:
        return MixtralConfig(**GROUPED, num_hidden_layers=layers, num_local_experts=8, num_experts_per_tok=chosen)

    saved = {layers: saved_bytes(mixture(layers), torch.float32, False, False) for layers in (1, 3)}
    block = block_bytes_per_token(ModelShape.of(mixture(1)), 4)
    assert saved[3] - saved[1] == pytest.approx(2 * 128 * block, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_shared_row_adds(dtype: torch.dtype) -> None:
    """The heads' keys and values in the one block, and the mask."""
    plain, shared = (saved_bytes(grouped(1), dtype, prefix_sharing, False) for prefix_sharing in (False, True))
    shape = ModelShape.of(grouped(1))
    more = block_bytes_per_token(shape, dtype.itemsize, True) - block_bytes_per_token(shape, dtype.itemsize)
    job = replace(JOB, dtype_bytes=dtype.itemsize, micro_batch_tokens=128, prefix_sharing=True)
    assert more == dtype.itemsize * 2 * (4 - 2) * 32
    assert shared - plain == 128 * more + mask_bytes(job)


GROUPED: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""Two query heads to a key-value head."""


def grouped(layers: int) -> LlamaConfig:
    return LlamaConfig(**GROUPED, num_hidden_layers=layers)


def saved_bytes(config: LlamaConfig | MixtralConfig, dtype: torch.dtype, prefix_sharing: bool, checkpointing: bool) -> int:
    """Of the storages that a forward pass over a row of 128 tokens leaves for the backward pass, the model's own aside."""
    model: Any = AutoModelForCausalLM.from_config(config).to(dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    mask = torch.zeros(1, 1, 128, 128, dtype=dtype) if prefix_sharing else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(torch.zeros(1, 128, dtype=torch.long), attention_mask=mask, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)


def test_the_bucket_is_no_larger_than_what_is_trained() -> None:
    """A LoRA of 10,000 parameters on the 8B model, bfloat16: twice 20,000 bytes and not DeepSpeed's gigabytes."""
    assert bucket_bytes(replace(JOB, model=replace(JOB.model, adapter_parameters=10_000))) == 40_000


LLAMA_70B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=8192,
    intermediate_size=28_672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
H100 = 81_559 * 2**20
"""Bytes of its memory, as nvidia-smi says."""


def test_a_70b_model_on_two_nodes_of_eight() -> None:
    """P = 2 x 128,256 x 8192 + 80 (2 x 8192^2 + 2 x 8192 x 1024 + 3 x 8192 x 28,672 + 2 x 8192) + 8192 = 70,553,706,496.

    All parameters trained, colocated, asleep in turn, ZeRO-3 over 16 ranks, in bytes of a GPU: parameters 2 P / 16, fp32 gradients
    4 P / 16, AdamW 12 P / 16 or RMSprop 8 P / 16; gathered at most the embedding, 2 x 128,256 x 8192; engines of 8 GPUs hold 2 P / 8 while
    they are awake. With AdamW a rank's states are 18 P / 16 = 79.4 GB of the 85.5 GB: no room for activations; with RMSprop 14 P / 16 =
    61.7 GB.
    """
    shape = ModelShape.of(LLAMA_70B)
    assert shape.parameters == 70_553_706_496
    job = Job(
        shape,
        dtype_bytes=2,
        zero_stage=3,
        ranks=16,
        micro_batch_tokens=2048,
        gradient_checkpointing=True,
        moments=1,
        tensor_parallel=8,
        transport="ipc",
        sleep=True,
    )
    train = process(job, "learner", "train")
    states = {"parameters": 8_819_213_312, "optimizer": 35_276_853_248, "gradients": 17_638_426_624, "bucket": 1_000_000_000}
    assert {item: train.gpu[item] for item in states} == states
    assert train.gpu["gathered"] == 2_101_346_304
    assert process(job, "rollout", "rollout").gpu == {"weights": 17_638_426_624}
    assert colocated_peak(estimate(job))[1] < H100
    check_fits(job, H100, colocated=True)
    adamw = replace(job, moments=2)
    assert optimizer_bytes(adamw) == 52_915_279_872
    assert colocated_peak(estimate(adamw))[1] > H100
    assert process(job, "learner", "rollout").host == {"optimizer": 2 * 2**35, "gradients": 2**35}


def test_a_70b_adapter_on_two_nodes_of_eight() -> None:
    """Separate: 8 ranks that hold 2 (P + A) / 8 each of an adapter of A = 207,093,760 (rank 16: 16 x 161,792 x 80), an engine of 4 GPUs
    of 2 P / 4, and a replica with pi_t whose blocks lie on 4 GPUs, of 2 P / 4
    and half a block of (P - 2 x 128,256 x 8192) / 80 = 855,654,502 at most."""
    shape = replace(ModelShape.of(LLAMA_70B), adapter_parameters=16 * 161_792 * 80)
    assert shape.trained == 207_093_760
    job = Job(
        shape,
        dtype_bytes=2,
        zero_stage=3,
        ranks=8,
        micro_batch_tokens=4096,
        gradient_checkpointing=True,
        tensor_parallel=4,
        reference_slots=1,
        reference_gpus=4,
    )
    assert process(job, "learner", "train").gpu["parameters"] == 17_690_200_064
    assert process(job, "rollout", "rollout").gpu["weights"] == 35_276_853_248
    assert process(job, "reference", "train").gpu["weights"] == 35_276_853_248 + 855_654_502
    assert all(found.gpu_bytes < H100 for found in estimate(job))
    check_fits(job, H100, colocated=False)


def test_what_does_not_fit_is_refused_with_the_sum() -> None:
    """70B at stage 2 is whole on every GPU: 2 P = 131.4 GiB; so is a reference on one. Colocated, 8B at stage 2 on 2 ranks: 15.0 + 44.9 +
    15.0 of a rank and 15.0 of an engine; asleep in turn the training rank's 74.8 fit 80 GiB."""
    whole = Job(ModelShape.of(LLAMA_70B), dtype_bytes=2, zero_stage=2, ranks=16, micro_batch_tokens=2048, tensor_parallel=8)
    with pytest.raises(
        ConfigError, match=r"^placement: in the phase 'rollout' .* learner parameters 131\.4 .* but it has 79\.6 GiB; set learner"
    ):
        check_fits(whole, H100, colocated=False)
    sharded = replace(whole, zero_stage=3, moments=1, reference_slots=1)
    with pytest.raises(ConfigError, match=r"reference weights 131\.4 = 131\.4 GiB, .* a larger placement\.reference\.gpus"):
        check_fits(sharded, H100, colocated=False)
    check_fits(replace(sharded, reference_gpus=2), H100, colocated=False)
    small = replace(JOB, ranks=2, reference_slots=0, transport="ipc")
    terms = r"learner parameters 15\.0 \+ learner optimizer 44\.9 \+ learner gradients 15\.0 \+ rollout weights 15\.0 = 89\.7 GiB"
    with pytest.raises(ConfigError, match=terms):
        check_fits(small, 80 * 2**30, colocated=True)
    check_fits(replace(small, sleep=True), 80 * 2**30, colocated=True)


def test_a_partitioned_copy_of_pi_ref() -> None:
    """Stage 3: an eighth of 2 P and the whole head of 2 x 128,256 x 4096 bytes; and each of the two models is gathered to 1e9 elements."""
    job = replace(JOB, zero_stage=3, divergence=True)
    gpu = process(job, "learner", "train").gpu
    assert (gpu["frozen"], gpu["gathered"]) == (2_007_565_312 + 1_050_673_152, 4_000_000_000)
    assert process(replace(job, zero_stage=2), "learner", "train").gpu["frozen"] == 16_060_522_496


def test_gathers_are_smaller_than_what_zero_3_keeps_gathered() -> None:
    """So publishing and exporting need no memory beyond ``gathered``."""
    assert max(GATHER_ELEMENTS.values()) <= LIVE_ELEMENTS


MEASURED = (
    # shape, ZeRO stage, gradient checkpointing, GiB; benchmarks/README.md, "On a GPU": one H200, Liger's kernels, passes of 16,384 tokens
    ("0.5b", 1, False, 25.6),
    ("0.5b", 2, False, 26.6),
    ("0.5b", 2, True, 11.7),
    ("0.5b", 3, True, 12.5),
    ("1.2b", 2, False, 40.7),
    ("1.5b", 2, False, 57.0),
)


@pytest.mark.parametrize(("name", "stage", "checkpointing", "measured_gib"), MEASURED)
def test_peaks_that_were_measured_on_a_gpu(name: str, stage: Any, checkpointing: bool, measured_gib: float) -> None:
    """Within 15%. The pairs there have prompts of at most 900 tokens and two responses of at most 1200: rows of 3,300."""
    job = Job(
        ModelShape.of(model_config(name)),
        dtype_bytes=2,
        zero_stage=stage,
        ranks=1,
        micro_batch_tokens=16_384,
        gradient_checkpointing=checkpointing,
        prefix_sharing=True,
        row_tokens=3300,
        fused=True,
    )
    assert process(job, "learner", "train").gpu_bytes / 2**30 == pytest.approx(measured_gib, rel=0.15)


def test_liger_keeps_less_of_a_block() -> None:
    """8B, bytes per token: two norms' inputs in fp32, 8 x 4096, and one of four widths of the MLP, 2 x 14,336, are not kept."""
    assert block_bytes_per_token(SHAPE, 2) - block_bytes_per_token(SHAPE, 2, fused=True) == 8 * 4096 + 2 * 14_336


def test_one_rank_gathers_nothing() -> None:
    assert "gathered" not in process(replace(JOB, zero_stage=3, ranks=1), "learner", "train").gpu


def test_the_mask_of_short_rows() -> None:
    """8192 tokens in rows of at most 1024: 2 x 8192 x 1024 bytes."""
    assert mask_bytes(replace(JOB, prefix_sharing=True, row_tokens=1024)) == 2**24

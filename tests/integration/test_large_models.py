"""Models that fit no rank: read, partitioned, exported and frozen in shares, on real DeepSpeed ranks."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from actors.learner import policy_export
from actors.learner.partitioned import load_partitioned
from actors.policy_model import load_model, load_tokenizer
from actors.weights.source import DeepSpeedSource
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig
from tests.learner_bench import Bench, Benches

pytestmark = pytest.mark.integration

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "computed buffers": (Gemma3ForCausalLM, Gemma3TextConfig, {"num_key_value_heads": 1, "head_dim": 32}),
    "other names": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "fused experts": (Qwen3MoeForCausalLM, Qwen3MoeConfig, {"num_key_value_heads": 1, "num_experts": 4, **EXPERTS}),
    "stored buffers in float32": (
        DeepseekV3ForCausalLM,
        DeepseekV3Config,
        {"num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **EXPERTS, **LATENT},
    ),
}


def save(directory: Path, kind: str) -> Path:
    """A random model in several files."""
    torch.manual_seed(0)
    model, config, settings = MODELS[kind]
    made = model(config(**SIZES | settings))
    for name, buffer in made.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn_like(buffer))
    made.save_pretrained(directory, max_shard_size="60KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    return directory


def on_every_rank(bench: Bench, function: Any, *arguments: Any) -> list[Any]:
    return ray.get([rank.__ray_call__.remote(function, *arguments) for rank in bench.ranks], timeout=300)


@pytest.mark.parametrize("kind", MODELS)
def test_a_partitioned_model_is_what_from_pretrained_loads(benches: Benches, kind: str, tmp_path: Path) -> None:
    """Every parameter and buffer, to the bit and in its dtype, in both dtypes. No parameter is whole on a rank."""
    directory = save(tmp_path, kind)
    for dtype in ("bfloat16", "float32"):
        assert on_every_rank(benches[2], differences, PolicyConfig(path=str(directory), dtype=dtype)) == [[], []]  # type: ignore[arg-type]


def differences(rank: Any, policy: PolicyConfig) -> list[str]:
    """Names of tensors that differ; runs in a rank's process."""
    import deepspeed

    found, expected = load_partitioned(policy, torch.device("cpu")), load_model(policy, torch.device("cpu"))
    whole = [name for name, parameter in found.named_parameters() if parameter.numel()]
    with deepspeed.zero.GatheredParameters(list(found.parameters()), modifier_rank=None):
        mine = dict(found.named_parameters()) | dict(found.named_buffers())
        theirs = dict(expected.named_parameters()) | dict(expected.named_buffers())
        assert mine.keys() == theirs.keys()
        return whole + [name for name, value in theirs.items() if value.dtype != mine[name].dtype or not value.equal(mine[name])]


def test_weights_that_are_not_in_the_files(benches: Benches, tmp_path: Path) -> None:
    """A weight that is missing, or of another shape, is refused by name; transformers would make up random values for the first."""
    directory = save(tmp_path, "tied")
    policy = PolicyConfig(path=str(directory), dtype="float32")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    file = directory / index["weight_map"][name]
    tensors = load_file(file)
    removed = tensors.pop(name)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"policy\.path: .* lack 1 weights of its model, {re.escape(name)} the first"):
        on_every_rank(benches[2], differences, policy)
    del benches[2]
    save_file(tensors | {name: removed[:1]}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"up_proj\.weight .* is \(1, 64\) in the files, and \(128, 64\) by config\.json"):
        on_every_rank(benches[1], differences, policy)


@pytest.fixture
def four(cluster: None, policy: PolicyConfig, tmp_path: Path) -> Iterator[Bench]:
    """Ranks whose freed tensors go back to the system at once, as those of large models do: malloc keeps what is below 32 MB."""
    bench = Bench(4, policy, tmp_path / "output", {"MALLOC_MMAP_THRESHOLD_": "65536"})
    bench.call("start")
    yield bench
    bench.close()


@pytest.mark.slow
def test_peak_host_memory_of_loading_and_exporting(four: Bench, policy: PolicyConfig, tmp_path: Path) -> None:
    """Four ranks and a model of 125.9M parameters in float32, 503.4 MB: 2 x 8192 x 768 + 16 (4 x 768^2 + 3 x 768 x 2048 + 2 x 768) + 768.

    Every rank but the reader stays below a half of it, its share of a quarter included. On a CPU the gathered tensors count, too. Measured:
    132.5 MB while loading, and 50.4 MB more than the share while exporting, twice the embedding; rank 0 135.3, and 529.8 for its one file.
    """
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 12, "vocab_size": 8192}
    model = LlamaForCausalLM(LlamaConfig(**SIZES | sizes))
    whole = 4 * model.num_parameters()
    assert whole == 503_417_856
    base = tmp_path / "base"
    model.save_pretrained(base)
    load_tokenizer(policy).save_pretrained(base)
    del model
    large = policy.model_copy(update={"path": str(base)})
    peaks = on_every_rank(four, peaks_of, large, tmp_path / "exported")
    for loading, exporting in peaks[1:]:
        assert loading < whole / 2, peaks
        assert whole / 4 + exporting < whole / 2, peaks
    again, first = (AutoModelForCausalLM.from_pretrained(path).parameters() for path in (tmp_path / "exported", base))
    assert all(a.equal(b) for a, b in zip(again, first, strict=True))


def peaks_of(rank: Any, policy: PolicyConfig, directory: Path) -> tuple[int, int]:
    """Bytes by which resident memory rises at most while the policy is loaded, and while it is exported; runs in a rank's process."""
    tiny = load_partitioned(rank._policy, torch.device("cpu"))
    before = _resident("VmRSS", reset=True)
    model = load_partitioned(policy, torch.device("cpu"))
    loading = _resident("VmHWM") - before
    del tiny
    before = _resident("VmRSS", reset=True)
    policy_export.export(DeepSpeedSource(model), policy, directory, write=rank._rank == 0)
    return loading, _resident("VmHWM") - before


def _resident(kind: str, *, reset: bool = False) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most (VmHWM) since the last reset."""
    if reset:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)]
    return 1024 * int(line.split()[1])

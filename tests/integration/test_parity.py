"""Small runs of each kind against what they did when ``parity.json`` was written.

What no machine changes is compared exactly: seeds, token ids, batches, micro-batch plans. Targets and parameters are compared to a
tolerance. Sampled token ids follow from float32 arithmetic, which may differ in the last bit between CPUs of different vector
instructions; where these are not those of the file, the sampled runs are compared by their requests alone.

After a change that is meant to change runs: RAYPREF_WRITE_PARITY=1 pytest tests/integration/test_parity.py, and say why in the commit.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from actors.policy_model import load_model
from raypref.training.collation import sequences
from raypref.training.micro_batches import plan_micro_batches
from raypref.training.packing import packing_of
from raypref.types import Example
from tests.integration.runs import RecordedRun

FILE = Path(__file__).with_name("parity.json")
WRITE = "RAYPREF_WRITE_PARITY" in os.environ
RUNS = {"sppo": "sppo_run", "inpo_tournament": "inpo_run", "spo_regularised": "spo_run", "pairs": "pairs_run", "lora": "lora_run"}
"""Name in the file -> fixture."""
GIVEN = {"pairs"}
"""Runs whose batches are given, not sampled."""
PLAN_RANKS, PLAN_TOKENS = 2, 64
"""For the plans: a budget at which a batch of tiny examples is several micro-batches."""
DIRECTIONS = 4
"""Random directions along which the movement of a tensor is stored."""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (WRITE or FILE.exists()), reason=f"{FILE.name} is not recorded yet: run this file with RAYPREF_WRITE_PARITY=1"),
]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_does_what_it_did(name: str, request: pytest.FixtureRequest) -> None:
    run: RecordedRun = request.getfixturevalue(RUNS[name])
    found = json.loads(json.dumps(describe(run)))
    content = json.loads(FILE.read_text()) if FILE.exists() else {"cpu": cpu(), "runs": {}}
    if WRITE:
        content["runs"][name] = found
        FILE.write_text(json.dumps(content, indent=1) + "\n")
    expected = content["runs"][name]
    assert found["requests"] == expected["requests"]
    if name in GIVEN or content["cpu"] == cpu():
        assert found["batches"] == expected["batches"]
        assert found["plans"] == expected["plans"]
        assert len(found["targets"]) == len(expected["targets"])
        for targets, numbers in zip(found["targets"], expected["targets"], strict=True):
            np.testing.assert_allclose(targets, numbers, atol=1e-6)
        moved = np.sqrt(sum(np.square(list(values)).sum() for values in expected["movement"].values()) / DIRECTIONS)
        assert moved > 0
        for tensor, values in expected["movement"].items():
            np.testing.assert_allclose(found["movement"][tensor], values, atol=0.02 * moved, err_msg=tensor)
        assert found["movement"].keys() == expected["movement"].keys()


def cpu() -> str:
    """The vector instructions that torch uses."""
    return torch.backends.cpu.get_cpu_capability()


def describe(run: RecordedRun) -> dict[str, Any]:
    """What the file stores of a run."""
    batches = [list(batch) for batch in run.batches]
    packing = packing_of(load_model(run.config.policy, torch.device("cpu")))
    plans = []
    for batch in batches:
        plan = plan_micro_batches([sequences([example]) for example in batch], PLAN_RANKS, PLAN_TOKENS, packing)
        plans.append([[[*micro.examples, int(micro.counted)] for micro in rank] for rank in plan])
    requests = sorted(
        (request.policy_version, request.prompt.id, request.seed, request.count, request.max_tokens, request.prompt.token_ids.tolist())
        for request in run.requests
    )
    return {
        "requests": [" ".join(map(str, request)) for request in requests],
        "batches": [[words(example) for example in batch] for batch in batches],
        "targets": [[float(target) for example in batch for target in example.targets] for batch in batches],
        "plans": plans,
        "movement": movement(Path(run.config.policy.path), run.result.policy_dir),
    }


def words(example: Example) -> str:
    """``prompt id: its tokens > a response's tokens; ...``"""
    pairs = zip(example.prompt_ids, example.response_ids, strict=True)
    return f"{example.prompt_id}: " + "; ".join(f"{digits(prompt)} > {digits(response)}" for prompt, response in pairs)


def digits(ids: np.ndarray) -> str:
    return " ".join(map(str, ids.tolist()))


def movement(start: Path, end: Path) -> dict[str, list[float]]:
    """Of each tensor's change: its products with random vectors whose elements have variance 1, so that the mean of a product's square is
    the square of the change's length."""
    before, after = (load_file(directory / "model.safetensors") for directory in (start, end))
    assert before.keys() == after.keys()
    products = {}
    for name in sorted(before):
        change = (after[name].double() - before[name].double()).flatten().numpy()
        directions = np.random.default_rng(zlib.crc32(name.encode())).standard_normal((DIRECTIONS, len(change)))
        products[name] = [float(f"{product:.6g}") for product in directions @ change]
    return products

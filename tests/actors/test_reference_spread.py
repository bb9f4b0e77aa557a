"""A reference over several GPUs: how its blocks are divided, and that its log-probs are those of one device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy_model import load_model
from actors.reference.actor import ReferenceActor
from actors.reference.spread import divided, load_spread
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig
from tests.learner_bench import make_examples, make_policy
from tests.tiny_models import make_model


def test_blocks_are_divided_by_bytes() -> None:
    """70B: 80 blocks of 1.7 GB and 4.2 GB around them. On 4 GPUs 35.3 GB each: the first takes two blocks less. No GPU is empty."""
    held = divided(80, 4, 1.71, 4.2)
    assert held == sorted(held)
    assert [held.count(device) for device in range(4)] == [18, 21, 20, 21]
    assert divided(2, 2, 1.0, 100.0) == [0, 1]
    assert divided(3, 3, 1.0, 0.0) == [0, 1, 2]
    assert divided(4, 2, 1.0, 0.0) == [0, 0, 1, 1]


@pytest.mark.parametrize("tied", [True, False])
def test_a_spread_model_holds_what_from_pretrained_loads(tied: bool, tmp_path: Path) -> None:
    policy = PolicyConfig(path=str(make_model(tmp_path, tied=tied)), dtype="bfloat16")
    cpu = torch.device("cpu")
    found, expected = load_spread(policy, [cpu, cpu]), load_model(policy, cpu)
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in expected.named_parameters()]
    assert all(a.equal(b) and not a.requires_grad for a, b in zip(found.parameters(), expected.parameters(), strict=True))
    assert all(a.equal(b) and a.dtype == b.dtype for a, b in zip(found.buffers(), expected.buffers(), strict=True))


def test_log_probs_over_two_devices(tmp_path: Path) -> None:
    """To the bit; also after a refresh."""
    policy = make_policy(tmp_path)
    one, two = (ReferenceActor(policy, {"reference"}, 64, gpus=gpus) for gpus in (1, 2))
    two.refresh(tmp_path)
    for a, b in zip(one.score(make_examples(5)), two.score(make_examples(5)), strict=True):
        assert a.reference_logps is not None
        assert b.reference_logps is not None
        np.testing.assert_array_equal(a.reference_logps, b.reference_logps)


def test_more_gpus_than_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"placement\.reference\.gpus: 3, but the policy has 2 blocks; set at most 2"):
        ReferenceActor(make_policy(tmp_path), {"reference"}, 64, gpus=3)

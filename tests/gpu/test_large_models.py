"""A reference whose blocks lie on two devices: a GPU and the CPU, where there is a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy_model import load_model
from actors.reference.spread import load_spread
from raypref.training import collation
from raypref.training.logprobs import per_token_logps
from tests.gpu.devices import DEVICES
from tests.learner_bench import make_examples, make_policy


@pytest.mark.parametrize("device", DEVICES)
def test_log_probs_over_two_devices(device: str, tmp_path: Path) -> None:
    """In float32, as on the CPU alone; what passes between the blocks moves there and back."""
    policy, sequences = make_policy(tmp_path), collation.sequences(make_examples(5))
    cpu, other = torch.device("cpu"), torch.device(device)
    expected = per_token_logps(load_model(policy, cpu), sequences, 64)
    for devices in ([other, cpu], [cpu, other]):
        model = load_spread(policy, devices)
        assert {parameter.device for parameter in model.parameters()} == {cpu, other}
        for found, row in zip(per_token_logps(model, sequences, 64), expected, strict=True):
            np.testing.assert_allclose(found, row, atol=1e-4)

"""The example of CONTRIBUTING.md is a complete file, and works."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import raypref
from raypref.losses.base import losses
from tests.losses.batches import loss_batch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The code block as the module that it is; its registration ends with the test."""
    losses.names()  # the built-in ones are registered once, when they are imported
    monkeypatch.setattr(losses, "_classes", dict(losses._classes))
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    path = tmp_path / "my_ipo.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location("my_ipo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_ipo", module)
    spec.loader.exec_module(module)
    yield module
    assert "my_ipo" in losses.names()


@pytest.mark.usefixtures("example")
def test_the_loss_of_the_example_by_hand(tmp_path: Path) -> None:
    """Log-ratios (1, -1) and (0, 2): margins 2 and -2. tau = 0.25 aims at 2: squared errors 0 and 16, rewards' margins 0.5 and -0.5."""
    path = tmp_path / "run.yaml"
    path.write_text("policy: {path: m}\nloss: {type: my_ipo, tau: 0.25}\n")
    loss = raypref.load_config(path).loss
    batch = loss_batch([[-4.0, -8.0], [-5.0, -6.0]], [[-5.0, -7.0], [-5.0, -8.0]], [[1.0, 0.0], [1.0, 0.0]])
    value = loss(batch)
    torch.testing.assert_close(value.loss, torch.tensor([0.0, 16.0], dtype=torch.float64))
    torch.testing.assert_close(value.metrics["rewards/margins"], torch.tensor([0.5, -0.5], dtype=torch.float64))
    assert not value.metrics["rewards/margins"].requires_grad
    value.loss.sum().backward()  # 2 (margin - 2) for the chosen response
    torch.testing.assert_close(batch.logps.grad, torch.tensor([[0.0, 0.0], [-8.0, 8.0]], dtype=torch.float64))


def test_the_check_knows_what_the_example_declares(example: ModuleType) -> None:
    config = raypref.RunConfig.parse(
        {
            "policy": {"path": "m"},
            "loss": {"type": "my_ipo"},
            "selection": {"type": "all_responses"},
            "oracle": {"type": "callable", "function": "builtins:len"},
        }
    )
    (problem,) = raypref.check(config)
    assert str(problem) == (
        "loss.type: my_ipo, which needs 2 responses per example, but selection.type=all_responses gives 5; set selection.type=best_worst"
    )

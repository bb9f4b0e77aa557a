"""A checkpoint holds tensors and plain values; nothing in it can run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from actors.learner.checkpoint import deepspeed_classes
from actors.learner.deepspeed_setup import learner_env


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def as_in_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in learner_env("cpu", 1).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("as_in_a_rank")
def test_deepspeeds_own_classes_are_read(tmp_path: Path) -> None:
    """DeepSpeed loads with ``weights_only=False``; what a rank's environment says comes before that."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    state = {"loss_scaler": LossScaler(1.0), "zero_stage": ZeroStageEnum.gradients, "at": fragment_address(3, 5), "step": torch.tensor(7)}
    torch.save(state, tmp_path / "state.pt")
    with deepspeed_classes():
        loaded = torch.load(tmp_path / "state.pt", weights_only=False)
    assert loaded["zero_stage"] is ZeroStageEnum.gradients
    assert (loaded["at"].numel, loaded["at"].start, loaded["step"].item(), loaded["loss_scaler"].cur_scale) == (3, 5, 7, 1.0)


@pytest.mark.usefixtures("as_in_a_rank")
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"step": Intruder(tmp_path / "made")}, tmp_path / "state.pt")
    with deepspeed_classes(), pytest.raises(pickle.UnpicklingError, match=r"weights_only|Weights only"):
        torch.load(tmp_path / "state.pt", weights_only=False)
    assert not (tmp_path / "made").exists()

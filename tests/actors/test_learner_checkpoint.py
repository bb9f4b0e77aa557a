"""A checkpoint holds tensors and plain values; nothing in it can run code. Which layouts it can be loaded with."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from actors.learner import universal
from actors.learner.checkpoint import Layout, Progress, Saved, deepspeed_classes, read, write
from actors.learner.deepspeed_setup import learner_env
from raypref.errors import ConfigError


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


@pytest.mark.parametrize(
    ("written", "wanted", "optimizer", "refusal"),
    [
        (Layout(2, 2), Layout(2, 2), "rmsprop", None),
        (Layout(2, 2), Layout(1, 2), "adamw", None),
        (Layout(2, 2), Layout(1, 1), "adamw", None),
        (Layout(1, 3), Layout(4, 3), "adamw", None),
        (Layout(2, 0), Layout(4, 0), "rmsprop", None),
        (Layout(2, 2), Layout(2, 3), "adamw", r"learner\.zero_stage: 3, .* written with 2, and .* set learner\.zero_stage=2"),
        (Layout(2, 0), Layout(2, 1), "adamw", r"learner\.zero_stage: 1, .* written with 0, and .* set learner\.zero_stage=0"),
        (Layout(2, 2), Layout(2, 1), "rmsprop", r"learner\.zero_stage: 1, .* adamw only .*rmsprop\); set learner\.zero_stage=2"),
        (Layout(2, 2), Layout(3, 2), "rmsprop", r"placement\.learner\.ranks: 3, .* with 2, and .* set placement\.learner\.ranks=2"),
    ],
)
def test_what_deepspeed_cannot_convert_is_refused(
    written: Layout, wanted: Layout, optimizer: str, refusal: str | None, tmp_path: Path
) -> None:
    write(tmp_path, Progress(1, 2, 3, 4.0), written)
    if refusal is None:
        assert read(tmp_path, wanted, optimizer) == Saved(Progress(1, 2, 3, 4.0), written, ())
    else:
        with pytest.raises(ConfigError, match=refusal):
            read(tmp_path, wanted, optimizer)


def test_a_conversion_without_room_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte short of twice the size; a checkpoint that is loaded as it is needs no room."""
    write(tmp_path, Progress(), Layout(2, 2))
    (tmp_path / "weights").write_bytes(bytes(1000))
    size = 1000 + (tmp_path / "learner.json").stat().st_size
    free = 2 * size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    universal.check(tmp_path, Layout(1, 2), "adamw")
    free -= 1
    universal.check(tmp_path, Layout(2, 2), "adamw")
    with pytest.raises(ConfigError, match=r"placement\.learner\.ranks: 1, .* Make room, or set both keys as they were"):
        universal.check(tmp_path, Layout(1, 2), "adamw")


def test_groups_of_parameters_count_steps_for_themselves() -> None:
    """DeepSpeed loads one counter for all, which each of them would increase at every step."""
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = torch.optim.AdamW([{"params": [parameter]} for parameter in parameters], fused=True)
    shared = torch.tensor(2.0)
    for parameter in parameters:
        optimizer.state[parameter] = {"step": shared, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
        parameter.grad = torch.ones(3)
    universal._give_each_its_own_step(optimizer)
    optimizer.step()
    assert [optimizer.state[parameter]["step"].item() for parameter in parameters] == [3.0, 3.0, 3.0]

"""What a rank writes in the background: the state as it was when it was copied, or the error that the disk gave."""

from __future__ import annotations

import errno
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from actors.learner import disk_errors
from actors.learner.background import CheckpointWriter, HostCopies
from actors.learner.policy_export import CopiedWeights, write_weights
from actors.weights.source import TensorInfo


def state_of(shift: float) -> dict[str, Any]:
    """What DeepSpeed's states have: views of one buffer, tensors with notes on them, counters, and a dict with metadata of its own."""
    flat = torch.arange(12, dtype=torch.float32) + shift
    module = OrderedDict(a=flat[:4].view(2, 2), b=flat[4:10], c=torch.ones(3, dtype=torch.bfloat16))
    module._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    master = (torch.ones(5) * shift).requires_grad_()
    master.ds_id = [3, 4]  # type: ignore[attr-defined]
    shared = torch.tensor(7.0)
    groups = [{"step": shared, "exp_avg": torch.full((5,), shift)}, {"step": shared}]
    return {"module": module, "master": [master], "groups": groups, "shape": torch.Size([2, 3]), "empty": torch.empty(0), "text": "x"}


def test_a_copy_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    """Also in memory that an earlier copy was in."""
    copies = HostCopies()
    copies.of(state_of(5.0))
    copies.release()
    state = state_of(1.0)
    torch.save(state, tmp_path / "state.pt")
    expected = (tmp_path / "state.pt").read_bytes()
    copied = copies.of(state)
    copies.make()
    state["module"]["a"].zero_()
    state["groups"][0]["step"].add_(1)
    torch.save(copied, tmp_path / "state.pt")
    assert (tmp_path / "state.pt").read_bytes() == expected
    assert copied["module"]["a"].untyped_storage()._cdata == copied["module"]["b"].untyped_storage()._cdata


def test_the_memory_of_a_copy_is_used_again() -> None:
    copies = HostCopies()
    first = {tensor.untyped_storage()._cdata for tensor in copies.of([torch.ones(4), torch.zeros(9)])}
    copies.release()
    second = copies.of([torch.zeros(9), torch.ones(4)])
    copies.make()
    assert {tensor.untyped_storage()._cdata for tensor in second} == first
    assert [tensor.tolist() for tensor in second] == [[0.0] * 9, [1.0] * 4]


def test_the_copy_of_one_tensor_has_no_more_than_that() -> None:
    part = torch.arange(100.0)[10:14].view(2, 2)
    copied = HostCopies().alone(part)
    assert copied.tolist() == [[10.0, 11.0], [12.0, 13.0]]
    assert copied.untyped_storage().nbytes() == 16


def test_what_a_state_shares_with_the_policy_beside_it_is_copied_once() -> None:
    copies, flat = HostCopies(), torch.arange(6.0)
    state = copies.of({"module": flat[:4].view(2, 2)})
    part, other = copies.alone(flat[2:6]), copies.alone(torch.ones(2))
    assert other.tolist() == [1.0, 1.0]
    copies.make()
    flat.zero_()
    assert part.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert part.untyped_storage()._cdata == state["module"].untyped_storage()._cdata
    assert copies.alone(flat[2:6]).tolist() == [0.0] * 4, "of the next checkpoint"


class Engine:
    """What ``save_checkpoint`` of DeepSpeed's engine does: two files through its checkpoint engine."""

    def __init__(self, write: Callable[[Any, str], None] = torch.save) -> None:
        self.checkpoint_engine = SimpleNamespace(save=write)
        self.state = {"weight": torch.ones(3)}

    def save_checkpoint(self, directory: Path) -> None:
        for name in ("model", "optimizer"):
            self.checkpoint_engine.save(self.state, str(directory / name))


def save(writer: CheckpointWriter, engine: Engine, directory: Path) -> list[str]:
    """Save the engine's state; the names of what is written by the time that the last job runs."""
    seen: list[str] = []
    with writer.checkpoint() as files:
        with writer.collecting(engine):
            engine.save_checkpoint(directory)
        files.append(lambda: seen.extend(sorted(path.name for path in directory.iterdir())))
    return seen


def until_written(writer: CheckpointWriter) -> None:
    deadline = time.monotonic() + 20
    while not writer.written():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_training_goes_on_while_a_thread_writes_what_was(tmp_path: Path) -> None:
    may_write = threading.Event()

    def slow(state: Any, path: str) -> None:
        assert may_write.wait(20)
        torch.save(state, path)

    engine, writer = Engine(slow), CheckpointWriter(background=True)
    assert writer.written()
    seen = save(writer, engine, tmp_path)
    assert not writer.written()
    writer.copied()
    engine.state["weight"].fill_(2.0)
    may_write.set()
    until_written(writer)
    assert seen == ["model", "optimizer"]
    assert [torch.load(tmp_path / name)["weight"].tolist() for name in seen] == [[1.0] * 3] * 2
    assert engine.checkpoint_engine.save is slow


def test_a_step_begins_while_the_copy_is_made_and_changes_the_state_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_copy, copying = threading.Event(), HostCopies.make

    def slow(copies: HostCopies) -> None:
        assert may_copy.wait(20)
        copying(copies)

    monkeypatch.setattr(HostCopies, "make", slow)
    engine, writer = Engine(), CheckpointWriter(background=True)
    save(writer, engine, tmp_path)

    def change() -> None:
        writer.copied()
        engine.state["weight"].fill_(2.0)

    changed = threading.Thread(target=change)
    changed.start()
    changed.join(0.05)
    assert changed.is_alive()
    assert engine.state["weight"].tolist() == [1.0] * 3
    may_copy.set()
    changed.join(20)
    until_written(writer)
    assert engine.state["weight"].tolist() == [2.0] * 3
    assert torch.load(tmp_path / "model")["weight"].tolist() == [1.0] * 3


def test_a_copy_that_fails_is_told_and_holds_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(copies: HostCopies) -> None:
        raise MemoryError("no host memory")

    monkeypatch.setattr(HostCopies, "make", fails)
    writer = CheckpointWriter(background=True)
    save(writer, Engine(), tmp_path)
    writer.copied()
    with pytest.raises(MemoryError, match="no host memory"):
        until_written(writer)
    assert list(tmp_path.iterdir()) == []


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path: Path) -> None:
    """Both are written in the same memory, one after the other."""
    engine, writer = Engine(lambda state, path: (time.sleep(0.05), torch.save(state, path))[-1]), CheckpointWriter(background=True)
    for value in (1.0, 2.0, 3.0):
        writer.copied()
        engine.state["weight"].fill_(value)
        (tmp_path / str(value)).mkdir()
        save(writer, engine, tmp_path / str(value))
    until_written(writer)
    assert [torch.load(tmp_path / str(value) / "optimizer")["weight"][0].item() for value in (1.0, 2.0, 3.0)] == [1.0, 2.0, 3.0]


def test_in_the_foreground_all_is_written_and_nothing_copied(tmp_path: Path) -> None:
    given: list[Any] = []

    def write(state: Any, path: str) -> None:
        given.append(state)
        torch.save(state, path)

    engine, writer = Engine(write), CheckpointWriter(background=False)
    seen = save(writer, engine, tmp_path)
    assert writer.written()
    assert seen == ["model", "optimizer"]
    assert all(state is engine.state for state in given)


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_is_named(background: bool, tmp_path: Path) -> None:
    """torch says that a write failed; the disk says why. Nothing is written after it."""
    engine, writer = Engine(), CheckpointWriter(background=background)
    (tmp_path / "model").symlink_to("/dev/full")

    def write() -> None:
        save(writer, engine, tmp_path)
        until_written(writer)

    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/model'") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_that_is_not_the_disks_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of its own"), disk_errors.named(tmp_path / "file"):
        raise RuntimeError("of its own")
    with pytest.raises(SafetensorError, match="of its own"), disk_errors.named(tmp_path / "file"):
        raise SafetensorError("of its own")


def test_what_safetensors_says_of_the_disk(tmp_path: Path) -> None:
    """It numbers the system's error. A directory that is not there, since a full disk would have to be made."""
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/none/file"), disk_errors.named(tmp_path / "none" / "file"):
        save_file({"a": torch.ones(3)}, tmp_path / "none" / "file")


def test_copied_weights_are_written_as_the_weights_are(tmp_path: Path) -> None:
    class Source(dict[str, torch.Tensor]):
        def metadata(self) -> list[TensorInfo]:
            return [TensorInfo(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.items()]

        def __iter__(self) -> Any:
            return iter(self.items())

    flat = torch.randn(10)
    source: Any = Source(a=flat[:4].view(2, 2), b=flat[4:].bfloat16())
    (tmp_path / "then").mkdir()
    (tmp_path / "now").mkdir()
    write_weights(source, tmp_path / "now")
    copied = CopiedWeights.of(source, HostCopies(), keep=True)
    assert CopiedWeights.of(source, HostCopies(), keep=False).values == {}
    flat.zero_()
    write_weights(copied, tmp_path / "then")
    assert (tmp_path / "then" / "model.safetensors").read_bytes() == (tmp_path / "now" / "model.safetensors").read_bytes()

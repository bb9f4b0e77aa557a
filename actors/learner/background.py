"""Checkpoints that are written while training goes on (``checkpoint.background``).

    with writer.checkpoint() as files:                 # between two steps; waits for the checkpoint before
        files.append(...)                              # what is to be written of the state as it is now
    ...                                                # the next step's forward and backward passes, which change nothing of it
    writer.copied()                                    # before anything changes it
    writer.written()                                   # whether a thread of this process has written it

The state's files are those of DeepSpeed's own ``save_checkpoint``: a thread copies what it gives away to be written to host memory, and
writes the copies.

DeepSpeed's decoupled engine is not used: it hands the live tensors of a CPU to its writer, and they change outside of ``engine.step``, too
(0.19.8, ``decoupled_checkpoint_engine.py``).
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.learner import disk_errors

if TYPE_CHECKING:
    import torch


class HostCopies:
    """Copies of a state in host memory. The memory is kept for the next state: the system clears fresh memory first, which takes several
    times as long as the copy."""

    def __init__(self) -> None:
        self._buffers: dict[int, list[torch.UntypedStorage]] = defaultdict(list)
        """Size in bytes -> storages of that size that hold nothing any more."""
        self._held: list[torch.UntypedStorage] = []
        self._to_make: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []
        """(copy, original) of what ``make`` copies."""
        self._of: dict[int, torch.UntypedStorage] = {}
        """The copy of each of these originals, which are alive until ``make`` is called."""
        self._stream: torch.cuda.Stream | None = None
        """For originals on a GPU."""

    def release(self) -> None:
        """The copies so far are not needed any more."""
        for storage in self._held:
            self._buffers[storage.nbytes()].append(storage)
        self._held.clear()
        self._to_make.clear()
        self._of.clear()

    def of(self, state: Any) -> Any:
        """A copy of everything in ``state``, its tensors on the host: their values come with ``make``, and must not change before. Tensors
        that share memory share it in the copy, too."""
        memo: dict[int, Any] = {}
        for tensor in _tensors(state):
            if id(tensor) not in memo:
                self._copy(tensor, memo)
        return copy.deepcopy(state, memo)

    def alone(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of one tensor: a part of what ``of`` has copied, or else made at once, without the rest of the memory that it is part of,
        since it may be the last one to need that."""
        import torch

        if (whole := self._of.get(tensor.untyped_storage()._cdata)) is not None:
            return torch.empty(0, dtype=tensor.dtype).set_(whole, tensor.storage_offset(), tensor.size(), tensor.stride())
        made = torch.empty(0, dtype=tensor.dtype).set_(self._storage(tensor.nbytes))
        return made.view(tensor.size()).copy_(tensor.detach())

    def order(self) -> None:
        """Before ``make`` is called by another thread: what a GPU still computes of the originals comes before their copies. Training's
        kernels, which do not change them, go on beside these."""
        import torch

        if any(original.device.type == "cuda" for _, original in self._to_make):
            self._stream = self._stream or torch.cuda.Stream()
            self._stream.wait_stream(torch.cuda.current_stream())

    def make(self) -> None:
        """Copy the values of all that ``of`` was given. Other threads of Python go on meanwhile, unlike with a storage's own ``copy_``."""
        import torch

        ordered, self._to_make = self._to_make, []
        self._of.clear()
        with torch.cuda.stream(self._stream):  # of None: nothing
            for made, original in ordered:
                _bytes(made).copy_(_bytes(original))

    def _copy(self, tensor: torch.Tensor, memo: dict[int, Any]) -> None:
        """Put a copy of the tensor into ``memo``, where ``deepcopy`` finds it."""
        import torch

        source = tensor.untyped_storage()
        if source._cdata not in self._of:
            self._of[source._cdata] = self._storage(source.nbytes())
            self._to_make.append((self._of[source._cdata], source))
        place = (tensor.storage_offset(), tensor.size(), tensor.stride())
        made = torch.empty(0, dtype=tensor.dtype).set_(self._of[source._cdata], *place)
        if isinstance(tensor, torch.nn.Parameter):
            made = torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = made.requires_grad_(tensor.requires_grad)
        made.__dict__.update(copy.deepcopy(tensor.__dict__, memo))  # what DeepSpeed notes on a tensor is pickled with it

    def _storage(self, size: int) -> torch.UntypedStorage:
        import torch

        free = self._buffers[size]
        storage = free.pop() if free else torch.UntypedStorage(size)
        self._held.append(storage)
        return storage


class CheckpointWriter:
    """Writes the checkpoints of one rank, one at a time."""

    def __init__(self, *, background: bool) -> None:
        """
        Args:
            background: whether a thread writes them, from copies; else they are written at the end of the block.
        """
        self.background = background
        self.copies = HostCopies()
        self._files: list[Callable[[], None]] = []
        """What is still to be written, in order."""
        self._written: Future[None] | None = None
        """Of the last checkpoint."""
        self._copied = threading.Event()
        """Whether its copies are made."""
        self._copied.set()

    @contextlib.contextmanager
    def checkpoint(self) -> Iterator[list[Callable[[], None]]]:
        """Write what is put into the list in the block, one after another."""
        self.wait()
        self._written = None
        self._files.clear()
        self.copies.release()
        yield self._files
        self._written = Future()
        if self.background:
            self._copied.clear()
            self.copies.order()
            threading.Thread(target=self._write_all, args=[self._written], name="checkpoint", daemon=True).start()
        else:
            self._write_all(self._written)
            self._written.result()

    @contextlib.contextmanager
    def collecting(self, engine: Any) -> Iterator[None]:
        """In the block what DeepSpeed's engine writes is put into the list of ``checkpoint``."""
        files = engine.checkpoint_engine
        write = files.save

        def collect(state_dict: Any, path: str) -> None:
            state = self.copies.of(state_dict) if self.background else state_dict
            self._files.append(partial(_write, write, state, path))

        files.save = collect
        try:
            yield
        finally:
            files.save = write

    def copied(self) -> None:
        """Return when the state may change: what is written of it has been copied."""
        self._copied.wait()

    def wait(self) -> None:
        """Return when nothing is written any more."""
        if self._written is not None:
            wait([self._written])

    def written(self) -> bool:
        """Whether all of the last checkpoint is written.

        Raises:
            OSError: the disk did not take it.
        """
        if self._written is None:
            return True
        if not self._written.done():
            return False
        self._written.result()
        return True

    def _write_all(self, done: Future[None]) -> None:
        try:
            try:
                self.copies.make()
            finally:
                self._copied.set()
            while self._files:
                self._files.pop(0)()
        except Exception as error:  # noqa: BLE001  # ``written`` raises it
            done.set_exception(error)
        else:
            done.set_result(None)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    import torch

    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested dicts, lists and tuples."""
    import torch

    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def _write(write: Callable[[Any, str], None], state: Any, path: str) -> None:
    with disk_errors.named(Path(path)):
        write(state, path)

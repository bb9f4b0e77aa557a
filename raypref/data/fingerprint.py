"""The data of a run as numbers that can be stored and compared: has it changed since a checkpoint was written?

An item is hashed with its id, in the run's order. Token ids of prompts are left out: some chat templates write the date of the day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from raypref.data.identity import as_bytes, turns_of
from raypref.types import Example, Prompt, RunData

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hashes of a run's items."""

    training: Hashes
    """(N,) of the prompts, or of the given examples, in the order in which the run takes them."""
    held_out: Hashes
    """(M,) of the prompts for evaluation."""
    held_out_examples: Hashes | None = None
    """(L,) of the given examples for evaluation; None where an earlier version wrote it."""
    texts: Hashes | None = None
    """(J,) of the texts whose likelihood is measured; likewise."""

    @classmethod
    def of(cls, data: RunData) -> Self:
        """The fingerprint of a run's data."""
        return cls(_hashes(data.items), _hashes(data.held_out), _hashes(data.held_out_examples), _hashes(data.texts))

    def save(self, path: Path) -> None:
        """Write it into an ``.npz`` file."""
        np.savez(path, allow_pickle=False, **self._kinds())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            OSError, ValueError, KeyError: the file is damaged.
        """
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["training"], arrays["held_out"], arrays.get("held_out_examples"), arrays.get("texts"))

    def summary(self) -> dict[str, dict[str, int | str]]:
        """Number of items and one hash, for each kind."""
        kinds = self._kinds().items()
        return {name: {"items": len(each), "hash": hashlib.blake2b(each.tobytes(), digest_size=16).hexdigest()} for name, each in kinds}

    def changes(self, data: RunData) -> list[str]:
        """What is different in ``data``, in words; empty where it is the data of this fingerprint."""
        before, now = self._kinds(), type(self).of(data)._kinds()
        kinds: dict[str, tuple[str, Sequence[Prompt | Example]]] = {
            "training": ("training data", data.items),
            "held_out": ("held-out prompts", data.held_out),
            "held_out_examples": ("held-out examples", data.held_out_examples),
            "texts": ("evaluation.texts", data.texts),
        }
        return [
            f"{kinds[key][0]}: {_change(hashes, now[key], kinds[key][1])}"
            for key, hashes in before.items()
            if not np.array_equal(hashes, now[key])
        ]

    def _kinds(self) -> dict[str, Hashes]:
        """Kind -> hashes, of what is known."""
        kinds = {"training": self.training, "held_out": self.held_out, "held_out_examples": self.held_out_examples, "texts": self.texts}
        return {name: hashes for name, hashes in kinds.items() if hashes is not None}


def _hashes(items: Iterable[Prompt | Example]) -> Hashes:
    """(N,) 64 bits for each item."""
    return np.fromiter((int.from_bytes(_digest(item), "little") for item in items), dtype=np.uint64)


def _digest(item: Prompt | Example) -> bytes:
    """8 bytes of an item's id and content; of an example also its answers and targets."""
    if isinstance(item, Prompt):
        return hashlib.blake2b(as_bytes((("id", item.id), *turns_of(item))), digest_size=8).digest()
    digest = hashlib.blake2b(as_bytes((("id", item.prompt_id), ("content", item.content_id or ""))), digest_size=8)
    for ids in item.response_ids:
        digest.update(f"{len(ids)} ".encode() + ids.tobytes())
    digest.update(item.targets.tobytes())
    return digest.digest()


def _change(before: Hashes, now: Hashes, items: Sequence[Prompt | Example]) -> str:
    """The numbers of items, and the first one that was not there before."""
    counts = f"{len(before)} records before, {len(now)} now"
    new = np.flatnonzero(~np.isin(now, before))
    if len(new):
        first = min((items[int(k)] for k in new), key=_data_order)
        return f"{counts}; {len(new)} of them are new or changed, the first is {_named(first)}"
    if gone := int((~np.isin(before, now)).sum()) or len(before) - len(now):
        return f"{counts}; {abs(gone)} of the earlier ones are gone, or no longer there as often"
    place = int(np.flatnonzero(before != now)[0])
    return f"the same {len(now)} records in another order; the first one that stands in another place is {_named(items[place])}"


def _data_order(item: Prompt | Example) -> tuple[int, int]:
    """The order of the data where ids are numbers, as those of records without an id are; otherwise that of the run."""
    name = item.id if isinstance(item, Prompt) else item.prompt_id
    position = item.index if isinstance(item, Prompt) else item.prompt_index
    return (int(name), position) if name.isdecimal() else (0, position)


def _named(item: Prompt | Example) -> str:
    if isinstance(item, Example):
        return f"prompt {item.prompt_id!r}"
    text = item.text if len(item.text) <= 60 else f"{item.text[:60]}..."
    return f"prompt {item.id!r} ({text!r})"

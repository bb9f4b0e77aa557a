"""The collector is as it was after a run, whatever happened in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from raypref.loop.garbage_collection import frozen_heap


@pytest.fixture(autouse=True)
def nothing_is_frozen() -> Iterator[None]:
    """As in a driver's process; ``tests/conftest.py`` has frozen what was imported."""
    gc.unfreeze()
    yield
    gc.freeze()


def test_collector_is_as_before_after_a_failure() -> None:
    assert gc.get_freeze_count() == 0
    with pytest.raises(ValueError, match="inside"):
        fail_inside()
    assert gc.get_freeze_count() == 0


def fail_inside() -> None:
    with frozen_heap():
        assert gc.get_freeze_count() > 0
        raise ValueError("inside")


def test_what_the_caller_froze_stays_frozen() -> None:
    """The collector lists what it visits, and frozen objects are not among them. Their count may fall: one that nobody holds any more is
    freed like any other."""
    witness: list[object] = [object()]
    assert is_visited(witness)
    with frozen_heap():
        before = gc.get_freeze_count()
        with frozen_heap():
            assert not is_visited(witness)
        assert not is_visited(witness)
        assert 0 < gc.get_freeze_count() <= before
    assert is_visited(witness)


def is_visited(thing: object) -> bool:
    return any(other is thing for other in gc.get_objects())

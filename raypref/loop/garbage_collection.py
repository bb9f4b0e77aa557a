"""Keeps Python's garbage collector from costing the driver a fifth of its time.

Every group in flight consists of a few dozen objects that live for seconds. With thousands of groups the collector runs often, and each
time it would also visit all objects of torch, Ray and the data, which live as long as the run. The same holds while the data is loaded.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Context in which the collector skips the objects that existed before it. Does nothing if the caller has frozen the heap already."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

"""Python's garbage collector during a run.

Every group in flight is a few dozen objects that live for seconds. With thousands of them the collector, which works each time a quarter
more objects are alive, would look through all that torch, Ray and the data have made as well: a fifth of the driver's time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """For the time of the block the collector leaves alone what is alive at its start; nothing happens where the caller has done so."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

"""For every test, before anything reads the environment.

Nothing may ask a hub, and no running Ray cluster is joined. Torch computes with one thread: on tensors as small as those of the tests a
second thread costs more than it saves, and many times more where it waits for a core.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_ADDRESS"] = "local"
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The garbage collector never visits what is imported for the tests: torch, Ray and transformers take it 0.3 s each time, and a run
    in the tests' process would begin with two such visits (``raypref.loop.garbage_collection``)."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries report what is frozen as leaked when Python ends

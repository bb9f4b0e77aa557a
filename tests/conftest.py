"""For every test, before anything reads the environment; and which tests stay in one process when two share them (``make test``).

Nothing may ask a hub, and no running Ray cluster is joined. Torch computes with one thread: on tensors as small as those of the tests a
second thread costs more than it saves, and many times more where it waits for a core.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

WITHOUT_ENGINES = {"test_broken_transfer", "test_launch", "test_learner", "test_learner_batch", "test_offload", "test_worker_death"}
"""Modules of tests/integration whose tests start no vLLM engine."""
ON_RANKS = {*WITHOUT_ENGINES, "test_held_out_loss", "test_large_models"}
"""Those that share the learner's ranks, and what is as light."""

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_ADDRESS"] = "local"
os.environ["OMP_NUM_THREADS"] = "1"
with contextlib.suppress(ImportError):  # tests/gpu does without it
    import hypothesis

    hypothesis.settings.register_profile("tests", deadline=None)  # another process may have the core
    hypothesis.settings.load_profile("tests")


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``pytest -n 2``: what belongs together stays in one process, and the large groups come first."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Scheduling(config, log)


def group_of(test: str) -> str:
    """What a test shares a process with, by its id.

    What starts Ray, engines or ranks does so for several tests, which run one after another; the same holds for a GPU. Every other test is
    a group of its own. No test may depend on one of another group, or on its ports, its files in ``/dev/shm`` or its working directory.
    """
    path = Path(test.partition("::")[0])
    if path.parent.name == "integration":
        return "quickstart" if path.stem == "test_quickstart" else "ranks" if path.stem in ON_RANKS else "engines"
    return path.parent.name if path.parent.name in {"chaos", "gpu", "several_nodes"} else test

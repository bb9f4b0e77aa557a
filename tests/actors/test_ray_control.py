"""How the failure of a receiver during a weight sync is told apart from weights that are wrong."""

from __future__ import annotations

import pickle
import re
import time
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from actors.weights.destination import Destination
from actors.weights.ray_control import RayControl
from raypref.errors import ActorFailed, SyncError, TransferFailed


def failure(error: RayError) -> SyncError:
    control = RayControl([Destination("rollout-1", None)], "shm", timeout_s=5)
    return control._failed("transfer 2 of the sync", {"rollout-1": error})


@pytest.mark.parametrize("error", [ActorDiedError(), RayTaskError("update_weights", "traceback", MemoryError("no memory left"))])
def test_a_receiver_that_died_or_failed_is_an_actors_failure(error: RayError) -> None:
    """So that the run goes on by itself, or its exit code says that a restart may help."""
    found: Any = failure(error)
    assert isinstance(found, TransferFailed)
    assert isinstance(found, ActorFailed)
    assert (found.actors, found.exit_code) == (("rollout-1",), 3)
    assert "sync: rollout-1 failed; shm, transfer 2 of the sync" in str(found)


def test_weights_that_do_not_fit_are_wrong_results() -> None:
    found = failure(RayTaskError("update_weights", "traceback", SyncError("sync: a (3,) is no parameter of the reference model")))
    assert not isinstance(found, ActorFailed)
    assert found.exit_code == 4


def test_the_failure_reaches_the_driver_whole() -> None:
    """It is raised on the learner's rank 0."""
    sent = pickle.loads(pickle.dumps(TransferFailed("sync: rollout-1 failed", ["rollout-1"])))
    assert (str(sent), sent.actors) == ("sync: rollout-1 failed", ("rollout-1",))


def test_a_copy_that_is_late_is_named_with_the_limit_of_this_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.weights.ray_control._wait_for_all", lambda answers: ([], answers))
    control = RayControl([Destination("rollout-1", None)], "shm", timeout_s=600)
    assert re.search(
        r"no answer from rollout-1 within sync\.timeout_s = 600 s; shm", str(control._late("connecting", ["x"], {"x": "rollout-1"}))
    )
    control.begin(7.5)
    assert control._ends - time.monotonic() < 7.5
    late = str(control._late("transfer 2 of the sync", ["x"], {"x": "rollout-1"}))
    assert "within 7.5 s, much longer than a sync usually takes; shm, transfer 2" in late
    control.begin()
    assert control._ends - time.monotonic() > 590

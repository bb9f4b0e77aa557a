"""One element of the weights changes on its way to an engine: nothing is sampled from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypref.errors import SyncError
from tests.chaos.light import PERTURBED
from tests.chaos.moments import Fault
from tests.chaos.runs import SLEEPING, LightRun

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("transfer", "sections", "faults"),
    [
        pytest.param(2, {}, [], id="after a sync"),
        pytest.param(2, SLEEPING, [], id="after a wake-up"),
        pytest.param(3, {}, [Fault("judge", 3, target="rollout-0", iteration=2)], id="after a restart"),
    ],
)
def test_no_token_is_sampled_from_wrong_weights(
    transfer: int, sections: dict[str, Any], faults: list[Fault], model: Path, tmp_path: Path
) -> None:
    run = LightRun(tmp_path, model, sections, environment={PERTURBED: str(transfer)})
    assert run.finish(faults) == SyncError.exit_code, run.log
    assert "1 of 1 tensors changed on their way to rollout-0; the first is table.weight" in run.log
    received = run.notes("received")
    assert len(received) == transfer
    assert len(run.notes("sampled")) == int(received[-1]) > 0
    assert run.left_behind() == []

"""What these tests share: a model directory, and the run that nothing happens to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.runs import LightRun
from tests.tiny_models import make_model


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture(scope="package")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> LightRun:
    run = LightRun(tmp_path_factory.mktemp("whole"), model)
    assert run.finish() == 0, run.log
    assert run.left_behind() == []
    assert all(noted["processes"] > 6 for noted in run.noted("listening")), "Ray's head, and four actors"
    assert {address for noted in run.noted("listening") for address in noted["addresses"]} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert set(run.times_sampled().values()) == set(run.times_judged().values()) == {1}
    return run

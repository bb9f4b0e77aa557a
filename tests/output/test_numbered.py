"""Names with numbers, at any count."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.numbered import by_number, iteration_name, number_in, step_in

NUMBERS = [0, 1, 9, 10, 9999, 10000, 10001, 99999, 100000, 1234567]


def test_the_order_is_that_of_the_numbers() -> None:
    paths = [Path("runs") / iteration_name(number) for number in NUMBERS]
    assert by_number(random.Random(0).sample(paths, len(paths))) == paths
    assert sorted(paths) != paths, "the order of the names is another one"


def test_steps_within_an_iteration_come_after_its_start_in_their_own_order() -> None:
    places = [(2, None), (2, 5), (2, 350), (2, 999999), (2, 1000000), (3, None), (3, 7)]
    paths = [Path("checkpoints") / iteration_name(number, step) for number, step in places]
    assert by_number(random.Random(0).sample(paths, len(paths))) == paths
    assert [(number_in(path.name), step_in(path.name)) for path in paths] == [(number, step or 0) for number, step in places]
    assert paths[2].name == "iteration_0002-step_000350"
    assert step_in("iteration_0002-oracle-0-00.parquet") == step_in("best-step_000003") == 0


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("iteration_0002", 2),
        ("iteration_10000-oracle-0-00.parquet", 10000),
        ("iteration_0003_against_base.jsonl", 3),
        ("iteration_", None),
        ("iteration_x", None),
        ("my_iteration_0002", None),
    ],
)
def test_the_number_in_a_name(name: str, number: int | None) -> None:
    assert number_in(name) == number


def test_the_newest_checkpoint_has_the_largest_number(tmp_path: Path) -> None:
    """With online runs of one step per iteration, iteration 10,000 is step 10,000. A copy that someone renamed is left alone."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    (tmp_path / "iteration_best").mkdir()
    (tmp_path / "iteration_best" / "state.json").touch()
    for iteration in (9998, 9999, 10000, 10001):
        checkpoints.begin(RunState(iteration, iteration, iteration))
        checkpoints.commit(RunState(iteration, iteration, iteration), evaluations=[])
        checkpoints.prune()
    assert [path.name for path in checkpoints.complete()] == ["iteration_10000", "iteration_10001"]
    assert checkpoints.read(checkpoints.complete()[-1])[0].iteration == 10001
    assert (tmp_path / "iteration_best").is_dir()

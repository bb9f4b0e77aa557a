"""How a rule is run: what it sees, what is checked, what drops its group."""

import asyncio
from collections.abc import Generator

import numpy as np
import pytest

from raypref.errors import ConfigError
from raypref.selection.base import Pairs, Picks, Selection, all_pairs, play, play_known, run_now
from raypref.types import PreferenceMatrix

TIES = PreferenceMatrix(np.full((3, 3), 0.5), "by hand")


class Scripted(Selection):
    """Asks for ``asks``, then picks ``picks``."""

    type: str = "scripted"
    asks: tuple[tuple[int, int], ...] = ((0, 1),)
    picks: tuple[tuple[int, ...], ...] = ((0, 1),)

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        yield list(self.asks)
        return list(self.picks)


def test_a_rule_gets_what_it_picks_from() -> None:
    seen: list[Pairs] = []

    async def answers(wanted: Pairs) -> PreferenceMatrix:
        await asyncio.sleep(0)
        seen.append(wanted)
        return TIES

    assert asyncio.run(play(Scripted(asks=((0, 2), (1, 2)), picks=((2, 0),)), 3, answers)) == [(2, 0)]
    assert seen == [[(0, 2), (1, 2)]]


def test_no_matrix_drops_the_group() -> None:
    async def refused(wanted: Pairs) -> None:
        return None

    assert run_now(play(Scripted(), 3, refused)) == []


def test_a_known_matrix_is_not_changed_by_the_rule() -> None:
    class Careless(Selection):
        def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
            matrix = yield all_pairs(size)
            matrix.values[:] = 0.0
            return [(1, 0)]

    assert play_known(Careless(), TIES) == [(1, 0)]
    assert (TIES.values == 0.5).all()


@pytest.mark.parametrize("pair", [(1, 0), (0, 0), (0, 3), (-1, 2)])
def test_a_comparison_that_does_not_exist_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"'scripted' asks for \(.*\) of 3 responses; pairs are \(i, j\) with i < j < 3"):
        play_known(Scripted(asks=(pair,)), TIES)


@pytest.mark.parametrize("pick", [(), (0, 0), (0, 3), (-1,)])
def test_a_pick_that_does_not_exist_is_refused(pick: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"'scripted' picked \(.*\) of 3 responses; pick different ones, from 0 to 2"):
        play_known(Scripted(picks=(pick,)), TIES)


def test_a_coroutine_that_waits_needs_an_event_loop() -> None:
    with pytest.raises(RuntimeError, match="waits for something"):
        run_now(asyncio.sleep(0))

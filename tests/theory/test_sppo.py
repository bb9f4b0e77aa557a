"""SPPO against Theorem 3.1 and Appendix B, by the library's loss, selections and judging."""

from unittest import mock

import numpy as np
import pytest

from benchmarks.games.known import Game
from benchmarks.games.nash import is_unique
from benchmarks.games.policies import total_variation, uniform
from benchmarks.theory import sppo
from benchmarks.theory.games import CYCLIC
from raypref.losses.sppo import SPPO
from tests.theory.checks import all_hold, some_fail


def test_the_minimiser_is_the_exact_step() -> None:
    """(3.4) with b = (1/eta) log Z, P(y > pi_t) as an expectation over independent pairs or over a group that is pi_t: eq. (3.2)."""
    all_hold(sppo.minimisers())


def test_a_loss_with_another_baseline_is_found_out() -> None:
    with mock.patch.object(SPPO, "_baseline", return_value=0.5):
        assert some_fail(sppo.minimisers())


def test_the_average_policy_is_within_the_theorems_bound_at_every_horizon() -> None:
    claims = all_hold(sppo.average_policies())
    slopes = [claim.value for claim in claims if claim.bound is None]
    assert len(claims) == len(CYCLIC) * (len(sppo.HORIZONS) + 1)
    assert max(slopes) < -0.4, "the theorem says about -1/2"


@pytest.mark.parametrize("game", CYCLIC.values(), ids=CYCLIC)
def test_those_games_are_what_the_claim_asks_for(game: Game) -> None:
    """Nash policy unique and not uniform, so that the uniform start is not its own answer."""
    assert is_unique(game.preference, game.nash)
    assert total_variation(game.nash, uniform(game.size)) > 0.05
    assert np.ptp(game.preference @ uniform(game.size)) > 0.05


def test_the_estimated_log_partition_tends_to_its_two_limits() -> None:
    all_hold(sppo.partitions())

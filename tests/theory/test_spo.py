"""SPO against Theorems 1 to 4, by the library's loss under Bradley-Terry and Plackett-Luce."""

from unittest import mock

import pytest
from torch import Tensor

from benchmarks.theory import spo
from raypref.losses.base import LossBatch
from raypref.losses.spo import SPO
from tests.theory.checks import all_hold, some_fail


def test_minimisers_are_the_softened_rewards() -> None:
    all_hold(spo.minimisers())


def test_fixed_points_under_weights_that_depend_on_the_policy_are_the_same() -> None:
    all_hold(spo.fixed_points())


def test_gradient_descent_goes_there() -> None:
    all_hold(spo.descents())


def test_without_softness_the_mass_goes_to_the_best_arm() -> None:
    all_hold(spo.deterministic_limit())


def test_weights_that_are_not_symmetric_are_found_out() -> None:
    """mu pi(y_w), which is another for (y_w, y_l) than for (y_l, y_w)."""
    own = SPO._weights

    def lopsided(self: SPO, batch: LossBatch) -> Tensor:
        return own(self, batch) * batch.logps.detach().exp()

    with mock.patch.object(SPO, "_weights", lopsided):
        assert some_fail(spo.minimisers())


@pytest.mark.parametrize("form", ["pair", "best_of_n", "ranking"])
def test_a_gradient_through_the_weights_is_found_out(form: str) -> None:
    """Somewhere else, or nowhere at all."""

    def weights(self: SPO, batch: LossBatch) -> Tensor:
        masses = (self.gamma * batch.logps.logsumexp(dim=1, keepdim=True)).exp()
        return self._places(batch.mask) * 2.0 * (masses - batch.statistics["mass"]).sigmoid()

    with mock.patch.object(SPO, "_weights", weights):
        assert not _arrives(form)


def _arrives(form: str) -> bool:
    try:
        return spo.worst_distance(1.0, gamma=1.0, form=form) <= spo.TOLERANCE
    except ArithmeticError:
        return False

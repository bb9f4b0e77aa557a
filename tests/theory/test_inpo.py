"""INPO against Lemma 5, Proposition 6 and Theorems 3 and 4, by the library's loss on independent responses."""

from unittest import mock

from benchmarks.theory import inpo
from raypref.losses.inpo import INPO
from tests.theory.checks import all_hold, some_fail


def test_population_losses_differ_by_a_constant_and_the_minimiser_is_the_exact_step() -> None:
    """(8) against (7), and its minimiser against (5); over a tournament's pairs the minimiser is another."""
    all_hold(inpo.propositions())


def test_a_loss_with_its_two_references_exchanged_is_found_out() -> None:
    exchanged = property(lambda self: {"reference": 1.0 - self.pull, "previous": self.pull})
    with mock.patch.object(INPO, "weights", exchanged):
        assert some_fail(inpo.propositions())


def test_training_iteration_after_iteration_follows_the_exact_steps() -> None:
    all_hold(inpo.trained())


def test_the_last_policy_is_within_the_theorems_bound_at_every_step() -> None:
    slopes = [claim.value for claim in all_hold(inpo.last_iterates()) if claim.bound is None]
    assert max(slopes) < -1.0, "the theorem says at most -1"


def test_the_average_policy_is_within_the_theorems_bound_at_every_horizon() -> None:
    slopes = [claim.value for claim in all_hold(inpo.average_policies()) if claim.bound is None]
    assert max(slopes) < -0.5, "the theorem says at most -1/2"

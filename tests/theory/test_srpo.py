"""SRPO against Theorem 1 and section 5, by the library's losses."""

from collections.abc import Callable
from unittest import mock

import pytest
from torch import Tensor

from benchmarks.theory import srpo
from raypref.losses import srpo as module
from tests.theory.checks import all_hold, some_fail


def test_minimisers_are_the_closed_forms() -> None:
    all_hold(srpo.closed_forms())


@pytest.mark.parametrize(
    ("margin", "what"),
    [
        (lambda r: r[:, 4] - r[:, 0] - r[:, 3] + r[:, 1], "the log-ratios of pi the way round that (4) is printed"),
        (lambda r: r[:, 2] + r[:, 0] - r[:, 5] - r[:, 1], "the improver shown the other answer"),
    ],
)
def test_a_wrong_joint_loss_is_found_out(margin: Callable[[Tensor], Tensor], what: str) -> None:
    with mock.patch.object(module, "joint_margin", margin):
        assert some_fail(srpo.closed_forms()), what


def test_the_solution_does_not_depend_on_the_behaviour_policy_as_those_of_dpo_and_ipo_do() -> None:
    all_hold(srpo.robustness())


def test_figure_2() -> None:
    """On sampled pairs SRPO stays with y_2, DPO and IPO go over to y_0 when the pairs are skewed."""
    all_hold(srpo.figure_2_claims())

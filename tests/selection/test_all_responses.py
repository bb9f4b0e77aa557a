"""All responses of a group."""

import numpy as np
from hypothesis import given

from raypref.preferences import Matrix
from raypref.selection.all_responses import AllResponses
from tests.selection.test_best_worst import picks
from tests.test_preferences import ORDERED, matrices


@given(matrices())
def test_every_response_is_kept_in_its_order(values: Matrix) -> None:
    assert picks(AllResponses(), values) == [tuple(range(len(values)))]


def test_responses_with_an_open_comparison_are_left_out() -> None:
    values = np.full((4, 4), 0.5)
    values[0, 2] = values[2, 0] = np.nan
    assert picks(AllResponses(), values) == [(1, 3)]


def test_a_group_with_fewer_than_two_left_is_dropped() -> None:
    values = ORDERED.copy()
    values[0, 2] = values[2, 0] = np.nan
    assert picks(AllResponses(), values) == []

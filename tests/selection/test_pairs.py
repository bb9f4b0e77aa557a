"""All pairs and a random one: which comparisons are asked, and which response is chosen."""

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raypref.preferences import Matrix
from raypref.selection.all_pairs import AllPairs
from raypref.selection.base import all_pairs
from raypref.selection.best_worst import BestWorst
from raypref.selection.random_pair import RandomPair
from tests.selection.playing import beats, play
from tests.test_preferences import ORDERED, STONE_PAPER_SCISSORS, matrices


def test_every_pair_is_decided_by_its_own_comparison_in_cycles_too() -> None:
    """Stone, paper, scissors: 0 > 1, 1 > 2, 2 > 0."""
    assert play(AllPairs(), STONE_PAPER_SCISSORS)[0] == [(0, 1), (2, 0), (1, 2)]
    assert AllPairs().examples_at_most(5) == 10


def test_ties_are_dropped_or_go_to_the_first() -> None:
    picks, _, _ = play(AllPairs(), beats(3, (2, 0)))
    assert picks == [(2, 0)]
    assert play(AllPairs(ties="first"), beats(3, (2, 0)))[0] == [(0, 1), (2, 0), (1, 2)]


def test_a_pair_without_an_answer_is_left_out() -> None:
    values = ORDERED.copy()
    values[0, 1] = values[1, 0] = np.nan
    picks, _, _ = play(AllPairs(), values)
    assert picks == [(0, 2), (1, 2)]
    assert play(RandomPair(), np.array([[0.5, np.nan], [np.nan, 0.5]]))[0] == []


def test_a_drawn_response_is_chosen_with_its_probability() -> None:
    """P(0 > 1) = 0.8 over 2,000 prompts: 1,600 wins, standard deviation sqrt(2000 * 0.8 * 0.2) = 17.9; four of them are 72."""
    values = beats(2, (0, 1), chance=0.8)
    for rule in (AllPairs(chosen="drawn"), RandomPair(chosen="drawn")):
        wins = sum(play(rule.seeded(prompt), values)[0] == [(0, 1)] for prompt in range(2000))
        assert abs(wins - 1600) < 72


def test_certain_preferences_decide_the_draw() -> None:
    values = beats(2, (1, 0), chance=1.0)
    assert {tuple(play(RandomPair(chosen="drawn").seeded(k), values)[0]) for k in range(50)} == {((1, 0),)}


@given(matrices(), st.integers(0, 2**32 - 1))
def test_a_random_pair_asks_for_itself_alone(values: Matrix, seed: int) -> None:
    picks, asked, _ = play(RandomPair(ties="first").seeded(seed), values)
    assert len(asked) == 1
    (pick,) = picks
    assert tuple(sorted(pick)) == asked[0]
    assert values[pick] >= 0.5 - 1e-9


def test_the_pair_is_the_same_for_the_same_prompt_and_uniform_over_prompts() -> None:
    """3,000 prompts over the 6 pairs of 4: 500 each, standard deviation sqrt(3000 * 5 / 36) = 20.4; four of them are 82."""
    values = beats(4, *all_pairs(4))
    drawn = [play(RandomPair().seeded(prompt), values)[0][0] for prompt in range(3000)]
    assert drawn == [play(RandomPair().seeded(prompt), values)[0][0] for prompt in range(3000)]
    counts = {pair: drawn.count(pair) for pair in all_pairs(4)}
    assert all(abs(count - 500) < 82 for count in counts.values())


def test_the_config_s_seed_changes_the_draws_and_rules_that_do_not_draw_are_left_as_they_are() -> None:
    values = beats(4, *all_pairs(4))
    one, two = ([play(RandomPair(seed=seed).seeded(k), values)[0] for k in range(50)] for seed in (0, 1))
    assert one != two
    rule = BestWorst()
    assert rule.seeded(7) is rule


@given(matrices(), st.randoms())
def test_permuting_the_responses_permutes_the_pairs(values: Matrix, random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    found = {tuple(order[k] for k in pick) for pick in play(AllPairs(), values[np.ix_(order, order)])[0]}
    assert found == set(play(AllPairs(), values)[0])

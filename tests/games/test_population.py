"""All that may be drawn, with its probability, through the library's own judging."""

import numpy as np
import pytest

from benchmarks.games.known import bradley_terry, rock_paper_scissors
from benchmarks.games.policies import uniform
from benchmarks.games.population import Population, drawn, population, ranked, soft, whole_group
from raypref.losses.base import losses
from raypref.selection.base import selections

CIRCLE = rock_paper_scissors((1, 2, 3), edge=0.3).preference  # rock against paper 0.2, rock against scissors 0.7
SPPO = losses.build({"type": "sppo", "eta": 10.0, "against": "pair"})
DPO = losses.build({"type": "dpo"})
BOTH = selections.build({"type": "best_worst", "all_equal": "keep"})


def _weights(data: Population) -> dict[tuple[int, ...], float]:
    return {tuple(int(arm) for arm in arms): weight for arms, weight in zip(data.arms, data.weights, strict=True)}


def test_drawn_verdicts() -> None:
    """Behaviour (1/2, 1/2, 0): rock and paper meet with 2 * 1/4, paper wins 0.8 of it: 0.4, and 0.1; each against itself 1/4."""
    data = population(DPO, BOTH, np.array([0.5, 0.5, 0.0]), drawn(CIRCLE))
    assert _weights(data) == pytest.approx({(1, 0): 0.4, (0, 1): 0.1, (0, 0): 0.25, (1, 1): 0.25})
    assert data.targets.tolist() == [[1.0, 0.0]] * 4


def test_soft_verdicts_make_soft_targets() -> None:
    """Chosen first: paper over rock with eta (0.8 - 1/2) = 3 and -3, as often as the two meet."""
    data = population(SPPO, BOTH, np.array([0.5, 0.5, 0.0]), soft(CIRCLE))
    assert _weights(data) == pytest.approx({(1, 0): 0.5, (0, 0): 0.25, (1, 1): 0.25})
    np.testing.assert_allclose(data.targets[data.arms.tolist().index([1, 0])], [3.0, -3.0])


def test_groups_that_the_selection_drops_are_missing() -> None:
    """Without the ties of arms against themselves: only the half of the groups in which two different arms met."""
    data = population(DPO, selections.build({"type": "best_worst"}), np.array([0.5, 0.5, 0.0]), soft(CIRCLE))
    assert data.weights.sum() == pytest.approx(0.5)


def test_rankings() -> None:
    """Weights 1, 2, 3 of three different arms, which a group of three holds with 6/27: the best first with 1/6, 2/6, 3/6 of it."""
    rewards = np.log([1.0, 2.0, 3.0])
    spo, rule = losses.build({"type": "spo", "form": "ranking"}), selections.build({"type": "ranking"})
    data = population(spo, rule, uniform(3), ranked(rewards), responses=3)
    chances = _weights(data)
    assert sum(chances.values()) == pytest.approx(1.0)
    assert chances[2, 1, 0] == pytest.approx(6 / 27 / 3)
    assert chances[0, 1, 2] == pytest.approx(6 / 27 / 15)


def test_two_ranked_arms_are_a_drawn_pair() -> None:
    rewards = np.array([0.0, 1.0, -0.5])
    ranking = _weights(population(DPO, BOTH, uniform(3), ranked(rewards)))
    assert ranking == pytest.approx(_weights(population(DPO, BOTH, uniform(3), drawn(bradley_terry(list(rewards)).preference))))


def test_a_whole_group() -> None:
    """Rock twice and paper once: rock's win rate (0.5 + 0.5 + 0.2)/3 = 0.4, paper's (0.8 + 0.8 + 0.5)/3 = 0.7; eta = 10."""
    data = whole_group(losses.build({"type": "sppo", "eta": 10.0}), selections.build({"type": "all_responses"}), (0, 0, 1), CIRCLE)
    assert data.arms.tolist() == [[0, 0, 1]]
    np.testing.assert_allclose(data.targets, [[-1.0, -1.0, 2.0]])


def test_a_sample_is_a_sample() -> None:
    """10,000 of the pairs above: shares within five standard deviations, sqrt(p (1 - p) / 10,000); the same seed, the same sample."""
    data = population(DPO, BOTH, np.array([0.5, 0.5, 0.0]), drawn(CIRCLE))
    sample = data.sampled(10_000, seed=0)
    assert sample.weights.sum() == pytest.approx(1.0)
    for arms, share in _weights(sample).items():
        p = _weights(data)[arms]
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 10_000)
    assert np.array_equal(sample.weights, data.sampled(10_000, seed=0).weights)
    assert len(data.sampled(1, seed=0).weights) == 1


def test_no_example_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no example"):
        population(DPO, selections.build({"type": "best_worst"}), uniform(2), soft(np.full((2, 2), 0.5)))

"""The games and policies on which the claims are measured, and functions that the claims of several methods use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.games.known import Game, bradley_terry, random_cyclic, rock_paper_scissors
from benchmarks.games.policies import Policy, uniform
from raypref.losses.base import Loss, losses
from raypref.selection.base import Selection, selections

CYCLIC: dict[str, Game] = {
    "weighted-rock-paper-scissors": rock_paper_scissors((1.0, 2.0, 3.0)),
    "random-cyclic-5": random_cyclic(5, seed=0),
    "random-cyclic-9": random_cyclic(9, seed=1),
}
"""Games with a unique Nash policy, which gives weight to all arms and is not uniform."""

REWARDS = np.array([0.0, 0.5, -1.0, 1.2])
"""r of a Bradley-Terry or Plackett-Luce game of four arms, in nats; the last one is best."""

SMALL: dict[str, Game] = {
    "weighted-rock-paper-scissors": CYCLIC["weighted-rock-paper-scissors"],
    "random-cyclic-5": CYCLIC["random-cyclic-5"],
    "bradley-terry-4": bradley_terry(tuple(REWARDS)),
}


def interior_policies(size: int, count: int, seed: int = 100) -> list[Policy]:
    """Random policies that give every arm at least 1/(2n); none of them is the Nash policy of a game above."""
    random = np.random.default_rng(seed)
    return [(uniform(size) + random.dirichlet(np.ones(size))) / 2.0 for _ in range(count)]


def loss(name: str, **settings: Any) -> Loss:
    """A loss of the library, by its name in the config."""
    return losses.build({"type": name, **settings})


def selection(name: str, **settings: Any) -> Selection:
    """A selection rule of the library, by its name in the config."""
    return selections.build({"type": name, **settings})


def pair_of_two() -> Selection:
    """Both responses of a group of two as (chosen, rejected), equal ones in their order: the pairs of the papers' expectations."""
    return selection("best_worst", all_equal="keep")


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y over log x where y is above rounding errors; NaN with fewer than three such points."""
    points = np.log([(a, b) for a, b in zip(x, y, strict=True) if b > 1e-12])
    return float(np.polyfit(points[:, 0], points[:, 1], 1)[0]) if len(points) >= 3 else math.nan

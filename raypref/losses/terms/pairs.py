"""The base of the losses of pairs, the labels of a pair, and the two ways to fit a margin to them.

Shapes: B examples of a pair; K responses of a prompt. A label is (q, 1 - q), q = P(y_w > y_l): the probability that the chosen response
y_w is better than the rejected one y_l.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from raypref.errors import ConfigError
from raypref.losses.base import Loss
from raypref.preferences import Unanswered
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor


class PairLoss(Loss):
    """A loss of pairs (chosen, rejected), whose targets are the pair's label (q, 1 - q)."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    @property
    def soft_labels(self) -> bool:
        """Whether q is the oracle's P(y_w > y_l) instead of 1; override it if the settings decide."""
        return False

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q).

        Raises:
            Unanswered: the label is soft, and the comparison of the pair has no answer.
            ConfigError: the selection does not give pairs.
        """
        check_count(self, picked)
        return pair_label(matrix, picked, soft=self.soft_labels)


def check_count(loss: Loss, picked: tuple[int, ...]) -> None:
    """Check the number of responses of an example against ``Loss.responses``.

    Raises:
        ConfigError: the selection does not fit the loss.
    """
    fewest, most = loss.responses
    if fewest <= len(picked) and (most is None or len(picked) <= most):
        return
    wanted = "pairs" if (fewest, most) == (2, 2) else f"at least {fewest} responses" if most is None else f"{fewest} to {most} responses"
    advice = "best_worst" if most == 2 else "ranking"
    raise ConfigError(f"loss.type: {loss.type!r} needs {wanted}, the selection gave {len(picked)} responses; set selection.type={advice}")


def pair_label(matrix: PreferenceMatrix, picked: tuple[int, ...], *, soft: bool = False) -> NDArray[np.float64]:
    """(2,) the label (q, 1 - q): q = 1, or with ``soft`` the oracle's P(y_w > y_l).

    Raises:
        Unanswered: the label is soft, and the comparison of the pair has no answer.
    """
    chosen, rejected = picked
    label = answered(matrix, chosen, rejected) if soft else 1.0
    return np.array([label, 1.0 - label])


def answered(matrix: PreferenceMatrix, first: int, second: int) -> float:
    """P(y_first > y_second).

    Raises:
        Unanswered: the comparison has no answer.
    """
    chance = float(matrix.values[first, second])
    if np.isnan(chance):
        raise Unanswered(f"the comparison of responses {first} and {second} has no answer")
    return chance


def margin(values: Tensor) -> Tensor:
    """(B,) chosen minus rejected, from (B, S): the first sequence minus the second."""
    return values[:, 0] - values[:, 1]


def logistic(h: Tensor, labels: Tensor) -> Tensor:
    """(B,) -q log sigmoid(h) - (1 - q) log sigmoid(-h): cross-entropy between the label and sigmoid(h).

    Args:
        h: (B,) margin, in nats.
        labels: (B, S) whose first two columns are (q, 1 - q).
    """
    from torch.nn.functional import logsigmoid

    q = labels.to(h.dtype)
    return -q[:, 0] * logsigmoid(h) - q[:, 1] * logsigmoid(-h)


def regression(h: Tensor, target: float, labels: Tensor) -> Tensor:
    """(B,) q (h - c)^2 + (1 - q) (h + c)^2: the expectation of the squared error over the label.

    Args:
        h: (B,) margin, in nats.
        target: c, the margin that a pair with q = 1 should have.
        labels: (B, S) whose first two columns are (q, 1 - q).
    """
    q = labels.to(h.dtype)
    return q[:, 0] * (h - target).square() + q[:, 1] * (h + target).square()

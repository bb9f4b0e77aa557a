"""What the losses of pairs have in common: labels, and the two ways to fit a margin to them.

Shapes: B examples of a pair; K responses of a prompt. A label is (q, 1 - q), q = P(y_w > y_l): the chance that the pair is the right
way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from raypref.errors import ConfigError
from raypref.losses.base import Loss
from raypref.preferences import Unanswered
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor


def check_count(loss: Loss, picked: tuple[int, ...]) -> None:
    """Refuse an example of fewer or more responses than the loss declares (``Loss.responses``).

    Raises:
        ConfigError: the selection does not fit the loss.
    """
    fewest, most = loss.responses
    if fewest <= len(picked) and (most is None or len(picked) <= most):
        return
    wanted = "pairs" if (fewest, most) == (2, 2) else f"at least {fewest} responses" if most is None else f"{fewest} to {most} responses"
    advice = "best_worst" if most == 2 else "ranking"
    raise ConfigError(f"loss.type: {loss.type!r} needs {wanted}, the selection gave {len(picked)} responses; set selection.type={advice}")


def pair_labels(
    loss: Loss, matrix: PreferenceMatrix, picked: tuple[int, ...], labels: Literal["hard", "soft"] = "hard"
) -> NDArray[np.float64]:
    """(2,) the label (q, 1 - q): q = 1 (hard), or the oracle's P(y_w > y_l) (soft).

    Raises:
        Unanswered: the label is soft, and the pair's own comparison has no answer.
        ConfigError: the selection does not give pairs.
    """
    check_count(loss, picked)
    if labels == "hard":
        return np.array([1.0, 0.0])
    winner, loser = picked
    label = float(matrix.values[winner, loser])
    if np.isnan(label):
        raise Unanswered(f"the comparison of responses {winner} and {loser} has no answer")
    return np.array([label, 1.0 - label])


def gap(values: Tensor) -> Tensor:
    """(B,) the winner's minus the loser's, from (B, S): the first two sequences."""
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
    """(B,) q (h - c)^2 + (1 - q) (h + c)^2: the squared error's expectation over the label.

    Args:
        h: (B,) margin, in nats.
        target: c, the margin that a certain winner should have.
        labels: (B, S) whose first two columns are (q, 1 - q).
    """
    q = labels.to(h.dtype)
    return q[:, 0] * (h - target).square() + q[:, 1] * (h + target).square()

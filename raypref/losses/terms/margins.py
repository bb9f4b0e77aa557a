"""What the learner reports of every preference loss: how far apart it has moved the best and the worst response.

Shapes: B examples, S sequences of an example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


def margins(
    values: Tensor, targets: Tensor, mask: Tensor, of: Literal["log_ratio", "logp", "logp_mean"] = "log_ratio"
) -> dict[str, Tensor]:
    """A figure of the example's winner and of its loser, and whether they are in the right order.

    Args:
        values: (B, S) log pi_theta(y | x) minus the frozen policy's, or log pi_theta(y | x) itself, in nats.
        targets: (B, S); the winner is the sequence with the highest, the loser the one with the lowest.
        mask: (B, S) True where there is a sequence.
        of: what ``values`` are; the metrics are called after it.

    Returns:
        (B,) each, without a gradient: ``log_ratio_winner``, ``log_ratio_loser``, and ``accuracy``, which is 1 where the winner's is the
        higher one, 1/2 where both are equal, and 0 otherwise.
    """
    figures = values.detach()
    best = targets.masked_fill(~mask, -float("inf")).argmax(dim=1, keepdim=True)
    worst = targets.masked_fill(~mask, float("inf")).argmin(dim=1, keepdim=True)
    winner, loser = figures.gather(1, best).squeeze(1), figures.gather(1, worst).squeeze(1)
    return {f"{of}_winner": winner, f"{of}_loser": loser, "accuracy": ((winner - loser).sign() + 1.0) / 2.0}

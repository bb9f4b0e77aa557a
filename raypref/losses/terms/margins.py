"""The metrics of every preference loss: the rewards and log-probs of the chosen and the rejected response.

Shapes: B examples, S sequences of an example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raypref.losses.base import LossBatch

if TYPE_CHECKING:
    from torch import Tensor


def preference_metrics(rewards: Tensor, batch: LossBatch, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Rewards and log-probs of each example's chosen and rejected response (``docs/metrics.md`` defines the names).

    The chosen response is the one with the highest target, the rejected response the one with the lowest.

    Args:
        rewards: (B, S) the loss's measure of a response: beta times the log-ratio if it has a beta, else the log-ratio; without a frozen
            policy the log-prob in its place. In nats.
        batch: targets, log-probs and lengths.
        mask: (B, S) True at the sequences that count; default: ``batch.mask``.

    Returns:
        name -> (B,), without a gradient. ``rewards/accuracies`` is 1 where the chosen reward is higher, 1/2 where both are equal, else 0.
    """
    mask = batch.mask if mask is None else mask
    chosen = batch.targets.masked_fill(~mask, -float("inf")).argmax(dim=1, keepdim=True)
    rejected = batch.targets.masked_fill(~mask, float("inf")).argmin(dim=1, keepdim=True)
    logps = batch.logps.detach()
    lengths = batch.lengths.clamp(min=1).to(logps.dtype)

    def pick(values: Tensor, place: Tensor) -> Tensor:
        return values.gather(1, place).squeeze(1)

    chosen_rewards, rejected_rewards = pick(rewards.detach(), chosen), pick(rewards.detach(), rejected)
    margins = chosen_rewards - rejected_rewards
    return {
        "rewards/chosen": chosen_rewards,
        "rewards/rejected": rejected_rewards,
        "rewards/margins": margins,
        "rewards/accuracies": (margins.sign() + 1.0) / 2.0,
        "logps/chosen": pick(logps, chosen),
        "logps/rejected": pick(logps, rejected),
        "logps/chosen_per_token": pick(logps, chosen) / pick(lengths, chosen),
        "logps/rejected_per_token": pick(logps, rejected) / pick(lengths, rejected),
    }

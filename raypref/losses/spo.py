"""SPO, soft preference optimisation (papers: soft preference optimization, Sharifnassab et al.).

Shapes: B examples, S sequences of an example, best first (a pair: 2, a best-of-n set or a ranking: n); K responses of a prompt.

Unlike in DPO, the preference loss contains no reference policy: it fits the preferences that the policy implies to the expert's. A
separate regulariser keeps the policy near pi_ref (the config's ``regulariser`` section: on fresh samples; the setting ``regulariser``
here: on the data). If the expert is Bradley-Terry or Plackett-Luce with rewards r, the fixed point is softmax(r / alpha).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, model_validator

from raypref.errors import ConfigError
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.choices import choice_terms, log_mass, mean_choice_terms
from raypref.losses.terms.in_dataset import importance_kl, negative_log_prob, tokenwise_kl
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import check_count, logistic, margin, pair_label
from raypref.losses.terms.ratios import policy_logps
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor


@losses.register("spo")
class SPO(Loss):
    """sum_k -(mu_k d^k / alpha) log( pi(y_k)^alpha / sum_{j >= k} pi(y_j)^alpha ): ``ranking`` over all places k = 1 ... n-1;
    ``best_of_n`` and ``pair`` over the first alone, without d.

    Source: SPO (9) to (12) (pair), (16) (best of n), (17) with the d^k of Appendix D.2 (ranking), (13) (mu), Table 4 (``regulariser``).
    At alpha = 0 it is the limit of the gradient, mean_{j >= k} log pi(y_j) - log pi(y_k), which the paper gives for pairs only, (10).
    mu_k = 2 sigmoid( m_k - mean m ), m_k = (sum_{j >= k} pi(y_j))^gamma, without gradient. (13) is for pairs. The paper does not
    define mu for more responses; here the mean is taken over an example's places, then over the batch's examples. Soft labels (pairs)
    give the expectation of (11) over the oracle's answer.
    """

    type: str = "spo"
    form: Literal["pair", "best_of_n", "ranking"] = "pair"
    """What an example is: a pair, a set with its best response first, or a ranking from best to worst."""
    alpha: NonNegativeFloat = 0.001
    """Softness: the fixed point is softmax(r / alpha); 0 is the deterministic limit (the paper: 0.001 to 0.1)."""
    gamma: NonNegativeFloat = 0.01
    """Exponent of mu; 0 gives all examples the same weight (SPO-basic) and saves a pass over the batch (the paper: 0.01)."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """d, with ``form: ranking``: place k has weight d^k, k from 1; in (0, 1] (the paper: 1 or 0.5)."""
    labels: Literal["hard", "soft"] = "hard"
    """With ``form: pair``: the label q is 1, or the oracle's P(y_w > y_l)."""
    regulariser: Literal["none", "log_prob", "tokenwise", "importance"] = "none"
    """An in-dataset regulariser, the baselines of Table 4: -log pi(y_w | x); the token-wise KL(pi_theta || pi_ref) along the data's
    responses; or rho log rho with rho = pi_theta/pi_ref."""
    coefficient: NonNegativeFloat = 0.1
    """Weight of the in-dataset regulariser."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.form != "pair" and self.labels == "soft":
            raise ConfigError("loss.labels: 'soft' is for pairs; set loss.form=pair, or loss.labels=hard")
        if self.form != "ranking" and self.decay != 1.0:
            raise ConfigError("loss.decay: only a ranking has places to decay over; set loss.form=ranking, or loss.decay=1")
        return self

    @property
    def responses(self) -> tuple[int, int | None]:
        return (2, 2) if self.form == "pair" else (2, None)

    @property
    def needs(self) -> frozenset[Frozen]:
        return frozenset({"reference"} if self.regulariser == "importance" else ())

    @property
    def token_kl(self) -> bool:
        return self.regulariser == "tokenwise"

    @property
    def has_statistics(self) -> bool:
        return self.gamma > 0

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """A pair: the label (q, 1 - q); best of n: 1 for the first; a ranking: 0, -1, ..., 1 - n from best to worst.

        Raises:
            Unanswered: the label is soft, and the comparison of the pair has no answer.
            ConfigError: the selection does not give pairs, or gives single responses.
        """
        check_count(self, picked)
        if self.form == "pair":
            return pair_label(matrix, picked, soft=self.labels == "soft")
        places = np.arange(len(picked))
        return -places.astype(np.float64) if self.form == "ranking" else (places == 0).astype(np.float64)

    def statistics(self, batch: LossBatch) -> dict[str, Tensor]:
        """``mass``: the mean of m_k over the example's places."""
        places = self._places(batch.mask).to(batch.logps.dtype)
        return {"mass": (self._mass(batch) * places).sum(dim=1) / places.sum(dim=1).clamp(min=1)}

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch)
        weights = self._weights(batch)
        if self.form == "pair":
            loss = weights[:, 0] * pair_loss(margin(logps), batch.targets, self.alpha)
        else:
            loss = (weights * choice_losses(logps, batch.mask, self.alpha)).sum(dim=1)
        metrics = preference_metrics(logps, batch) | {"loss/weight": weights[:, 0]}
        if self.regulariser != "none":
            penalty = self._penalty(batch)
            loss = loss + self.coefficient * penalty
            metrics["loss/regulariser"] = penalty.detach()
        return LossValue(loss, metrics)

    def _places(self, mask: Tensor) -> Tensor:
        """(B, S) True at the places that the loss sums over; the last of a ranking is left out, since its term is always 0."""
        places = mask.roll(-1, dims=1)
        places[:, -1] = False
        if self.form != "ranking":
            places[:, 1:] = False
        return places

    def _mass(self, batch: LossBatch) -> Tensor:
        """(B, S) m_k, computed from log-probs because the probability of a whole response underflows."""
        return (self.gamma * log_mass(policy_logps(batch).detach(), batch.mask)).exp()

    def _weights(self, batch: LossBatch) -> Tensor:
        """(B, S) mu_k d^k, without gradient."""
        import torch

        places = self._places(batch.mask).to(batch.logps.dtype)
        if self.form == "ranking":
            places = places * self.decay ** torch.arange(1, places.shape[1] + 1, device=places.device, dtype=places.dtype)
        if self.gamma == 0:
            return places
        mean = batch.statistics["mass"].detach().to(places.dtype)
        return places * 2.0 * torch.sigmoid(self._mass(batch) - mean)

    def _penalty(self, batch: LossBatch) -> Tensor:
        if self.regulariser == "log_prob":
            return negative_log_prob(batch)
        return importance_kl(batch) if self.regulariser == "importance" else tokenwise_kl(batch)


def pair_loss(difference: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """(B,) -(1/alpha) [q log sigmoid(alpha (lp_w - lp_l)) + (1 - q) log sigmoid(alpha (lp_l - lp_w))].

    At alpha = 0 it is (1/2 - q) (lp_w - lp_l).

    Source: SPO (9) and (10), with q = 1.

    Args:
        difference: (B,) lp_w - lp_l, in nats.
        labels: (B, S) whose first two columns are (q, 1 - q).
        alpha: at least 0.
    """
    if alpha == 0:
        return (0.5 - labels[:, 0].to(difference.dtype)) * difference
    return logistic(alpha * difference, labels) / alpha


def choice_losses(logps: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """(B, S) -(1/alpha) log( pi(y_k)^alpha / sum_{j >= k} pi(y_j)^alpha ) for each place k; at alpha = 0, mean_{j >= k} lp_j - lp_k.

    Source: SPO (16) (k = 1), (17).

    Args:
        logps: (B, S) best first, in nats.
        mask: (B, S) True where there is a sequence.
        alpha: at least 0.
    """
    return mean_choice_terms(logps, mask) if alpha == 0 else choice_terms(alpha * logps, mask) / alpha

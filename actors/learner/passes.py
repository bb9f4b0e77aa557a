"""The passes of one optimiser step on one rank: the batch's statistics without gradient, then loss and regulariser with gradient.

The same passes without gradient measure the loss on held-out examples.

Shapes: B examples of the global batch, M of a micro-batch, N their sequences, R response positions.

Sums are taken over the rank's micro-batches, then over the ranks, and divided by counts of the whole batch. So the result does not
depend on how the batch is split over ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.learner.frozen import FrozenPolicy, evaluating
from actors.learner.results import MicroBatchResult, kl_examples, kl_sums
from raypref import types
from raypref.losses.base import Loss, LossValue
from raypref.training import collation, micro_batches
from raypref.training.logprobs import response_kl, response_logps
from raypref.training.packing import packing_of

if TYPE_CHECKING:
    import torch

REGULARISER = "regulariser/kl"
"""The metric of the regulariser: nats of KL per sample."""


@dataclass(slots=True)
class RankSums:
    """What one rank computed of a global batch."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """Metric -> () float64 sum over the rank's examples (``regulariser/kl``: over its samples)."""
    results: list[MicroBatchResult] = field(default_factory=list)
    """Log-probs and losses of its micro-batches."""

    def add(self, name: str, values: torch.Tensor, weight: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + weight * values.detach().double().sum()


@dataclass(frozen=True, slots=True)
class Samples:
    """Responses of a recent policy on which the regulariser is evaluated, and its coefficient."""

    sequences: tuple[types.TokenSequence, ...] = ()
    coefficient: float = 0.0


class Passes:
    """Forward and backward passes over the rank's share of a batch."""

    def __init__(
        self, engine: Any, loss: Loss, frozen: FrozenPolicy | None, *, rank: int, world_size: int, micro_batch_tokens: int
    ) -> None:
        """
        Args:
            engine: DeepSpeed's engine around the policy.
            loss: the loss of an example.
            frozen: pi_ref's distributions, where the loss or the regulariser reads them.
            micro_batch_tokens: tokens of one pass, padding included.
        """
        self._engine = engine
        self._loss = loss
        self._frozen = frozen
        self._rank = rank
        self._world_size = world_size
        self._micro_batch_tokens = micro_batch_tokens

    def accumulate(self, examples: Sequence[types.Example], samples: Samples, denominator: int) -> tuple[dict[str, float], RankSums]:
        """Gradient of mean loss + coefficient * mean KL; DeepSpeed averages over the ranks, hence the world size in the weights.

        Args:
            examples: (B,) the global batch.
            samples: without sequences there is no regulariser.
            denominator: what the sum of the losses is divided by.

        Returns:
            metric -> mean over the global batch, the same on every rank; and what this rank computed.
        """
        rank_sums = RankSums()
        plan = self._share([collation.sequences([example]) for example in examples])
        statistics = self._statistics(examples, plan)
        passes: list[Callable[[], torch.Tensor]] = [
            partial(self._loss_pass, examples, micro, statistics, denominator, rank_sums) for micro in plan
        ]
        if samples.sequences:
            alone = [[sequence] for sequence in samples.sequences]
            passes += [partial(self._regulariser_pass, samples, micro, rank_sums) for micro in self._share(alone)]
        for position, forward in enumerate(passes):
            self._engine.set_gradient_accumulation_boundary(position == len(passes) - 1)
            self._engine.backward(forward())
        kl = kl_sums(rank_sums.results, examples, token_kl=self._loss.token_kl)
        counts = {REGULARISER: len(samples.sequences)} | dict.fromkeys(kl, kl_examples(examples))
        totals = self._over_ranks(rank_sums.sums | kl)
        return {name: total / counts.get(name, denominator) for name, total in totals.items()}, rank_sums

    def evaluate(self, examples: Sequence[types.Example], denominator: int) -> dict[str, float]:
        """Metric -> mean over the examples under the current policy, the same on every rank. No gradient, no dropout, no random number.

        Args:
            examples: (B,) taken as one global batch, of which each rank computes its micro-batches.
            denominator: what the sums are divided by.
        """
        import torch

        rank_sums = RankSums()
        plan = self._share([collation.sequences([example]) for example in examples])
        statistics = self._statistics(examples, plan)
        with torch.no_grad(), evaluating(self._engine):
            for micro in plan:
                self._loss_pass(examples, micro, statistics, denominator, rank_sums)
        return {name: total / denominator for name, total in self._over_ranks(rank_sums.sums).items()}

    def likelihood(self, examples: Sequence[types.Example]) -> dict[str, float]:
        """``text_nll``: -log pi_theta per response token under the current policy, in nats, the same on every rank. As in ``evaluate``
        there is no gradient, no dropout, no random number; the loss plays no part.

        Args:
            examples: (B,) of which each rank computes its micro-batches.
        """
        import torch

        rank_sums = RankSums()
        with torch.no_grad(), evaluating(self._engine):
            for micro in self._share([collation.sequences([example]) for example in examples]):
                logps, _ = response_logps(self._engine, collation.sequences(examples[k] for k in micro.examples))
                rank_sums.add("text_nll", -logps, float(micro.counted))
        tokens = collation.response_tokens(examples)
        return {name: total / tokens for name, total in self._over_ranks(rank_sums.sums).items()}

    def _share(self, items: Sequence[Sequence[types.TokenSequence]]) -> tuple[micro_batches.MicroBatch, ...]:
        return micro_batches.plan_micro_batches(items, self._world_size, self._micro_batch_tokens, packing_of(self._engine))[self._rank]

    def _statistics(self, examples: Sequence[types.Example], plan: Sequence[micro_batches.MicroBatch]) -> dict[str, torch.Tensor]:
        """Name -> () mean over the B examples of ``Loss.statistics``; empty for a loss without statistics."""
        import torch

        if not self._loss.has_statistics:
            return {}
        rank_sums = RankSums()
        with torch.no_grad(), evaluating(self._engine):
            for micro in plan:
                chosen = [examples[k] for k in micro.examples]
                logps, _ = response_logps(self._engine, collation.sequences(chosen))
                for name, values in self._loss.statistics(collation.collate(chosen, logps, self._loss.needs)).items():
                    check_shape(f"statistic {name!r} of loss {self._loss.type!r}", values, len(chosen))
                    rank_sums.add(name, values, float(micro.counted))
        totals = self._over_ranks(rank_sums.sums)
        return {
            name: torch.tensor(total / len(examples), dtype=torch.float64, device=self._engine.device) for name, total in totals.items()
        }

    def _loss_pass(
        self,
        examples: Sequence[types.Example],
        micro: micro_batches.MicroBatch,
        statistics: Mapping[str, torch.Tensor],
        denominator: int,
        rank_sums: RankSums,
    ) -> torch.Tensor:
        """() this micro-batch's part of the mean loss."""
        chosen = [examples[k] for k in micro.examples]
        logps, token_kl, value = self._evaluate(chosen, statistics)
        check_shape(f"loss {self._loss.type!r}", value.loss, len(chosen))
        for name, values in {"loss": value.loss, **value.metrics}.items():
            rank_sums.add(name, values, float(micro.counted))
        if micro.counted:
            kl = None if token_kl is None else token_kl.detach().double().sum(-1)
            rank_sums.results.append(MicroBatchResult(micro.examples, logps.detach().double().sum(-1), value.loss.detach(), kl))
        return value.loss.sum() * (micro.counted * self._world_size / denominator)

    def _evaluate(
        self, chosen: Sequence[types.Example], statistics: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None, LossValue]:
        """(N, R) log-probs, (N, R) token-wise KL if the loss reads it, and the loss over them."""
        sequences = collation.sequences(chosen)
        if self._loss.token_kl:
            token_kl, logps = self._divergence(sequences)
            return logps, token_kl, self._loss(collation.collate(chosen, logps, self._loss.needs, statistics=statistics, token_kl=token_kl))
        logps, _ = response_logps(self._engine, sequences)
        return logps, None, self._loss(collation.collate(chosen, logps, self._loss.needs, statistics=statistics))

    def _regulariser_pass(self, samples: Samples, micro: micro_batches.MicroBatch, rank_sums: RankSums) -> torch.Tensor:
        """() this micro-batch's part of coefficient * mean over the samples of the token-wise KL.

        Source: SPO (15) and Algorithm 1.
        """
        divergence = self._divergence([samples.sequences[k] for k in micro.examples])[0].double().sum()
        rank_sums.add(REGULARISER, divergence, float(micro.counted))
        return divergence * (micro.counted * samples.coefficient * self._world_size / len(samples.sequences))

    def _divergence(self, sequences: Sequence[types.TokenSequence]) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, R) token-wise KL(pi_theta || pi_ref) and log-probs, both with their gradient, 0 where there is no token."""
        assert self._frozen is not None
        return response_kl(self._engine, self._frozen.predictions(sequences), sequences)

    def _over_ranks(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """The sums over all ranks. A collective: every rank gives the same names."""
        import torch

        names = sorted(sums)
        total = torch.stack([torch.as_tensor(sums[name], dtype=torch.float64, device=self._engine.device) for name in names])
        torch.distributed.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))


def check_shape(what: str, values: torch.Tensor, examples: int) -> None:
    """Check that a loss gives one value per example.

    Raises:
        ValueError: it gave another shape.
    """
    if values.shape != (examples,):
        raise ValueError(f"{what} has shape {tuple(values.shape)} for {examples} examples; give one value per example")

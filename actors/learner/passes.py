"""The passes of one optimiser step on one rank: the batch's statistics without gradient, then loss and regulariser with theirs.

Shapes: B examples of the global batch, M of a micro-batch, N their sequences, R response positions.

Sums are taken over the rank's micro-batches and then over the ranks, and divided by what the whole batch holds: so the split over ranks
and micro-batches never shows in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.learner.failures import Scored
from actors.learner.frozen import FrozenPolicy, evaluating
from raypref import types
from raypref.losses.base import Loss, LossValue
from raypref.training import collation, micro_batches
from raypref.training.logprobs import response_kl, response_logps
from raypref.training.packing import packing_of

if TYPE_CHECKING:
    import torch

_REGULARISER = "regulariser/kl"
"""Name of its sum among the loss' metrics: nats of KL over the samples."""


@dataclass(slots=True)
class Found:
    """What a rank found in its part of a global batch."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """Name -> () float64 sum over the rank's examples; ``loss``, ``regulariser/kl``, and the metrics of the loss."""
    scored: list[Scored] = field(default_factory=list)
    """What each micro-batch gave, still on the device; looked at when the step is refused."""

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
            engine: DeepSpeed's.
            loss: of an example.
            frozen: pi_ref's distributions, where the loss or the regulariser reads them.
            micro_batch_tokens: tokens of one pass, padding included.
        """
        self._engine = engine
        self._loss = loss
        self._frozen = frozen
        self._rank = rank
        self._world_size = world_size
        self._micro_batch_tokens = micro_batch_tokens

    def accumulate(self, examples: Sequence[types.Example], samples: Samples, denominator: int) -> tuple[dict[str, float], Found]:
        """Gradient of mean loss + coefficient * mean KL; DeepSpeed averages over the ranks, hence the world size in the weights.

        Args:
            examples: (B,) the global batch.
            samples: without sequences there is no regulariser.
            denominator: what the sum of the losses is divided by.

        Returns:
            name -> mean over the global batch (over the samples for ``regulariser/kl``), the same on every rank; and this rank's findings.
        """
        found = Found()
        own = self._share([collation.sequences([example]) for example in examples])
        statistics = self._statistics(examples, own)
        passes: list[Callable[[], torch.Tensor]] = [
            partial(self._loss_pass, examples, micro, statistics, denominator, found) for micro in own
        ]
        if samples.sequences:
            alone = [[sequence] for sequence in samples.sequences]
            passes += [partial(self._regulariser_pass, samples, micro, found) for micro in self._share(alone)]
        for position, forward in enumerate(passes):
            self._engine.set_gradient_accumulation_boundary(position == len(passes) - 1)
            self._engine.backward(forward())
        totals = self._over_ranks(found.sums)
        means = {name: total / (len(samples.sequences) if name == _REGULARISER else denominator) for name, total in totals.items()}
        return means, found

    def _share(self, items: Sequence[Sequence[types.TokenSequence]]) -> tuple[micro_batches.MicroBatch, ...]:
        return micro_batches.plan_micro_batches(items, self._world_size, self._micro_batch_tokens, packing_of(self._engine))[self._rank]

    def _statistics(self, examples: Sequence[types.Example], own: Sequence[micro_batches.MicroBatch]) -> dict[str, torch.Tensor]:
        """Name -> () mean over the B examples of what the loss wants to know of the batch; empty for a loss that wants nothing."""
        import torch

        if not self._loss.has_statistics:
            return {}
        found = Found()
        with torch.no_grad(), evaluating(self._engine):
            for micro in own:
                chosen = [examples[k] for k in micro.examples]
                logps, _ = response_logps(self._engine, collation.sequences(chosen))
                for name, values in self._loss.statistics(collation.collate(chosen, logps, self._loss.needs)).items():
                    check_shape(f"statistic {name!r} of loss {self._loss.type!r}", values, len(chosen))
                    found.add(name, values, float(micro.counted))
        totals = self._over_ranks(found.sums)
        return {
            name: torch.tensor(total / len(examples), dtype=torch.float64, device=self._engine.device) for name, total in totals.items()
        }

    def _loss_pass(
        self,
        examples: Sequence[types.Example],
        micro: micro_batches.MicroBatch,
        statistics: Mapping[str, torch.Tensor],
        denominator: int,
        found: Found,
    ) -> torch.Tensor:
        """() this micro-batch's part of the mean loss."""
        chosen = [examples[k] for k in micro.examples]
        logps, value = self._evaluate(chosen, statistics)
        check_shape(f"loss {self._loss.type!r}", value.loss, len(chosen))
        for name, values in {"loss": value.loss, **value.metrics}.items():
            found.add(name, values, float(micro.counted))
        if micro.counted:
            found.scored.append(Scored(micro.examples, logps.detach().double().sum(-1), value.loss.detach()))
        return value.loss.sum() * (micro.counted * self._world_size / denominator)

    def _evaluate(self, chosen: Sequence[types.Example], statistics: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, LossValue]:
        """(N, R) log-probs, and the loss over them."""
        sequences = collation.sequences(chosen)
        if not self._loss.token_kl:
            logps, _ = response_logps(self._engine, sequences)
            return logps, self._loss(collation.collate(chosen, logps, self._loss.needs, statistics=statistics))
        divergence, logps = self._divergence(sequences)
        return logps, self._loss(collation.collate(chosen, logps, self._loss.needs, statistics=statistics, token_kl=divergence))

    def _regulariser_pass(self, samples: Samples, micro: micro_batches.MicroBatch, found: Found) -> torch.Tensor:
        """() this micro-batch's part of coefficient * mean over the samples of the token-wise KL.

        Source: SPO (15) and Algorithm 1.
        """
        divergence = self._divergence([samples.sequences[k] for k in micro.examples])[0].double().sum()
        found.add(_REGULARISER, divergence, float(micro.counted))
        return divergence * (micro.counted * samples.coefficient * self._world_size / len(samples.sequences))

    def _divergence(self, sequences: Sequence[types.TokenSequence]) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, R) token-wise KL(pi_theta || pi_ref) and log-probs, both with their gradient, 0 where there is no token."""
        assert self._frozen is not None
        return response_kl(self._engine, self._frozen.predictions(sequences), sequences)

    def _over_ranks(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """The same sums over all ranks."""
        import torch

        names = sorted(sums)
        total = torch.stack([torch.as_tensor(sums[name], dtype=torch.float64, device=self._engine.device) for name in names])
        torch.distributed.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))


def check_shape(what: str, values: torch.Tensor, examples: int) -> None:
    """A loss gives one value an example.

    Raises:
        ValueError: it gave another shape.
    """
    if values.shape != (examples,):
        raise ValueError(f"{what} gave shape {tuple(values.shape)} for {examples} examples; one value each")

"""The optimiser steps of one rank: schedule, seeds, the passes over a batch, and the refusal of a batch whose loss is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from actors.learner.checkpoint import Progress
from actors.learner.failures import write_batch
from actors.learner.passes import REGULARISER, Passes, RankSums, Samples
from actors.learner.results import batch_arrays
from raypref import types
from raypref.config import RunConfig
from raypref.errors import LossNotFinite
from raypref.training import collation
from raypref.training.schedule import horizon_steps, learning_rate


class Training:
    """Takes steps, and knows where training stands."""

    def __init__(
        self, config: RunConfig, engine: Any, optimizer: Any, passes: Passes, rank: int, before_change: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            config: the run's; a refused batch is written below its ``output_dir``.
            engine: DeepSpeed's engine around the policy.
            optimizer: the torch optimiser inside it, whose learning rate is set here.
            passes: forward and backward passes over this rank's share of a batch.
            rank: of this process.
            before_change: called before the parameters or the optimiser's state change.
        """
        self._run = config
        self._config = config.learner
        self._engine = engine
        self._optimizer = optimizer
        self.passes = passes
        self._rank = rank
        self._before_change = before_change
        self.progress = Progress()
        self.samples = Samples()
        """Of the regulariser."""

    def begin_iteration(self, iteration: int, steps: int) -> None:
        """The current policy becomes pi_t. With ``schedule.span: iteration`` the optimiser and the schedule start anew.

        An iteration that a checkpoint was taken in continues as it was.

        Args:
            iteration: index of the iteration, from 0.
            steps: the most optimiser steps that the iteration can have.
        """
        if iteration == self.progress.iteration:
            return
        schedule = self._config.schedule
        if schedule.span == "iteration" or self.progress.iteration < 0:
            self.progress.schedule_step = 0
            self.progress.horizon_steps = horizon_steps(steps, self._run.iterations, schedule)
            self._before_change()
            for state in self._optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()  # in place: DeepSpeed keeps references to these tensors
        self.progress.iteration = iteration

    def step(self, examples: Sequence[types.Example]) -> dict[str, float]:
        """One optimiser step on the exact mean over the batch; its metrics. A collective of all ranks.

        Args:
            examples: the global batch, the same on every rank.

        Raises:
            LossNotFinite: on every rank, before the parameters are changed.
        """
        rate = self._prepare_step()
        tokens = collation.response_tokens(examples)
        means, rank_sums = self.passes.accumulate(examples, self.samples, self._denominator(examples))
        objective = means["loss"] + self.samples.coefficient * means.get(REGULARISER, 0.0)
        norm = self._gradient_norm_stage_0()
        if not np.isfinite([objective, norm]).all():
            self._refuse(examples, rank_sums, objective)
        self._before_change()
        self._engine.step()
        if not self._engine.was_step_applied():  # ZeRO stages 1 to 3 check the gradient norm themselves, on all ranks
            self._refuse(examples, rank_sums, objective)
        if self._config.zero_stage > 0:
            norm = float(self._engine.get_global_grad_norm())
        self.progress.steps += 1
        self.progress.schedule_step += 1
        processed = collation.sequence_tokens(examples)
        return means | {"grad_norm": norm, "learning_rate": rate, "tokens": float(tokens), "sequence_tokens": float(processed)}

    def evaluate(self, examples: Sequence[types.Example]) -> dict[str, float]:
        """The means over the examples of the loss and its metrics, as ``step`` would report them; nothing is changed. A collective.

        Args:
            examples: of any number, the same on every rank.
        """
        return self.passes.evaluate(examples, self._denominator(examples))

    def _denominator(self, examples: Sequence[types.Example]) -> int:
        """What the sum of the losses is divided by (``Loss.reduction``)."""
        return len(examples) if self._run.loss.reduction == "examples" else collation.response_tokens(examples)

    def _prepare_step(self) -> float:
        """Set this step's random seed and learning rate; the rate."""
        import torch

        rate = learning_rate(self.progress.schedule_step, self.progress.horizon_steps, self._config.optimizer.lr, self._config.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        entropy = np.random.SeedSequence([self._run.seed, self.progress.steps, self._rank])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        return rate

    def _gradient_norm_stage_0(self) -> float:
        """The gradient norm at ZeRO stage 0, where DeepSpeed neither checks nor reports it; 0 at other stages."""
        import torch

        if self._config.zero_stage > 0:
            return 0.0
        return float(torch.nn.utils.get_total_norm([p.grad for p in self._engine.parameters() if p.grad is not None]))

    def _refuse(self, examples: Sequence[types.Example], rank_sums: RankSums, objective: float) -> None:
        """Leave the parameters unchanged, write the batch to a file, and raise on all ranks."""
        import torch

        self._engine.optimizer.zero_grad()
        rank_logps, rank_losses = batch_arrays(rank_sums.results, examples)
        joined = torch.from_numpy(np.concatenate([rank_logps, rank_losses])).to(self._engine.device)
        torch.distributed.all_reduce(joined)
        logps, losses = np.split(joined.cpu().numpy(), [len(rank_logps)])
        name = f"iteration_{self.progress.iteration + 1:04d}_step_{self.progress.steps + 1:06d}.json"
        path = self._run.output_dir / "failures" / name
        if self._rank == 0:
            write_batch(path, examples, logps, losses)
        reason = "its gradient is not finite" if np.isfinite(objective) else f"it is {objective}"
        raise LossNotFinite(
            f"loss at step {self.progress.steps + 1} of the run: {reason}; the parameters are as before the step. "
            f"The batch of {len(examples)} examples is in {path}; try a lower learner.optimizer.lr, or look at its targets"
        )

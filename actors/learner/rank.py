"""One rank of the learner: DeepSpeed around the policy, and exact steps on global batches.

``LearnerRank`` is a plain class that knows no Ray; launch wraps it into an actor, and ``actors.learner.group`` drives the ranks. The
calling order, on every rank alike:

    address = rank_0.listen()
    rank.start(address)
    rank.connect(destinations, sync)                   # where weights are sent
    rank.begin_iteration(0, steps)
    rank.step(bounds, *groups) ... rank.sync(1)

Between calls the parameters of all ranks are the same. Random numbers (dropout) are seeded by step and rank, so that a checkpoint needs
none of their state to continue exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.learner import checkpoint as learner_checkpoint
from actors.learner import deepspeed_setup, offload, policy_export
from actors.learner.checkpoint import Layout, Progress
from actors.learner.failures import dump_batch, spread
from actors.learner.frozen import FrozenPolicy, evaluating
from actors.learner.passes import Found, Passes, Samples
from actors.policy_model import load_model
from raypref import types
from raypref.checks import check_learner
from raypref.errors import LossNotFinite
from raypref.losses.base import Loss
from raypref.roles import Audience
from raypref.sections import LearnerConfig, PolicyConfig, SyncConfig
from raypref.training import collation
from raypref.training.logprobs import per_token_logps
from raypref.training.schedule import horizon_steps, learning_rate

if TYPE_CHECKING:
    from actors.weights.sender import Destination


class LearnerRank:
    def __init__(
        self,
        *,
        policy: PolicyConfig,
        learner: LearnerConfig,
        loss: Loss,
        device: str,
        rank: int,
        world_size: int,
        seed: int,
        iterations: int,
        output_dir: Path,
        coefficient: float = 0.0,
    ) -> None:
        """
        Args:
            device: ``cpu``, or ``cuda`` with an index among the GPUs that the process sees.
            seed: of the run; the same on every rank.
            iterations: of the run, for a schedule that spans it.
            output_dir: of the run; a batch that fails is written below it.
            coefficient: of the regulariser on fresh samples; 0: there is none.

        Raises:
            ConfigError: the settings are known to train wrongly.
        """
        check_learner(policy, learner)
        self._policy = policy
        self._config = learner
        self._loss = loss
        self._device_name = device
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._iterations = iterations
        self._failures = Path(output_dir) / "failures"
        self._coefficient = coefficient
        self._samples = Samples()
        self._store: Any = None
        self._sender: Any = None
        self._layout = Layout(world_size, learner.zero_stage)
        self.progress = Progress()

    def listen(self) -> str:
        """Rank 0: open the store in which the ranks meet; its address."""
        self._store, address = deepspeed_setup.listen()
        return address

    def start(self, address: str | None) -> None:
        """Join the group, load the policy, build the engine.

        Args:
            address: what rank 0's ``listen`` returned; None where the process is in a group already.

        Raises:
            ConfigError: the policy cannot be loaded.
        """
        import torch

        device = torch.device(self._device_name)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if address is not None:
            deepspeed_setup.join_group(address, self._store, self._rank, self._world_size, device, self._config.timeout_s)
        torch.manual_seed(self._seed)  # an adapter starts alike on every rank
        model = load_model(self._policy, device, trainable=True)
        self._engine, self._optimizer = deepspeed_setup.build_engine(model, self._policy, self._config, self._world_size)
        self._device = device
        frozen = self._loss.token_kl or self._coefficient > 0
        self._frozen = FrozenPolicy(self._policy, self._engine, device) if frozen else None
        seat = {"rank": self._rank, "world_size": self._world_size, "micro_batch_tokens": self._config.micro_batch_tokens}
        self._passes = Passes(self._engine, self._loss, self._frozen, **seat)

    # --- training -------------------------------------------------------------------------------------------------------------------

    def begin_iteration(self, iteration: int, steps: int) -> None:
        """The current policy is pi_t now. With ``schedule.span: iteration`` the optimiser and the schedule start anew.

        An iteration that a checkpoint was taken in goes on as it was.

        Args:
            steps: optimiser steps of the iteration, at most.
        """
        if iteration == self.progress.iteration:
            return
        schedule = self._config.schedule
        if schedule.span == "iteration" or self.progress.iteration < 0:
            self.progress.schedule_step = 0
            self.progress.horizon_steps = horizon_steps(steps, self._iterations, schedule)
            for state in self._optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()  # in place: DeepSpeed holds on to these tensors
        self.progress.iteration = iteration

    def step(self, bounds: Sequence[tuple[int, int]], *groups: tuple[types.Example, ...]) -> dict[str, float]:
        """One optimiser step on the exact mean over the batch.

        Args:
            bounds: for each group, which of its examples are meant: (start, stop).
            groups: tuples of examples; the same on every rank.

        Returns:
            metrics of the step, the same on every rank.

        Raises:
            LossNotFinite: on every rank, before the parameters are touched.
        """
        import torch

        examples = [example for (start, stop), group in zip(bounds, groups, strict=True) for example in group[start:stop]]
        rate = learning_rate(self.progress.schedule_step, self.progress.horizon_steps, self._config.optimizer.lr, self._config.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(int(np.random.SeedSequence([self._seed, self.progress.steps, self._rank]).generate_state(1, np.uint64)[0]))
        tokens = collation.response_tokens(examples)
        denominator = len(examples) if self._loss.reduction == "examples" else tokens
        means, found = self._passes.accumulate(examples, self._samples, denominator)
        total = means["loss"] + self._samples.coefficient * means.get("regulariser/kl", 0.0)
        norm = self._gradient_norm_stage_0()
        if not np.isfinite([total, norm]).all():
            self._refuse(examples, found, total)
        self._engine.step()
        if not self._engine.was_step_applied():  # stages 1 to 3 look at the gradient's norm themselves, on all ranks, and stay
            self._refuse(examples, found, total)
        if self._config.zero_stage > 0:
            norm = float(self._engine.get_global_grad_norm())
        self.progress.steps += 1
        self.progress.schedule_step += 1
        return means | {"grad_norm": norm, "learning_rate": rate, "tokens": float(tokens)}

    def _gradient_norm_stage_0(self) -> float:
        """Stage 0 checks no gradient and reports no norm; the gradients of all ranks are in place there. 0 for other stages."""
        import torch

        if self._config.zero_stage > 0:
            return 0.0
        return float(torch.nn.utils.get_total_norm([p.grad for p in self._engine.parameters() if p.grad is not None]))

    def _refuse(self, examples: Sequence[types.Example], found: Found, value: float) -> None:
        """Leave the parameters alone, write the batch down, and stop on all ranks."""
        import torch

        self._engine.optimizer.zero_grad()
        own = spread(found.scored, examples)
        parts = torch.from_numpy(np.concatenate(own)).to(self._device)
        torch.distributed.all_reduce(parts)
        logps, losses = np.split(parts.cpu().numpy(), [len(own[0])])
        path = self._failures / f"iteration-{self.progress.iteration:04d}-step-{self.progress.steps:06d}.json"
        if self._rank == 0:
            dump_batch(path, examples, logps, losses)
        what = "its gradient is not finite" if np.isfinite(value) else f"it is {value}"
        raise LossNotFinite(
            f"loss at step {self.progress.steps} of the run: {what}; the parameters are as before the step. "
            f"The batch of {len(examples)} examples is in {path}; try a lower learner.optimizer.lr, or look at its targets"
        )

    # --- what it is regularised by ---------------------------------------------------------------------------------------------------

    def regularise(self, *rollouts: types.Rollout) -> None:
        """Evaluate the regulariser on these responses from now on.

        Args:
            rollouts: of the current policy, or of a recent one; the same on every rank.
        """
        pairs = [(rollout.prompt.token_ids, response.token_ids) for rollout in rollouts for response in rollout.responses]
        self._samples = Samples(tuple(types.TokenSequence(prompt, response) for prompt, response in pairs), self._coefficient)

    def refresh_reference(self, directory: Path) -> None:
        """The policy in ``directory`` is pi_ref now; nothing happens on a rank that holds no pi_ref."""
        if self._frozen is not None:
            self._frozen.refresh(directory)

    # --- log-probs and weights ------------------------------------------------------------------------------------------------------

    def probe(self, sequences: Sequence[types.TokenSequence]) -> list[np.ndarray]:
        """Per-token log-probs (T_s,) float64 of each sequence under the current policy. Every rank takes part, and has the answer."""
        with evaluating(self._engine):
            return per_token_logps(self._engine, sequences, self._config.micro_batch_tokens)

    def connect(self, destinations: Sequence[Destination], sync: SyncConfig) -> None:
        """Build the sending half of the weight transport.

        Args:
            destinations: who gets the weights at every ``sync``.
            sync: its ``transport`` (not ``auto``) and ``timeout_s``.
        """
        from actors.weights.sender import WeightSender
        from actors.weights.source import DeepSpeedSource

        source = DeepSpeedSource(self._engine.module)
        self._sender = WeightSender(sync, self._rank, self._world_size, source, list(destinations))

    def sync(self, version: int, audience: Audience = "all", complete: bool = False) -> dict[str, int]:
        """Copy the weights to every receiver, if there is any, under the name ``version``.

        Args:
            audience: which receivers keep them.
            complete: send every weight, not only what training changes: a receiver has lost its own.

        Returns:
            on the rank that sends, checksums of what the receivers hold now.
        """
        if self._sender is None:
            return {}
        if complete:
            self._sender.send_all()
        return self._sender.sync(version, audience)

    # --- memory ---------------------------------------------------------------------------------------------------------------------

    def offload(self) -> None:
        """The optimiser's state goes to host memory; no ``step`` and no ``load`` before ``reload``."""
        offload.offload(self._engine, self._optimizer)

    def reload(self) -> None:
        """The optimiser's state comes back."""
        offload.reload(self._engine, self._optimizer)

    # --- disk -----------------------------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write the whole training state."""
        self._engine.save_checkpoint(str(directory), tag=learner_checkpoint.TAG, save_latest=False)
        if self._rank == 0:
            learner_checkpoint.write(Path(directory), self.progress, self._layout, self._samples.sequences)

    def load(self, directory: Path) -> None:
        """Continue exactly from what ``save`` wrote.

        Raises:
            ConfigError: there is no complete checkpoint, or it is of another number of ranks or another ZeRO stage.
        """
        self.progress, sequences = learner_checkpoint.read(Path(directory), self._layout)
        self._samples = Samples(sequences, self._coefficient if sequences else 0.0)
        self._engine.load_checkpoint(str(directory), tag=learner_checkpoint.TAG)
        if self._sender is not None:
            self._sender.send_all()

    def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face model directory, the adapter merged, with tokenizer and generation config."""
        from actors.weights.source import DeepSpeedSource

        policy_export.export(DeepSpeedSource(self._engine.module), self._policy, Path(directory), write=self._rank == 0)

    def close(self) -> None:
        """Let go of the engine; the process may build another."""
        if self._sender is not None:
            self._sender.close()
        self._engine.destroy()
        del self._engine, self._optimizer, self._passes, self._frozen

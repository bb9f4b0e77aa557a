"""One rank of the learner: DeepSpeed around the policy, and exact optimiser steps on global batches.

``LearnerRank`` is a plain class that does not import Ray; ``actors.cluster`` runs it as an actor, and ``actors.learner.group`` calls the
ranks. The order of calls, the same on every rank:

    address = rank_0.listen()
    rank.start(address)
    rank.connect(destinations, sync)                   # where weights are sent
    rank.begin_iteration(0, steps)
    rank.step(bounds, *groups) ... rank.sync(1)

Between calls all ranks have the same parameters. Random numbers (dropout) are seeded by step and rank, so a checkpoint does not have to
store their state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.learner import checkpoint as learner_checkpoint
from actors.learner import deepspeed_setup, policy_export, universal
from actors.learner.adapter_export import Adapter
from actors.learner.background import CheckpointWriter
from actors.learner.checkpoint import Layout
from actors.learner.frozen import FrozenPolicy, evaluating
from actors.learner.offload import Offload
from actors.learner.partitioned import load_partitioned
from actors.learner.passes import Passes, Samples
from actors.learner.training import Training
from actors.policy_model import load_model
from raypref import types
from raypref.checks import check_learner
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.roles import Audience
from raypref.sections import SyncConfig
from raypref.training.logprobs import per_token_logps

if TYPE_CHECKING:
    from actors.weights.destination import Destination
    from actors.weights.source import DeepSpeedSource


class LearnerRank:
    """One rank: the policy, its optimiser, and where training stands."""

    def __init__(self, config: RunConfig, *, device: str, rank: int, world_size: int) -> None:
        """
        Args:
            config: the run's, the same on every rank. A batch whose loss is not finite is written below ``output_dir``.
            device: ``cpu``, or ``cuda`` with an index among the GPUs that the process sees.
            rank: from 0.
            world_size: number of ranks.

        Raises:
            ConfigError: the settings are known to train wrongly.
        """
        check_learner(config.policy, config.learner)
        self._run = config
        self._policy = config.policy
        self._config = config.learner
        self._loss = config.loss
        self._coefficient = config.regulariser.coefficient if config.regulariser.on else 0.0
        self._device_name = device
        self._rank = rank
        self._world_size = world_size
        self._store: Any = None
        self._sender: Any = None
        self._layout = Layout(world_size, config.learner.zero_stage)

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
        torch.manual_seed(self._run.seed)  # an adapter starts with the same weights on every rank
        load = load_partitioned if self._config.zero_stage == 3 else load_model
        model = load(self._policy, device, trainable=True)
        deepspeed_setup.wait_for_all(self._world_size)
        self._engine, self._optimizer = deepspeed_setup.build_engine(model, self._policy, self._config, self._world_size)
        self._offload = Offload(self._engine, self._optimizer)
        self._writer = CheckpointWriter(background=self._run.checkpoint.background)
        frozen = self._loss.token_kl or self._coefficient > 0
        self._frozen = FrozenPolicy(self._policy, self._engine, device) if frozen else None
        passes = Passes(
            self._engine,
            self._loss,
            self._frozen,
            rank=self._rank,
            world_size=self._world_size,
            micro_batch_tokens=self._config.micro_batch_tokens,
        )
        self._training = Training(self._run, self._engine, self._optimizer, passes, self._rank, self._writer.copied)

    # --- training -------------------------------------------------------------------------------------------------------------------

    def begin_iteration(self, iteration: int, steps: int) -> None:
        """Tell the rank that its current policy is pi_t; see ``Training.begin_iteration``."""
        self._training.begin_iteration(iteration, steps)

    def step(self, bounds: Sequence[tuple[int, int]], *groups: tuple[types.Example, ...]) -> dict[str, float]:
        """One optimiser step on the exact mean over the batch.

        Args:
            bounds: for each group, the range of its examples that belong to the batch: (start, stop).
            groups: tuples of examples; the same on every rank.

        Returns:
            metrics of the step, the same on every rank.

        Raises:
            LossNotFinite: on every rank, before the parameters are changed.
        """
        return self._training.step(_cut(bounds, groups))

    def evaluate(self, bounds: Sequence[tuple[int, int]], *groups: tuple[types.Example, ...]) -> dict[str, float]:
        """The loss and its metrics without a step, for what ``step`` takes; see ``Training.evaluate``. A collective."""
        return self._training.evaluate(_cut(bounds, groups))

    def likelihood(self, bounds: Sequence[tuple[int, int]], *groups: tuple[types.Example, ...]) -> dict[str, float]:
        """Of the responses of what ``step`` takes; see ``Passes.likelihood``. A collective."""
        return self._training.passes.likelihood(_cut(bounds, groups))

    # --- the regulariser and pi_ref ---------------------------------------------------------------------------------------------------

    def regularise(self, *rollouts: types.Rollout) -> None:
        """Evaluate the regulariser on these responses from the next step on.

        Args:
            rollouts: sampled from the current policy; the same on every rank.
        """
        pairs = [(rollout.prompt.token_ids, response.token_ids) for rollout in rollouts for response in rollout.responses]
        self._training.samples = Samples(tuple(types.TokenSequence(prompt, response) for prompt, response in pairs), self._coefficient)

    def refresh_reference(self, directory: Path) -> None:
        """Make the policy in ``directory`` pi_ref; does nothing on a rank that holds no pi_ref."""
        if self._frozen is not None:
            self._frozen.refresh(directory)

    # --- log-probs and weights ------------------------------------------------------------------------------------------------------

    def probe(self, sequences: Sequence[types.TokenSequence]) -> list[np.ndarray]:
        """Per-token log-probs (T_s,) float64 of each sequence under the current policy, the same on every rank. A collective."""
        with evaluating(self._engine):
            return per_token_logps(self._engine, sequences, self._config.micro_batch_tokens)

    def connect(self, destinations: Sequence[Destination], sync: SyncConfig, stored: str | None = None) -> None:
        """Build the sending half of the weight transport, in place of an earlier one.

        Args:
            destinations: who gets the weights at every ``sync``.
            sync: its ``transport`` (not ``auto``) and ``timeout_s``.
            stored: a policy on disk, as ``policy.path`` names one, that is sent in place of the one in training.
        """
        from actors.weights.sender import WeightSender
        from actors.weights.stored_source import StoredSource

        if self._sender is not None:
            self._sender.close()
        source = self._weights() if stored is None else StoredSource(self._weights(), self._policy, stored, read=self._rank == 0)
        self._sender = WeightSender(sync, self._rank, self._world_size, source, list(destinations))

    def sync(self, version: int, audience: Audience = "all", complete: bool = False, limit_s: float | None = None) -> dict[str, int]:
        """Copy the weights to every receiver, if there is any, under the name ``version``.

        Args:
            audience: which receivers keep them.
            complete: send every weight, not only what training changes: a receiver has lost its own.
            limit_s: longest wait for the receivers; default: ``timeout_s`` of the transport.

        Returns:
            on the rank that sends, checksums of what the receivers hold now.
        """
        if self._sender is None:
            return {}
        if complete:
            self._sender.send_all()
        return self._sender.sync(version, audience, limit_s)

    # --- memory ---------------------------------------------------------------------------------------------------------------------

    def offload(self) -> None:
        """Move the optimiser's state to host memory. Call ``reload`` before the next ``step`` or ``load``."""
        self._writer.copied()
        self._offload.offload()

    def reload(self) -> None:
        """Move the optimiser's state back to the device."""
        self._offload.reload()

    # --- disk -----------------------------------------------------------------------------------------------------------------------

    def save(self, directory: Path, policy: Path | None = None) -> None:
        """Save the whole training state as it is now. All is written when ``saved`` says so; training may go on meanwhile.

        Args:
            policy: a directory for the policy, too, as ``export`` writes it.
        """
        directory, first = Path(directory), self._rank == 0
        with self._writer.checkpoint() as files:
            with self._writer.collecting(self._engine):
                self._engine.save_checkpoint(str(directory), tag=learner_checkpoint.TAG, save_latest=False)
            if policy is not None:
                self._export_later(Path(policy), files)
            if first:
                state = replace(self._training.progress), self._layout, self._training.samples.sequences
                files.append(partial(learner_checkpoint.write, directory, *state))

    def saved(self) -> bool:
        """Whether this rank has written all that it saved.

        Raises:
            OSError: the disk did not take it.
        """
        return self._writer.written()

    def load(self, directory: Path) -> None:
        """Continue from what ``save`` wrote: exactly, or with other ranks or another ZeRO stage up to the order in which numbers are added
        (dropout is another one with other ranks).

        Raises:
            ConfigError: there is no complete checkpoint, or it cannot be loaded with this number of ranks and this ZeRO stage.
        """
        directory = Path(directory)
        self._writer.wait()
        deepspeed_setup.wait_for_all(self._world_size)
        saved = learner_checkpoint.read(directory, self._layout, self._config.optimizer.type)
        self._training.progress = saved.progress
        self._training.samples = Samples(saved.samples, self._coefficient if saved.samples else 0.0)
        with learner_checkpoint.deepspeed_classes():
            if self._layout.loads(saved.layout):
                loaded, _ = self._engine.load_checkpoint(str(directory), tag=learner_checkpoint.TAG)
            else:
                loaded = universal.load(self._engine, directory, self._rank, self._world_size)
        if loaded is None:
            raise ConfigError(f"--resume: {directory} holds nothing that DeepSpeed can load; choose another checkpoint")
        if self._sender is not None:
            self._sender.send_all()

    def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face model directory, the adapter merged and apart, with tokenizer and generation config."""
        policy_export.export(self._weights(), self._policy, Path(directory), write=self._rank == 0)
        adapter = Adapter.of(self._engine.module)
        if adapter is not None and self._rank == 0:
            adapter.write(self._policy, Path(directory))

    def _export_later(self, directory: Path, files: list[Callable[[], None]]) -> None:
        """Add the export to the files of a checkpoint. A collective."""
        first = self._rank == 0
        if not self._writer.background:
            files.append(partial(self.export, directory))
            return
        copied = policy_export.CopiedWeights.of(self._weights(), self._writer.copies, keep=first)
        adapter = Adapter.of(self._engine.module)
        if first:
            policy_export.describe(self._policy, directory)
            files.append(partial(policy_export.write_weights, copied, directory))
            if adapter is not None:
                files.append(partial(adapter.write, self._policy, directory))

    def _weights(self) -> DeepSpeedSource:
        """The policy's weights as its directory stores them, the adapter merged."""
        from actors.weights.source import DeepSpeedSource

        return DeepSpeedSource(self._engine.module)

    def close(self) -> None:
        """Release the engine; the process may build another one."""
        if self._sender is not None:
            self._sender.close()
        self._writer.wait()
        self._engine.destroy()
        del self._engine, self._optimizer, self._training, self._frozen, self._offload, self._writer


def _cut(bounds: Sequence[tuple[int, int]], groups: Sequence[tuple[types.Example, ...]]) -> list[types.Example]:
    """The examples of a batch: of each group those from ``start`` up to, not including, ``stop``."""
    return [example for (start, stop), group in zip(bounds, groups, strict=True) for example in group[start:stop]]

"""The ``checkpoint`` section: when a run is saved, and how it goes on after a failure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from raypref.registry import Section

_LONGEST_WAIT_S = 300.0


class CheckpointConfig(Section):
    """A checkpoint is saved after every iteration; with ``every_steps`` also within long ones, and not after every short one. The last
    policy is saved in any case."""

    every_steps: PositiveInt | None = None
    """Optimiser steps between two checkpoints; None: one after every iteration. An iteration of more steps is saved at each multiple within
    it and at its end, so that at most so many steps are repeated after an interruption, and those that were taken while a checkpoint was
    being written; no group is sampled again. Shorter iterations (``loop.sync_interval``) are saved at the first sync at or after each
    multiple. Default: 100 with ``loop.sync_interval``."""
    background: bool = True
    """Whether checkpoints are written while training goes on. Each learner rank then holds a copy of its part of the state in host memory:
    with AdamW 12 bytes for each parameter that it keeps the optimiser's state of, and rank 0 the policy's weights, too, below ZeRO
    stage 3. False: training waits until they are written, and no copy is made."""
    keep: PositiveInt = 2
    """How many checkpoints stay on disk, the newest ones; one more where a checkpoint within an iteration needs that of its start."""
    policies: Annotated[int, Field(ge=0)] = 3
    """How many policies of finished iterations stay on disk as Hugging Face model directories, ``policies/iteration_0002``, the newest
    ones; each is written with its checkpoint. A checkpoint within an iteration has one if it is the best so far. 0: the last policy alone,
    as ``policy/``."""
    best: bool = True
    """Whether the best checkpoint and its policy stay on disk beside these: the one with the highest win rate against the base policy, or
    without an oracle the one with the lowest loss on held-out examples; ``best`` in summary.json names it."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """How often a run goes on by itself after an actor died or hung: all actors are started anew, the newest checkpoint is loaded, and the
    groups of the open iteration are read back. Counted from the last finished iteration; 0: the run ends, and ``--resume`` continues it."""
    restart_after_s: PositiveFloat = 5.0
    """Seconds before the first of these restarts; each further one waits twice as long, at most 5 minutes."""

    def wait_s(self, failures: int) -> float:
        """Seconds between the last of so many failures in a row and the restart."""
        return min(_LONGEST_WAIT_S, self.restart_after_s * 2 ** (failures - 1))

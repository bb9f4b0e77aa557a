"""The run's configuration: one section per concern, each field with its unit and range.

A YAML file holds the sections; dotted overrides (``loss.eta=500``) change single values; unknown keys are refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from raypref.data.config import DataConfig
from raypref.errors import ConfigError, reason_of
from raypref.evaluation.config import EvaluationConfig
from raypref.judging.config import JudgingConfig
from raypref.losses.base import Frozen, Loss, losses
from raypref.metrics.config import MetricsConfig
from raypref.oracles.base import Oracle, oracles
from raypref.output.config import CheckpointConfig
from raypref.output.run_reference import policy_path
from raypref.registry import Section, UserDirectory, nested
from raypref.sections import (
    LearnerConfig,
    LoopConfig,
    PlacementConfig,
    PolicyConfig,
    ReferenceConfig,
    RegulariserConfig,
    RolloutConfig,
    SyncConfig,
)
from raypref.selection.base import Selection, selections
from raypref.settings.overrides import apply, in_full
from raypref.settings.supervision import SupervisionConfig

_LEAST_GROUPS_IN_FLIGHT = 256
"""Unless ``loop.window_groups`` asks for less: oracles and references work in batches across groups."""


EVERY_STEPS = 100
"""Optimiser steps between two evaluations, and between two checkpoints, with ``loop.sync_interval``."""


class RunConfig(Section):
    """Everything about one run."""

    name: str = "raypref"
    """Of the run, in its summary."""
    output_dir: UserDirectory = Path("runs/raypref")
    """A path that every node shares."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """What numpy, torch and vLLM all take as a seed; 0 or more."""
    policy: PolicyConfig
    data: DataConfig = DataConfig()
    loop: LoopConfig = LoopConfig()
    rollout: RolloutConfig = RolloutConfig()
    oracle: Annotated[SerializeAsAny[Oracle] | None, BeforeValidator(lambda v: None if v is None else oracles.build(v))] = None
    judging: JudgingConfig = JudgingConfig()
    selection: Annotated[SerializeAsAny[Selection] | None, BeforeValidator(lambda v: None if v is None else selections.build(v))] = None
    loss: Annotated[SerializeAsAny[Loss], BeforeValidator(losses.build)]
    reference: ReferenceConfig = ReferenceConfig()
    regulariser: RegulariserConfig = RegulariserConfig()
    learner: LearnerConfig = LearnerConfig()
    sync: SyncConfig = SyncConfig()
    placement: PlacementConfig = PlacementConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _defaults_of_the_mode(self) -> Self:
        """With ``loop.sync_interval`` iterations are short, and with ``data.passes`` they are parts of one training: the schedule spans the
        run. With the first, what is left open is counted in steps."""
        learner, evaluation, checkpoint = self.learner, self.evaluation, self.checkpoint
        if "span" not in learner.schedule.model_fields_set and (self.loop.sync_interval is not None or self.data.passes > 1):
            schedule = learner.schedule.model_copy(update={"span": "run"})
            self.__dict__["learner"] = learner.model_copy(update={"schedule": schedule})
        if self.loop.sync_interval is None:
            return self
        if not evaluation.model_fields_set & {"every", "every_steps"}:
            self.__dict__["evaluation"] = evaluation.model_copy(update={"every": None, "every_steps": EVERY_STEPS})
        if "every_steps" not in checkpoint.model_fields_set:
            self.__dict__["checkpoint"] = checkpoint.model_copy(update={"every_steps": EVERY_STEPS})
        return self

    @model_validator(mode="after")
    def _policy_of_a_run(self) -> Self:
        """``policy.path: runs/x@2`` is the model directory of that run's policy after two iterations."""
        try:
            path = policy_path(self.policy.path)
        except ConfigError as error:
            raise ConfigError(f"policy.path: {error}") from error
        if path != self.policy.path:
            self.__dict__["policy"] = self.policy.model_copy(update={"path": path})
        return self

    @property
    def steps_per_iteration(self) -> int | None:
        """Optimiser steps of an iteration, all epochs; None without ``loop.sync_interval``, where they follow from the prompts."""
        return None if self.loop.sync_interval is None else self.loop.sync_interval * self.learner.epochs

    @property
    def saves_within_iterations(self) -> bool:
        """Whether iterations can have more steps than ``checkpoint.every_steps``. The end of every iteration is saved, too, then."""
        every, steps = self.checkpoint.every_steps, self.steps_per_iteration
        return every is not None and (steps is None or steps > every)

    @property
    def iterations(self) -> int:
        """Number of iterations: as given, or as many as ``loop.steps`` are."""
        if self.loop.steps is not None and self.steps_per_iteration is not None:
            return -(-self.loop.steps // self.steps_per_iteration)
        assert self.loop.iterations is not None
        return self.loop.iterations

    @property
    def evaluation_sampling(self) -> RolloutConfig:
        """``rollout`` as the policy answers held-out prompts: with what ``evaluation`` says of the sampling."""
        evaluation = self.evaluation
        own = {"temperature": evaluation.temperature, "top_p": evaluation.top_p, "max_tokens": evaluation.max_tokens}
        return self.rollout.model_copy(update={key: value for key, value in own.items() if value is not None})

    def located(self) -> Self:
        """The config with its local paths absolute: an actor works in another directory than the driver."""
        policy = {"path": _absolute(self.policy.path), "tokenizer": _absolute(self.policy.tokenizer)}
        cache = self.judging.cache
        sections = {
            "output_dir": self.output_dir.absolute(),
            "policy": self.policy.model_copy(update=policy),
            "judging": self.judging.model_copy(update={"cache": None if cache is None else cache.absolute()}),
            "oracle": None if self.oracle is None else self.oracle.located(),
        }
        return self.model_copy(update=sections)

    @property
    def frozen_logps(self) -> frozenset[Frozen]:
        """The frozen policies that the reference actors hold: those that the loss reads, and pi_ref for ``reference.measure_kl``."""
        measured: frozenset[Frozen] = frozenset({"reference"} if self.reference.measure_kl and self.data.type == "prompts" else ())
        return self.loss.needs | measured

    def groups_in_flight(self, responses: int | None = None) -> int:
        """``loop.window_groups``; by default twice as many as fill the engines: as many again are judged, or wait for earlier groups.

        Args:
            responses: per group; default: ``rollout.responses``.
        """
        if self.loop.window_groups is not None:
            return self.loop.window_groups
        filling = -(-self.rollout.max_num_seqs // (responses or self.rollout.responses))
        return max(_LEAST_GROUPS_IN_FLIGHT, 2 * filling * self.placement.rollout.engines)


def _absolute(path: str | None) -> str | None:
    """A directory's absolute path; a hub name, or None, as it is."""
    return str(Path(path).absolute()) if path is not None and Path(path).is_dir() else path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply dotted overrides.

    Args:
        path: the file.
        overrides: ``section.key=value``, values in YAML syntax.

    Raises:
        ConfigError: the file is missing or malformed; or, all of them listed: unknown keys, missing ones, values out of range.
    """
    return RunConfig.parse(read_values(path, overrides))


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What ``load_config`` reads, before it is validated.

    Raises:
        ConfigError: the file is missing or malformed, or an override is.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = Path(os.path.expanduser(path))
    try:
        tree = OmegaConf.load(path)
        values: Any = OmegaConf.to_container(tree)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except IsADirectoryError as error:
        hint = f"; of this run it is {path / 'config.yaml'}" if (path / "config.yaml").is_file() else ""
        raise ConfigError(f"{path}: a directory; give a run's YAML file{hint}") from error
    except (yaml.YAMLError, OSError, ValueError, OmegaConfBaseException) as error:  # ValueError: no UTF-8, or a number too long
        raise ConfigError(f"{path}: not a readable YAML file: {reason_of(error)}; correct it there") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(values).__name__}")
    return apply(in_full(nested(in_full(values), RunConfig.model_fields)), overrides)

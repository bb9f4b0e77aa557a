"""How long an iteration takes, stage by stage, from stated speeds; the stages have the names of the metrics ``time/<stage>_s``.

    overlap          sync + max(engines: evaluation, then sampling; the oracle and the references behind them;
                                the learner: from when pi_t is evaluated, and without checkpoint.background saved)
    one by one       sync + saving + evaluation + sampling, judging and scoring side by side + training

Stages that share GPUs (colocated) never run at full speed side by side: their times are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raypref.checks import evaluates
from raypref.config import RunConfig
from raypref.judging.trial import group_cost
from raypref.loop.iterations import due
from raypref.plan.setting import Setting
from raypref.plan.speeds import Speeds
from raypref.plan.stage_times import StageTimes
from raypref.plan.supply import Supply

STAGES = ("rollout", "judge", "reference", "train", "sync", "evaluate", "checkpoint")
ON_GPUS = ("rollout", "judge", "reference", "train")


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of one iteration with evaluation and checkpoint, where there are any."""

    stages: Mapping[str, float]
    """Stage -> seconds that it takes alone."""
    iteration_s: float
    run_s: float
    """Of all iterations; without the start of the actors, and without the last export."""
    bottleneck: str
    """The stage that the others wait for."""
    response_tokens: float
    """Mean length of a response that was assumed, or that the given data has."""
    sampled_tokens_per_s: float
    """Of one engine; 0 where nothing is sampled."""
    trained_tokens_per_s: float
    """Of one learner rank."""
    not_counted: tuple[str, ...] = ()
    """Stages whose time cannot be told, and why."""

    def waits(self) -> dict[str, float]:
        """Stage on GPUs -> share of the iteration in which it has nothing to do."""
        return {stage: max(0.0, 1 - self.stages[stage] / self.iteration_s) for stage in ON_GPUS if self.stages[stage] > 0}


def duration(setting: Setting, supply: Supply, speeds: Speeds, response_tokens: float | None = None) -> Duration | None:
    """Seconds of the first iteration that is evaluated; None where the kind of GPU is not known.

    Args:
        setting: config, model and cluster.
        supply: the data.
        speeds: what is assumed.
        response_tokens: mean length of a response; default: half of ``rollout.max_tokens``.
    """
    if setting.cluster.gpu is None:
        return None
    config, share = setting.config, supply.share
    model = StageTimes(setting, supply, speeds, response_tokens or config.rollout.max_tokens / 2)
    evaluated = evaluates(config, setting.task) and supply.held_out > 0
    groups = config.evaluation.responses
    rate = model.sampling_rate() if supply.sampled or evaluated else 0.0
    stages = dict.fromkeys(STAGES, 0.0)
    if supply.sampled:
        assert config.selection is not None
        stages["rollout"] = model.sample_s(share.items, config.rollout.responses, rate)
        stages["judge"] = model.judge_s(share.items * group_cost(config.selection, config.judging, config.rollout.responses).comparisons)
    if config.frozen_logps:
        stages["reference"] = model.reference_s(share.examples)
    stages["train"] = model.train_s(share.examples)
    stages["sync"] = model.sync_s() if supply.sampled or evaluated or "previous" in config.loss.needs else 0.0
    if evaluated:
        opponents = 2  # the base policy, and the one that was evaluated before
        stages["evaluate"] = model.sample_s(supply.held_out, groups, rate) + model.judge_s(supply.held_out * groups**2 * opponents)
    stages["checkpoint"] = model.checkpoint_s()
    total, bottleneck = _combined(config, stages, sampled=supply.sampled)
    run_s = total * config.iterations - _not_due(config, stages) * _outside(config, stages)
    return Duration(
        stages, total, run_s, bottleneck, model.response_tokens, rate, model.training_rate(), model.not_counted(supply.sampled or evaluated)
    )


def _not_due(config: RunConfig, stages: Mapping[str, float]) -> int:
    """Iterations behind which nothing is evaluated."""
    times = {"every": config.evaluation.every, "every_steps": config.evaluation.every_steps}
    return sum(not due(config, t, **times) for t in range(1, config.iterations + 1)) if stages["evaluate"] else 0


def _outside(config: RunConfig, stages: Mapping[str, float]) -> float:
    """By how much an iteration without evaluation is shorter."""
    return _combined(config, stages, sampled=True)[0] - _combined(config, {**stages, "evaluate": 0.0}, sampled=True)[0]


def _combined(config: RunConfig, stages: Mapping[str, float], *, sampled: bool) -> tuple[float, str]:
    """Seconds of the iteration, and the stage that it waits for."""
    colocated = config.placement.layout == "colocated"
    before = {stage: stages[stage] for stage in ("rollout", "judge", "reference")}
    ready = sum(before.values()) if colocated else max(before.values())
    train, evaluate = stages["train"], stages["evaluate"]
    save = 0.0 if config.checkpoint.background else stages["checkpoint"]  # in the background training waits for a copy alone
    longest = max((*before, "train"), key=lambda stage: stages[stage])
    sample_first = config.regulariser.on and sampled
    if not config.loop.overlap:
        total = save + evaluate + ready + train
    elif colocated or sample_first:
        total = max(save, evaluate) + ready + train
    else:
        first = train / config.learner.epochs
        total = max(evaluate + ready, max(evaluate, save) + first) + (train - first)
    iteration_s = max(stages["sync"] + total, stages["checkpoint"])  # the next checkpoint waits for the one before
    others = ("sync", "evaluate", "checkpoint")
    outside = max(others, key=lambda stage: stages[stage])
    return iteration_s, outside if stages[outside] > stages[longest] else longest

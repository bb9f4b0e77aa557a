"""How long an iteration takes, stage by stage, from stated speeds; the stages have the names of the metrics ``time/<stage>_s``.

    overlap          sync + max(engines: evaluation, then sampling; the oracle and the references behind them;
                                the learner: from when pi_t is saved and evaluated)
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
from raypref.plan.fit import Setting, processes
from raypref.plan.hardware import CPU, Speeds
from raypref.plan.memory import kv_bytes_per_token
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
    config, share = setting.config, supply.iterations[0]
    model = _Model(setting, supply, speeds, response_tokens or config.rollout.max_tokens / 2)
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
        opponents = min(2, share.iteration + 1)
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
    train, evaluate, save = (stages[stage] for stage in ("train", "evaluate", "checkpoint"))
    longest = max((*before, "train"), key=lambda stage: stages[stage])
    sample_first = config.regulariser.on and sampled
    if not config.loop.overlap:
        total = save + evaluate + ready + train
    elif colocated or sample_first:
        total = max(save, evaluate) + ready + train
    else:
        first = train / config.learner.epochs
        total = max(evaluate + ready, max(evaluate, save) + first) + (train - first)
    outside = max(("sync", "evaluate", "checkpoint"), key=lambda stage: stages[stage])
    return stages["sync"] + total, outside if stages[outside] > stages[longest] else longest


class _Model:
    """The seconds of each stage."""

    def __init__(self, setting: Setting, supply: Supply, speeds: Speeds, response_tokens: float) -> None:
        gpu = setting.cluster.gpu
        assert gpu is not None
        self._setting, self._config, self._supply, self._speeds = setting, setting.config, supply, speeds
        self._shape, self._job, self._gpu = setting.shape, setting.job, gpu
        self.response_tokens = response_tokens
        if not supply.sampled and supply.sequences:
            self.response_tokens = max(1.0, supply.examples.mean / supply.sequences - supply.prompts.mean)

    def _operations(self, cpus: float) -> float:
        """Per second of a GPU, or of the cores in its place."""
        return self._speeds.mfu * self._gpu.teraflops * 1e12 * (cpus if self._gpu is CPU else 1.0)

    @property
    def _example_tokens(self) -> float:
        if not self._supply.sampled:
            return self._supply.examples.mean
        return self._supply.sequences * (self._supply.prompts.mean + self.response_tokens)

    def sampling_rate(self) -> float:
        """Tokens per second of one engine: as many sequences as it may decode at once, its cache holds, or there are."""
        if self._speeds.sampled_tokens_per_s is not None:
            return self._speeds.sampled_tokens_per_s
        placement, rollout = self._config.placement.rollout, self._config.rollout
        held = self._supply.prompts.mean / rollout.responses + self.response_tokens / 2
        per_token = kv_bytes_per_token(self._job)
        of_role = processes(self._setting)
        cache = of_role["rollout", "rollout"].gpu.get("cache", 0)
        prompts = self._supply.iterations[0].items if self._supply.sampled else self._supply.held_out
        count = max(1.0, min(rollout.max_num_seqs, prompts * rollout.responses / max(1, placement.engines)))
        if cache:
            count = max(1.0, min(count, cache / (held * per_token)))
        read = self._job.dtype_bytes * self._shape.active / placement.tensor_parallel + count * held * per_token
        bandwidth = self._speeds.bandwidth_share * self._gpu.terabytes_per_s * 1e12
        computed = 2 * self._shape.active * count / (placement.tensor_parallel * self._operations(placement.cpus))
        host = self._speeds.step_ms / 1e3 + count * self._speeds.sequence_us / 1e6
        return count / (host + read / bandwidth + computed)

    def sample_s(self, prompts: float, responses: int, rate: float) -> float:
        placement = self._config.placement.rollout
        decoded = prompts * responses * self.response_tokens / rate
        operations = 2 * self._shape.active * prompts * self._supply.prompts.mean
        prefilled = operations / (placement.tensor_parallel * self._operations(placement.cpus))
        return (decoded + prefilled) / max(1, placement.engines)

    def comparison_rate(self) -> float | None:
        """Of one replica; None where it cannot be told."""
        if self._speeds.comparisons_per_s is not None:
            return self._speeds.comparisons_per_s
        if not self._setting.oracle_bytes:
            return None
        parameters = self._setting.oracle_bytes / self._job.dtype_bytes
        orders = 2 if getattr(self._config.oracle, "orders", "both") == "both" else 1
        tokens = orders * (self._supply.prompts.mean + 2 * self.response_tokens)
        return self._operations(self._config.placement.oracle.cpus) / (2 * parameters * tokens)

    def judge_s(self, comparisons: float) -> float:
        rate = self.comparison_rate()
        return 0.0 if rate is None else comparisons / (rate * self._config.placement.oracle.replicas)

    def reference_s(self, examples: float) -> float:
        """A replica over several GPUs is one after another on each."""
        placement = self._config.placement.reference
        operations = 2 * self._shape.active * len(self._config.frozen_logps) * examples * self._example_tokens
        return operations / (placement.replicas * self._operations(placement.cpus))

    def training_rate(self) -> float:
        """Tokens per second of one rank. Forward pass 2 operations per parameter, backward 4, of which an adapter needs 2; with gradient
        checkpointing the forward pass twice; pi_ref's forward pass for a KL."""
        if self._speeds.trained_tokens_per_s is not None:
            return self._speeds.trained_tokens_per_s
        passes = 4 if self._shape.adapter_parameters else 6
        passes += 2 * self._job.gradient_checkpointing + 2 * self._job.divergence
        return self._operations(self._config.placement.learner.cpus) / (passes * self._shape.active)

    def train_s(self, examples: float) -> float:
        tokens = self._config.learner.epochs * examples * self._example_tokens
        return tokens / (self._config.placement.learner.ranks * self.training_rate())

    def sync_s(self) -> float:
        return self._job.dtype_bytes * self._shape.parameters / (self._speeds.sync_gb_per_s * 1e9)

    def checkpoint_s(self) -> float:
        """The training state, 4 bytes per master weight and moment, and the policy once beside it and once as a model directory."""
        state = 4 * (1 + self._job.moments) * self._shape.trained + self._job.dtype_bytes * self._shape.parameters
        policy = self._job.dtype_bytes * self._shape.parameters if self._config.checkpoint.policies else 0
        return (state + policy) / (self._speeds.disk_gb_per_s * 1e9)

    def not_counted(self, judged: bool) -> tuple[str, ...]:
        oracle = self._config.oracle
        if not judged or oracle is None or self.comparison_rate() is not None:
            return ()
        return (f"judge: how fast oracle.type={oracle.type} answers is not known (--comparisons-per-s)",)

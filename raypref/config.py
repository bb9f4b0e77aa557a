"""The run's configuration: one section a concern, each field with its unit and range.

A YAML file holds the sections; dotted overrides (``loss.eta=500``) change single values; unknown keys are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SerializeAsAny, model_validator

from raypref.anchors import ReferenceConfig, RegulariserConfig
from raypref.data_config import DataConfig
from raypref.errors import ConfigError
from raypref.judging_config import JudgingConfig
from raypref.losses.base import Loss, losses
from raypref.oracles.base import Oracle, oracles
from raypref.section import Section
from raypref.selection.base import Selection, selections

NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class LoraConfig(Section):
    """Low-rank adapters through peft; the engines receive the merged weights."""

    rank: PositiveInt = 16
    """Rank of the update."""
    alpha: PositiveFloat = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    target_modules: str | list[str] = "all-linear"
    """Module names, as peft understands them."""


class PolicyConfig(Section):
    """The model that is aligned. pi_ref is this model, unchanged."""

    path: str
    """A Hugging Face model directory, or a hub name."""
    tokenizer: str | None = None
    """Where the tokenizer is, if not beside the model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type of the learner, the reference and the engines."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """transformers' ``attn_implementation`` in the learner and the reference; flash_attention_2 needs the package flash-attn."""
    max_context_tokens: PositiveInt | None = None
    """Prompt and response together; default: the model's own limit."""
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its author."""


_LEAST_GROUPS_IN_FLIGHT = 256
"""Unless ``loop.window_groups`` asks for less: oracles and references work in batches across groups."""


class LoopConfig(Section):
    """The dial from offline to online.

    Without ``prompts_per_iteration`` and ``sync_interval`` the prompts are split evenly over the iterations, as the papers do it.
    """

    iterations: PositiveInt = 3
    """An iteration is what lies between two syncs of the sampling policy."""
    prompts_per_iteration: PositiveInt | None = None
    """Prompts of one iteration; its steps follow (semi-online, as the papers do it)."""
    sync_interval: PositiveInt | None = None
    """Optimiser steps between syncs; 1 is online. The iteration takes as many prompts as that needs."""
    window_groups: PositiveInt | None = None
    """How many prompts may be in flight between the engines and the learner. Default: twice what fills the engines, at least 256."""
    overlap: bool = True
    """Train while the engines still sample. Changes the time, never the result."""

    @model_validator(mode="after")
    def _one_dial(self) -> Self:
        if self.prompts_per_iteration is not None and self.sync_interval is not None:
            raise ConfigError("loop: set prompts_per_iteration (steps follow) or sync_interval (prompts follow), not both")
        return self


class RolloutConfig(Section):
    """Sampling."""

    responses: Annotated[int, Field(ge=1)] = 5
    """K, responses a prompt."""
    temperature: PositiveFloat = 1.0
    """1.0 samples from the policy itself, which is what the theory asks for."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: PositiveInt = 2048
    """Longest response, in tokens."""
    truncated: Literal["keep", "drop", "penalise"] = "keep"
    """A response that was cut off before its end token: judged like any other; left out of its group; or judged, then moved
    ``truncation_penalty`` of the way to losing against every finished one."""
    truncation_penalty: Fraction = 1.0
    """0 leaves the verdict, 1 makes it a certain loss; only with ``truncated: penalise``."""
    max_num_seqs: PositiveInt = 256
    """Sequences an engine decodes at once."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Share of the GPU that an engine takes; lower it for ``placement.layout: colocated``."""
    kv_cache_gib: PositiveFloat | None = None
    """Fixed size of the key-value cache in GiB; default: what ``gpu_memory_utilization`` leaves (on a CPU: 0.25)."""
    enforce_eager: bool = False
    """Skip CUDA graphs (always so on a CPU)."""


class ScheduleConfig(Section):
    """Learning rate over the horizon: warm-up from 0, then decay to 0."""

    type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Fraction = 0.1
    """Share of the horizon."""
    horizon_iterations: PositiveFloat = 1.0
    """Length of the schedule, in multiples of its span. The SPPO paper keeps the first epoch of an 18-epoch schedule: 18."""
    span: Literal["iteration", "run"] = "iteration"
    """Schedule and optimiser state start anew with each iteration, as the papers train, or span the run."""


class OptimizerConfig(Section):
    type: Literal["adamw", "rmsprop"] = "adamw"
    lr: PositiveFloat = 5e-7
    """Peak learning rate."""
    weight_decay: NonNegative = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's second moment decay, and RMSprop's smoothing constant (torch's own default there: 0.99)."""
    eps: PositiveFloat = 1e-8


class LearnerConfig(Section):
    """Training."""

    global_batch: PositiveInt = 64
    """Examples of one optimiser step (a pair is one example), over all ranks."""
    micro_batch_tokens: PositiveInt = 8192
    """Tokens of one forward pass on one rank, padding included; what does not fit is accumulated. An example that is longer by itself
    (a pair: both responses) has a pass of its own. The reference's passes are as large."""
    epochs: PositiveInt = 1
    """Passes over an iteration's examples."""
    max_grad_norm: NonNegative = 1.0
    """Clip the global gradient norm; 0 does not clip."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO: what is sharded over the ranks (1 optimiser state, 2 gradients, 3 parameters)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    timeout_s: PositiveFloat = 1800.0
    """Longest wait, in seconds, for a collective, a step, or one answer of an engine, reference or oracle."""


class SyncConfig(Section):
    """Weights from the learner to the engines."""

    transport: Literal["auto", "nccl", "ipc", "shm"] = "auto"
    """auto: nccl for separate GPUs, ipc for colocated ones, shared memory on a CPU."""
    check: bool = True
    """After every sync compare checksums, then log-probs on the same tokens; a run that fails stops."""
    probe_prompts: PositiveInt = 4
    """Prompts that every engine answers for the check."""
    probe_tokens: PositiveInt = 32
    """Tokens of each such answer."""
    tolerance: PositiveFloat | None = None
    """Nats. Default: 1e-4 on the largest difference in float32, 0.05 on the mean in bfloat16."""
    timeout_s: PositiveFloat = 600.0


class RolloutPlacement(Section):
    engines: Annotated[int, Field(ge=0)] = 1
    tensor_parallel: PositiveInt = 1
    """GPUs of one engine, always on one node."""
    cpus: PositiveFloat = 1.0
    """CPU cores of one engine, for each of its GPUs."""


class ReplicaPlacement(Section):
    replicas: PositiveInt = 1
    gpus: Fraction = 1.0
    """Share of a GPU of one replica in a separate layout; 0 for a role that needs none (a callable oracle)."""
    cpus: PositiveFloat = 1.0


class LearnerPlacement(Section):
    ranks: PositiveInt = 1
    """DeepSpeed ranks, one GPU each."""
    cpus: PositiveFloat = 1.0


class PlacementConfig(Section):
    """Where the roles run. Bundles follow from this; they are placed together or not at all."""

    layout: Literal["separate", "colocated"] = "separate"
    """separate: every role on GPUs of its own; colocated: engines, references and oracles share the learner's GPUs."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """cpu: Ray counts GPUs that are not there, so that the placement is the same. auto: cuda where a GPU is found."""
    sleep: bool = False
    """Colocated engines and the learner take turns: engines give their GPU memory back while the learner trains, and the optimiser's state
    is in host memory while they sample. Needs ``loop.overlap: false`` and ``learner.zero_stage`` 2 or 3; ``rollout.gpu_memory_utilization``
    may then be what the learner's parameters, the references and the oracles leave."""
    rollout: RolloutPlacement = RolloutPlacement()
    reference: ReplicaPlacement = ReplicaPlacement()
    oracle: ReplicaPlacement = ReplicaPlacement()
    learner: LearnerPlacement = LearnerPlacement()
    timeout_s: PositiveFloat = 600.0
    """How long to wait for a cluster that may still grow, in seconds."""


class EvaluationConfig(Section):
    """Win rates on held-out prompts, under the run's own oracle."""

    responses: PositiveInt = 1
    """Responses a prompt and policy."""
    every: Annotated[int, Field(ge=0)] = 1
    """Evaluate after every so many iterations; 0 never. A resumed run compares its next policy with the one that it continues from,
    whenever that was evaluated."""
    revisions: Annotated[int, Field(ge=0)] = 0
    """How many times the policy revises its answers before each revision is compared with the base policy's answers (SRPO Figure 3);
    needs ``data.template``."""
    bootstrap_resamples: PositiveInt = 2000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95

    def wanted(self, held_out: Sequence[Any]) -> bool:
        """Whether a run with these held-out prompts is evaluated."""
        return bool(self.every and held_out)


class CheckpointConfig(Section):
    """One is saved at the end of every iteration."""

    keep: PositiveInt = 2
    """Newest checkpoints that stay on disk."""


class RunConfig(Section):
    """Everything about one run."""

    name: str = "raypref"
    output_dir: Path = Path("runs/raypref")
    """A path that every node shares."""
    seed: int = 0
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

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if self.data.type == "prompts" and self.rollout.responses < 2:
            raise ConfigError("rollout.responses: 1 leaves the oracle nothing to compare; at least 2")
        return self

    def groups_in_flight(self, responses: int | None = None) -> int:
        """``loop.window_groups``; by default the engines are full while as many groups again are judged or wait for those before them.

        Args:
            responses: of a group; default: ``rollout.responses``.
        """
        if self.loop.window_groups is not None:
            return self.loop.window_groups
        filling = -(-self.rollout.max_num_seqs // (responses or self.rollout.responses))
        return max(_LEAST_GROUPS_IN_FLIGHT, 2 * filling * self.placement.rollout.engines)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML file and apply dotted overrides.

    Args:
        path: the file.
        overrides: ``section.key=value``, values in YAML syntax.

    Raises:
        ConfigError: the file is missing or malformed, a key is unknown, a value is out of range.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except (yaml.YAMLError, OSError) as error:
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from error
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override {override!r}: expected section.key=value")
    try:
        merged = OmegaConf.merge(tree, OmegaConf.from_dotlist(list(overrides)))
        values: Any = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(values).__name__}")
    return RunConfig.parse(values)

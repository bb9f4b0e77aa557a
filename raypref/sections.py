"""Sections of the config that belong to no single room; the others stand where they are used (``data.config``, ``judging.config``).

Every field's docstring gives its meaning, unit and range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from raypref.errors import ConfigError
from raypref.registry import Section

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


class ReferenceConfig(Section):
    """pi_ref. pi_t, the policy at the iteration's start, is a slot of its own, which a loss asks for by itself."""

    policy: Literal["fixed", "refreshed"] = "fixed"
    """fixed: the policy that the run started from; refreshed: the policy of every so many iterations ago."""
    every: PositiveInt = 1
    """Iterations between two refreshes: pi_ref is the policy at the start of iteration t - t mod every. Only with ``policy: refreshed``;
    1 makes pi_ref the same as pi_t."""
    measure_kl: bool = False
    """Have the reference actors hold pi_ref for the metric ``kl`` even if the loss does not need it: one more copy of the policy and one
    more forward pass over the trained responses. Without effect where the loss reads pi_ref anyway, and for given data."""


class RegulariserConfig(Section):
    """SPO's global regulariser: coefficient * mean over samples of the token-wise KL(pi_theta || pi_ref), over the whole vocabulary.

    Source: SPO (15), Algorithm 1. The samples are responses of pi_theta to prompts that are due around the step, one a prompt. Where
    pi_theta samples the training data too, an iteration's sampling is finished before its first step: nothing overlaps then.
    """

    type: Literal["none", "token_kl"] = "none"
    """none: no regulariser beyond the loss' own."""
    coefficient: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the KL, in units of loss for one nat a response (the paper: 0.01 and 0.1)."""
    every: PositiveInt = 8
    """T, optimiser steps between two sets of samples (the paper: 8); counted over the whole run."""
    samples: PositiveInt = 32
    """Responses in a set (the paper: 32)."""
    max_tokens: PositiveInt | None = None
    """Longest sample, in tokens; default: ``rollout.max_tokens``."""

    @property
    def on(self) -> bool:
        """Whether there is one."""
        return self.type != "none"

    @model_validator(mode="after")
    def _weighty(self) -> Self:
        if self.on and not self.coefficient:
            raise ConfigError("regulariser.coefficient: 0 has no effect and samples for nothing; set regulariser.type=none")
        return self


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

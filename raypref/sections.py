"""Sections of the config that several folders use. ``data``, ``judging``, ``evaluation`` and ``checkpoint`` have theirs in
``config.py`` of their folders.

Every field's docstring gives its meaning, unit and range.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from raypref.errors import ConfigError
from raypref.registry import Section, UserPath

NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def one_of(section: Section, path: str, usual: str, other: str) -> None:
    """Of two keys for one thing, such as a length in iterations and in steps, a section has exactly one: ``usual``, which has a default,
    becomes None where ``other`` is given."""
    usual_value, other_value = getattr(section, usual), getattr(section, other)
    if other_value is None and usual_value is None:
        raise ConfigError(f"{path}.{usual}: required, unless {path}.{other} is given")
    if other_value is not None and usual_value is not None:
        if usual in section.model_fields_set:
            raise ConfigError(f"{path}.{other}: {other_value}, but {path}.{usual}={usual_value} is given as well; give one of the two")
        section.__dict__[usual] = None  # its default; the section is frozen once it is built


class LoraConfig(Section):
    """Low-rank adapters through peft; the engines receive the merged weights."""

    rank: PositiveInt = 16
    """Rank of the update."""
    alpha: PositiveFloat = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Share of the adapters' inputs that is set to 0 while training."""
    target_modules: str | list[str] = "all-linear"
    """Module names, as peft understands them."""


class PolicyConfig(Section):
    """The model that is aligned. pi_ref is this model, unchanged."""

    path: UserPath
    """A Hugging Face model directory, a hub name, or a policy of a run: ``runs/x@2`` after two iterations, ``runs/x`` the last one,
    ``runs/x@base`` the one that the run started from."""
    tokenizer: UserPath | None = None
    """Directory or hub name of the tokenizer; default: ``path``."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format in which the learner, the reference and the engines compute."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """transformers' ``attn_implementation`` in the learner and the reference; flash_attention_2 needs the package flash-attn."""
    max_context_tokens: PositiveInt | None = None
    """Longest prompt and response together, in tokens; default: the model's limit."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, in place of keeping them: less memory, about a third more time per step."""
    lora: Annotated[LoraConfig | None, BeforeValidator(lambda v: ({} if v else None) if isinstance(v, bool) else v)] = None
    """None or false: every parameter is trained; true: adapters with their defaults."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its author."""


class LoopConfig(Section):
    """How much is trained between two weight syncs: from offline to online.

    Without ``prompts_per_iteration`` and ``sync_interval`` the prompts are split evenly over the iterations, as the papers do it.

    With ``sync_interval`` the run is counted in optimiser steps: ``steps`` says how long it is, ``learner.schedule.span`` is ``run`` by
    default, and ``evaluation.every_steps`` and ``checkpoint.every_steps`` are 100.
    """

    iterations: PositiveInt | None = 3
    """Number of iterations; an iteration is the training between two syncs of the sampling policy. None: ``steps`` is given."""
    steps: PositiveInt | None = None
    """Optimiser steps of the whole run, in place of ``iterations``; only with ``sync_interval``, and a multiple of an iteration's steps."""
    prompts_per_iteration: PositiveInt | None = None
    """Prompts per iteration; the number of steps follows (semi-online, as in the papers)."""
    sync_interval: PositiveInt | None = None
    """Optimiser steps per iteration, in each of ``learner.epochs``; 1 is online. The number of prompts follows."""
    window_groups: PositiveInt | None = None
    """Most prompts in flight between the engines and the learner. Default: twice as many as fill the engines, at least 256."""
    overlap: bool = True
    """Train while the engines still sample. Changes the time, never the result."""

    @model_validator(mode="after")
    def _one_interval(self) -> Self:
        if self.prompts_per_iteration is not None and self.sync_interval is not None:
            raise ConfigError("loop: set prompts_per_iteration (steps follow) or sync_interval (prompts follow), not both")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.sync_interval is None:
            reason = "but without loop.sync_interval the number of steps follows from the prompts"
            raise ConfigError(f"loop.steps: {self.steps}, {reason}; set loop.sync_interval, or loop.iterations in place of loop.steps")
        one_of(self, "loop", "iterations", "steps")
        return self


class RolloutConfig(Section):
    """Sampling."""

    responses: Annotated[int, Field(ge=1)] = 5
    """K, responses per prompt."""
    temperature: NonNegative = 1.0
    """1.0 samples from the policy itself, as the theory assumes; 0 takes the most likely token, for ``raypref generate`` alone."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the likeliest tokens that together have this probability; 1.0: from all."""
    max_tokens: PositiveInt = 2048
    """Longest response, in tokens."""
    max_num_seqs: PositiveInt = 256
    """Most sequences that one engine decodes at once."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Share of the GPU's memory that an engine takes; lower it for ``placement.layout: colocated``."""
    kv_cache_gib: PositiveFloat | None = None
    """Fixed size of the key-value cache in GiB; default: what ``gpu_memory_utilization`` leaves (on a CPU: 0.25)."""
    enforce_eager: bool = False
    """Skip CUDA graphs (always so on a CPU)."""


class ScheduleConfig(Section):
    """Learning rate over the horizon: warm-up from 0, then decay to ``final_ratio`` of the peak."""

    type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Fraction | None = 0.1
    """Length of the warm-up as a share of the horizon. None: ``warmup_steps`` is given."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Length of the warm-up in optimiser steps, in place of ``warmup_ratio``; it does not change with the number of records that are left
    out. A horizon that is shorter is warm-up to its end."""
    final_ratio: Fraction = 0.0
    """The rate at the horizon and after it, as a share of the peak. Without effect on ``type: constant``."""
    horizon_iterations: PositiveFloat = 1.0
    """Length of the schedule, in multiples of its span. The SPPO paper keeps the first epoch of an 18-epoch schedule: 18."""
    span: Literal["iteration", "run"] = "iteration"
    """Schedule and optimiser state start anew with each iteration, as the papers train, or span the run. Default with
    ``loop.sync_interval`` or ``data.passes`` above 1: run."""

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        one_of(self, "learner.schedule", "warmup_ratio", "warmup_steps")
        return self

    def warmup(self, horizon_steps: float) -> float:
        """Length of the warm-up in steps, over a schedule of ``horizon_steps``."""
        return min(self.warmup_steps or 0, horizon_steps) if self.warmup_ratio is None else self.warmup_ratio * horizon_steps


class OptimizerConfig(Section):
    """The optimiser. Its state is kept in float32."""

    type: Literal["adamw", "rmsprop"] = "adamw"
    lr: PositiveFloat = 5e-7
    """Peak learning rate."""
    weight_decay: NonNegative = 0.0
    """AdamW: decoupled from the gradient; RMSprop: added to it, as torch does."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's first moment decay; RMSprop has none."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's second moment decay, and RMSprop's smoothing constant (torch's default there: 0.99)."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment, so that nothing is divided by 0."""


class ReferenceConfig(Section):
    """The reference policy pi_ref. The previous policy pi_t is another one; a loss declares which of the two it needs."""

    policy: Literal["fixed", "refreshed"] = "fixed"
    """fixed: the policy that the run started from; refreshed: a later policy, replaced after every ``every`` iterations."""
    every: PositiveInt = 1
    """Iterations between two refreshes: pi_ref is the policy at the start of iteration t - t mod every. Only with ``policy: refreshed``;
    1 makes pi_ref the same as pi_t."""
    measure_kl: bool = False
    """Have the reference actors hold pi_ref for the metric ``kl`` even if the loss does not need it: one more copy of the policy and one
    more forward pass over the trained responses. Without effect where the loss reads pi_ref anyway, and for given data."""


class RegulariserConfig(Section):
    """SPO's global regulariser: coefficient * mean over samples of the token-wise KL(pi_theta || pi_ref), over the whole vocabulary.

    Source: SPO (15), Algorithm 1. The samples are responses of pi_theta to prompts that are due around the step, one per prompt.
    If the training data is sampled too, all of an iteration's sampling comes before its first step: nothing overlaps.
    """

    type: Literal["none", "token_kl"] = "none"
    """none: no regulariser, apart from what the loss contains."""
    coefficient: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the KL, in units of loss per nat per response (the paper: 0.01 and 0.1)."""
    every: PositiveInt = 8
    """T, optimiser steps between two sets of samples (the paper: 8); counted over the whole run."""
    samples: PositiveInt = 32
    """Responses per set (the paper: 32)."""
    max_tokens: PositiveInt | None = None
    """Longest sample, in tokens; default: ``rollout.max_tokens``."""

    @property
    def on(self) -> bool:
        """Whether the run has a regulariser."""
        return self.type != "none"

    @model_validator(mode="after")
    def _coefficient_above_0(self) -> Self:
        if self.on and not self.coefficient:
            raise ConfigError("regulariser.coefficient: 0 has no effect, but costs the samples; set regulariser.type=none")
        return self


class LearnerConfig(Section):
    """Training."""

    global_batch: PositiveInt = 64
    """Examples per optimiser step over all ranks; a pair is one example."""
    micro_batch_tokens: PositiveInt = 8192
    """Tokens per micro-batch (one forward pass on one rank), padding included; gradients are accumulated over micro-batches. An example
    that is longer (a pair: both responses) is a micro-batch by itself. The reference uses the same limit."""
    epochs: PositiveInt = 1
    """Passes over an iteration's examples."""
    max_grad_norm: NonNegative = 1.0
    """Largest global gradient norm, above which the gradient is scaled down; 0: no limit."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO: what is sharded over the ranks (1 optimiser state, 2 gradients, 3 parameters)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    timeout_s: PositiveFloat = 1800.0
    """Longest wait for a collective, a step, or one answer of an engine, reference or oracle, in seconds."""


class SyncConfig(Section):
    """Weights from the learner to the engines, at every sync within ``timeout_s`` seconds: who has not answered by then is named."""

    transport: Literal["auto", "nccl", "ipc", "shm", "object_store"] = "auto"
    """auto: nccl for separate GPUs, ipc for colocated ones; on CPUs shm (shared memory) where all actors are on one node, object_store
    (Ray's, over the connections that Ray has) on several. object_store also serves GPUs between which NCCL's network does not work."""
    check: bool = True
    """After every sync compare checksums, then log-probs on the same tokens; stop the run if they differ."""
    probe_prompts: PositiveInt = 4
    """Prompts that every engine answers for the check."""
    probe_tokens: PositiveInt = 32
    """Tokens of each such answer."""
    tolerance: PositiveFloat | None = None
    """Nats. Default: 1e-4 on the largest difference in float32, 0.05 on the mean in bfloat16."""
    timeout_s: PositiveFloat = 600.0
    """Longest wait for a sync, in seconds; ``supervision`` says how much less is enough once three have shown how long they take."""


class RolloutPlacement(Section):
    """The vLLM engines."""

    engines: Annotated[int, Field(ge=0)] = 1
    """Number of engines; 0 only where nothing is sampled (given data, without win rates)."""
    tensor_parallel: PositiveInt = 1
    """GPUs per engine, always on one node."""
    cpus: PositiveFloat = 1.0
    """CPU cores per GPU of an engine."""


class ReplicaPlacement(Section):
    """The actors of the reference, or of the oracle."""

    replicas: PositiveInt = 1
    """Number of actors, each with a whole copy of its models."""
    gpus: NonNegative = 1.0
    """Share of a GPU per replica with ``layout: separate``; 0: none (a callable oracle); above 1: a reference is divided over them."""
    cpus: PositiveFloat = 1.0
    """CPU cores per replica."""


class LearnerPlacement(Section):
    """The DeepSpeed ranks that train."""

    ranks: PositiveInt = 1
    """DeepSpeed ranks, one GPU each."""
    cpus: PositiveFloat = 1.0
    """CPU cores per rank."""


class PlacementConfig(Section):
    """Where the roles run. The bundles of resources follow from this section; all of them are placed, or none."""

    layout: Literal["separate", "colocated"] = "separate"
    """separate: each role has GPUs to itself; colocated: engines, references and oracles share the learner's GPUs."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """cpu: Ray counts GPUs that do not exist, so that the placement is the same. auto: cuda if there is a GPU."""
    sleep: bool = False
    """Colocated engines and the learner take turns: the engines free their GPU memory while the learner trains, and the optimiser's state
    is in host memory while they sample. Needs ``loop.overlap: false`` and ``learner.zero_stage`` 2 or 3; ``rollout.gpu_memory_utilization``
    may then be what the learner's parameters, the references and the oracles leave."""
    rollout: RolloutPlacement = RolloutPlacement()
    reference: ReplicaPlacement = ReplicaPlacement()
    oracle: ReplicaPlacement = ReplicaPlacement()
    learner: LearnerPlacement = LearnerPlacement()
    timeout_s: PositiveFloat = 600.0
    """Longest wait for a cluster that may still grow, or for nodes that it has lost during the run, in seconds."""
    preflight_timeout_s: PositiveFloat = 60.0
    """Longest wait for each check of the nodes and of the network between them, before models are loaded, in seconds."""

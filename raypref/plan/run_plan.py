"""The plan of a run: everything that ``raypref plan`` prints and a run writes to ``plan.json``.

plan(config, Cluster.of(gpu="h100", gpus=8), Known(shape_of, data, tokenizer)).record()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from raypref.checks import Task
from raypref.config import RunConfig
from raypref.plan.duration import Duration, duration
from raypref.plan.first_prompt import FirstPrompt
from raypref.plan.fit import GpuUse, fits, gpu_uses, largest_micro_batch
from raypref.plan.hardware import Cluster
from raypref.plan.model_shape import ModelShape
from raypref.plan.places import Placed, place
from raypref.plan.remedies import Remedy, remedies
from raypref.plan.setting import Setting
from raypref.plan.speeds import Speeds
from raypref.plan.supply import Supply
from raypref.sections import LoraConfig
from raypref.types import RunData


@dataclass(frozen=True, slots=True)
class Known:
    """What is read of the run's files before it is planned."""

    shape_of: Callable[[LoraConfig | None], ModelShape]
    """The policy's shape with an adapter."""
    data: RunData | None = None
    """None: it could not be read; then no steps and no times are planned."""
    tokenizer: Any = None
    """The policy's."""
    fused: bool = False
    """Whether the learner will have Liger's kernels."""
    oracle_bytes: int | None = 0
    """Weights of the oracle's models; None: their files are not here, and they count as nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a plan assumes and computes beside the config."""

    speeds: Speeds = field(default_factory=Speeds)
    response_tokens: float | None = None
    """Mean length of a response; default: half of ``rollout.max_tokens``."""
    searches: bool = True
    """Whether the largest micro-batch and remedies are looked for."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will need."""

    setting: Setting
    placed: Placed
    gpus: tuple[GpuUse, ...]
    supply: Supply | None
    largest_micro_batch: int | None
    """In tokens, with a twentieth of the GPU left; None: the run does not fit with any, or it cannot be told."""
    duration: Duration | None
    remedies: tuple[Remedy, ...]
    """If it does not fit."""
    prompt: FirstPrompt | None
    not_counted: tuple[str, ...] = ()
    """What takes memory of a GPU, and is not known."""

    @property
    def fits(self) -> bool | None:
        """Whether every GPU has room; None where its memory is not known."""
        return fits(self.setting, margin=0.0)

    def record(self) -> dict[str, Any]:
        """The plan as JSON takes it; sizes in bytes, times in seconds."""
        cluster = self.setting.cluster
        return {
            "cluster": asdict(cluster) | {"gpus": self.placed.gpus_per_node},
            "placement": self.placed.plan.arithmetic(self.setting.job.device),
            "bundles": [
                {
                    "actors": [actor.name for actor in self.placed.plan.actors if actor.bundle == index],
                    "resources": dict(bundle),
                    "place": None if (spot := self.placed.places[index]) is None else asdict(spot),
                }
                for index, bundle in enumerate(self.placed.plan.bundles)
            ],
            "cannot_be_placed": self.placed.cannot,
            "fits": self.fits,
            "gpu_bytes": self.setting.gpu_bytes,
            "not_counted": list(self.not_counted),
            "gpus": [asdict(use) | {"peak_phase": use.peak_phase, "peak_bytes": use.peak_bytes} for use in self.gpus],
            "micro_batch_tokens": self.setting.job.micro_batch_tokens,
            "largest_micro_batch_tokens": self.largest_micro_batch,
            "data": None if self.supply is None else asdict(self.supply) | {"steps": self.supply.steps, "unused": self.supply.unused},
            "seconds": None if self.duration is None else asdict(self.duration) | {"waits": self.duration.waits()},
            "remedies": [asdict(remedy) for remedy in self.remedies],
            "first_prompt": None if self.prompt is None else asdict(self.prompt) | {"text": self.prompt.text},
        }


def plan(config: RunConfig, cluster: Cluster, known: Known, options: Options | None = None) -> RunPlan:
    """What a run will need on a cluster. Nothing is started.

    Args:
        config: of the run.
        cluster: where it is to run.
        known: of its files.
        options: what is assumed.

    Raises:
        ConfigError: the layout cannot be made of these numbers, or the memory model does not know the policy's architecture.
    """
    options = options or Options()
    supply = None if known.data is None else Supply.of(config, known.data)
    setting = Setting(
        config,
        known.shape_of(config.policy.lora),
        cluster,
        Task(held_out=None if supply is None else bool(supply.held_out or supply.held_out_examples)),
        known.oracle_bytes or 0,
        row_tokens=None if supply is None else supply.longest_row(config.rollout.responses, config.rollout.max_tokens),
        example_tokens=None if supply is None else supply.longest_example(config.rollout.max_tokens),
        fused=known.fused,
    )
    placed, searches = place(setting), options.searches and setting.gpu_bytes is not None
    return RunPlan(
        setting=setting,
        placed=placed,
        gpus=tuple(gpu_uses(setting, placed)),
        supply=supply,
        largest_micro_batch=largest_micro_batch(setting) if searches else None,
        duration=None if supply is None else duration(setting, supply, options.speeds, options.response_tokens),
        remedies=tuple(remedies(setting, known.shape_of)) if searches and fits(setting, margin=0.0) is False else (),
        prompt=None if known.data is None or known.tokenizer is None else FirstPrompt.of(known.data, known.tokenizer),
        not_counted=("the oracle's models: their files are not on this machine (--oracle-gib)",) if known.oracle_bytes is None else (),
    )

"""Everything that the arithmetic of a plan depends on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from raypref.checks import Task
from raypref.config import RunConfig
from raypref.plan.hardware import GIB, Cluster
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that the arithmetic depends on."""

    config: RunConfig
    shape: ModelShape
    """Of the policy, its adapter included."""
    cluster: Cluster
    task: Task = field(default_factory=Task)
    oracle_bytes: int = 0
    """Weights of the oracle's models."""
    row_tokens: int | None = None
    """Of the longest row of a micro-batch; None: not known."""
    example_tokens: int | None = None
    """Of the longest example, which is never divided; None: not known."""
    fused: bool = False
    """Whether the learner has Liger's kernels."""

    @property
    def gpu_bytes(self) -> int | None:
        """Of one GPU; None on a CPU, or if its memory is not known."""
        gpu = self.cluster.gpu
        return int(gpu.gib * GIB) if gpu is not None and gpu.gib else None

    @property
    def job(self) -> Job:
        """What the memory model reads; an example that is longer than a micro-batch is one by itself."""
        job = Job.of(self.config, self.shape, oracle_bytes=self.oracle_bytes, row_tokens=self.row_tokens, fused=self.fused)
        return replace(job, micro_batch_tokens=max(job.micro_batch_tokens, self.example_tokens or 0))

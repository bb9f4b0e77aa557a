"""How a rank joins its group, as far as this can be told without DeepSpeed."""

from __future__ import annotations

from typing import Literal

import torch

from actors.learner.deepspeed_setup import bound_device, engine_config
from raypref.sections import LearnerConfig, PolicyConfig


def test_a_group_of_several_gpus_is_bound() -> None:
    """One rank has nobody to connect to, and a CPU has no NCCL."""
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert [bound_device(gpu, 1), bound_device(gpu, 2), bound_device(cpu, 2)] == [None, gpu, None]


def test_gradients_are_reduced_during_the_backward_pass_on_a_gpu() -> None:
    """At stage 2; DeepSpeed does so by itself at stage 3 only, and the other stages have no use for it."""
    policy = PolicyConfig(path="m")

    def overlaps(stage: Literal[1, 2, 3], device: str) -> bool | None:
        learner = LearnerConfig(zero_stage=stage)
        return engine_config(policy, learner, 2, 1000, torch.device(device))["zero_optimization"].get("overlap_comm")

    assert [overlaps(2, "cuda"), overlaps(2, "cpu"), overlaps(1, "cuda"), overlaps(3, "cuda")] == [True, False, None, None]

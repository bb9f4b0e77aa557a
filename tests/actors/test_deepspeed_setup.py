"""How a rank joins its group, as far as this can be told without DeepSpeed."""

from __future__ import annotations

import torch

from actors.learner.deepspeed_setup import bound_device


def test_a_group_of_several_gpus_is_bound() -> None:
    """One rank has nobody to connect to, and a CPU has no NCCL."""
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert [bound_device(gpu, 1), bound_device(gpu, 2), bound_device(cpu, 2)] == [None, gpu, None]

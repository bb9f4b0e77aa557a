"""The devices that a test runs on: a CPU everywhere, and the first GPU where there is one."""

from __future__ import annotations

import pytest
import torch

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CPU = pytest.param("cpu", id="cpu")
GPU = pytest.param("cuda:0", id="gpu", marks=ON_GPU)
DEVICES = [CPU, GPU]

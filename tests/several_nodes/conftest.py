"""What these tests share. They are a package of their own, for a process can be connected to one Ray cluster at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="package")
def two_nodes() -> Iterator[None]:
    """Two nodes that count 4 CPUs and 4 GPUs each; the second one sets a variable of NCCL's itself."""
    import ray
    from ray.cluster_utils import Cluster

    for name in [name for name in os.environ if name.startswith(("NCCL_", "GLOO_"))]:
        del os.environ[name]  # another test's: the nodes would have it for a setting of their own
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    shape: dict[str, Any] = {"num_cpus": 4, "num_gpus": 4, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=shape | {"include_dashboard": False})
    cluster.add_node(env_vars={"NCCL_DEBUG": "WARN"}, **shape)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()

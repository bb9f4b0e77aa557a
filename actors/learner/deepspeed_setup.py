"""From a config to a DeepSpeed engine in a process group. The only module that knows how DeepSpeed is started.

The functions import deepspeed and torch, so that a driver can import ``actors`` without them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from actors.cluster.store import listening_store, meeting_address
from raypref.plan.learner_memory import REDUCE_BUCKET_ELEMENTS
from raypref.sections import LearnerConfig, OptimizerConfig, PolicyConfig

if TYPE_CHECKING:
    import torch

_LISTENING_TIMEOUT = timedelta(seconds=300)


def learner_env(device: str, threads: int) -> dict[str, str]:
    """Environment variables of a rank's process. They must be set before anything is imported there.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU cores of the rank's bundle.
    """
    env = {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # whoever can write to a checkpoint must not run code here; DeepSpeed asks for all of pickle
    }
    return env | {"DS_ACCELERATOR": device}  # on a GPU, too: an actor inherits a driver's "cpu"


def listen() -> tuple[torch.distributed.TCPStore, str]:
    """The store through which the ranks find each other, and its address ``host:port``."""
    host = meeting_address()
    store = listening_store(host, _LISTENING_TIMEOUT)
    return store, f"{host}:{store.port}"


def join_group(
    address: str, store: torch.distributed.TCPStore | None, rank: int, world_size: int, device: torch.device, timeout_s: float
) -> None:
    """Join the process group of all ranks, and have DeepSpeed use it.

    Args:
        address: of rank 0's store (``listen``).
        store: that store on rank 0; None on the other ranks.
        device: of the tensors: gloo connects CPUs, nccl GPUs.
        timeout_s: of every collective.
    """
    import torch.distributed as dist

    host, _, port = address.rpartition(":")
    timeout = timedelta(seconds=timeout_s)
    if store is None:
        store = dist.TCPStore(host, int(port), None, False, timeout=timeout, wait_for_workers=False)
    local = {"LOCAL_RANK": str(device.index or 0), "LOCAL_SIZE": "1"}
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": host, "MASTER_PORT": port, **local})
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}  # prevents the JIT build of a communication op that training never uses
    backend = "gloo" if device.type == "cpu" else "nccl"
    bound = bound_device(device, world_size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout, device_id=bound)
    deepspeed.init_distributed(backend, timeout=timeout, verbose=False)


def wait_for_all(world_size: int) -> None:
    """Wait until every rank has loaded the policy: for as long as the ranks' own group allows (``learner.timeout_s``).

    The groups that DeepSpeed makes have torch's 10 minutes for NCCL until ``build_engine`` changes that, which is too short for a node that
    reads the files much later than another.
    """
    import torch.distributed as dist

    if world_size > 1:
        dist.barrier()


def bound_device(device: torch.device, world_size: int) -> torch.device | None:
    """The device that the process group is bound to, so that NCCL connects at once; None for one rank, as in DeepSpeed: it connects to
    nobody, and a bound group makes each further group by ncclCommSplit, which fails on some machines with one GPU."""
    return device if device.type == "cuda" and world_size > 1 else None


def build_engine(
    model: torch.nn.Module, policy: PolicyConfig, learner: LearnerConfig, world_size: int
) -> tuple[Any, torch.optim.Optimizer]:
    """A DeepSpeed engine around ``model``, and the torch optimiser inside it, whose learning rate the caller sets.

    The process must have joined a group. The process groups that DeepSpeed adds get ``learner.timeout_s``, not torch's 30 minutes.
    """
    import deepspeed
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _import_muon_without_compiling()
    optimizer = _optimizer(trained, learner.optimizer)
    counted = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trained)  # partitioned ones are empty
    config = engine_config(policy, learner, world_size, counted, trained[0].device)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    c10d = torch.distributed.distributed_c10d
    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timedelta(seconds=learner.timeout_s), group)
    return engine, optimizer


def build_frozen_engine(model: torch.nn.Module, policy: PolicyConfig, world_size: int) -> Any:
    """A DeepSpeed engine without an optimiser, which gathers the parameters of a partitioned model layer by layer."""
    import deepspeed

    config = _engine_config(policy, world_size) | {"zero_optimization": {"stage": 3}}
    engine, *_ = deepspeed.initialize(model=model, config=config)
    engine.eval()
    return engine


def _import_muon_without_compiling() -> None:
    """Save 2 s: DeepSpeed imports its Muon optimiser for every other one, too, and with it torch's compiler, for kernels that never run."""
    from deepspeed.runtime import compiler

    compile_kernels = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = compile_kernels


def engine_config(policy: PolicyConfig, learner: LearnerConfig, world_size: int, trained: int, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's config of the engine that trains.

    Args:
        trained: number of parameters that require a gradient.
        device: of the rank. On a GPU stage 2 reduces a bucket of gradients while the backward pass fills a second one, as stage 3 does
            by default.
    """
    zero: dict[str, Any] = {"stage": learner.zero_stage, "reduce_bucket_size": min(REDUCE_BUCKET_ELEMENTS, trained)}
    if learner.zero_stage == 2:
        zero["overlap_comm"] = device.type == "cuda"
    return _engine_config(policy, world_size) | {"gradient_clipping": learner.max_grad_norm, "zero_optimization": zero}


def _engine_config(policy: PolicyConfig, world_size: int) -> dict[str, Any]:
    """raypref forms the micro-batches itself: DeepSpeed is told that there is one, and which backward pass is the last."""
    return {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": policy.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31 - 1,
    }


def _optimizer(parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    import torch

    shared: dict[str, Any] = {"lr": config.lr, "eps": config.eps, "weight_decay": config.weight_decay}
    if config.type == "adamw":
        return torch.optim.AdamW(parameters, betas=(config.beta1, config.beta2), fused=True, **shared)
    return torch.optim.RMSprop(parameters, alpha=config.beta2, **shared)

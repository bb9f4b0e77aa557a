"""Checks of ``benchmarks.gpu`` that run a vLLM engine and a sender of weights. Each returns what it measured, or raises ``Deviation``.

On a CPU they run as well: weights travel through shared memory, the policy is in float32, and no memory is freed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_passes import GIB, Deviation
from raypref.errors import SyncError
from raypref.sections import RolloutConfig

CACHE_GIB = 2.0
"""Of an engine that sleeps: most of what it gives back."""
DEATH_S = 20.0
"""Within this time the sender notices that a receiver has died."""


@contextmanager
def _bench(device: str, **settings: Any) -> Iterator[Any]:
    """``tests.gpu.one_engine.OneEngine`` with a random model of 64 words."""
    from tests.gpu.one_engine import OneEngine
    from tests.tiny_models import make_model

    with tempfile.TemporaryDirectory() as folder, OneEngine(device, make_model(Path(folder), tied=True), **settings) as bench:
        yield bench


def _limits(**changed: Any) -> RolloutConfig:
    common: dict[str, Any] = {"max_num_seqs": 8, "gpu_memory_utilization": 0.3, "kv_cache_gib": 0.25, "enforce_eager": True}
    return RolloutConfig(**common | changed)


def engine_eager(device: str) -> str:
    """The engine's log-probs of what it samples are the learner's, without CUDA graphs."""
    with _bench(device) as bench:
        return _difference(bench.sync(), bench)


def engine_cuda_graphs(device: str) -> str:
    """The same with CUDA graphs and compiled layers; after three syncs, since warm-up decides on which stream the first step computes."""
    with _bench(device, limits=_limits(enforce_eager=False)) as bench:
        found = [bench.sync()]
        for seed in range(2):
            bench.ask(bench.sender.move, seed)
            found.append(bench.sync())
        return _difference({name: max(metrics[name] for metrics in found) for name in found[0]}, bench)


def sync_on_one_device(device: str) -> str:
    """ipc on one GPU, shared memory on a CPU: weights that change arrive, and perturbed ones are caught."""
    with _bench(device) as bench:
        return _perturbed_weights_are_caught(bench)


def sync_nccl(device: str) -> str:
    """The same through nccl, from one GPU to another, into an engine with CUDA graphs."""
    with _bench(device, transport="nccl", limits=_limits(enforce_eager=False)) as bench:
        return _perturbed_weights_are_caught(bench)


def _perturbed_weights_are_caught(bench: Any) -> str:
    """Three syncs of changing weights; then one element that changes on its way, and a tensor that changes in the engine."""
    first = bench.sync()
    for seed in range(2):
        bench.ask(bench.sender.move, seed)
        last = bench.sync()
    names = bench.ask(bench.sender.names)
    altered = names[len(names) // 2]
    _must_be_caught(f"1 of {len(names)} tensors changed on their way to engine; the first is {altered}", lambda: bench.sync(altered))
    sent = bench.send()
    bench.check(sent)
    bench.ask(bench.engine.perturb)
    _must_be_caught("engine does not compute the learner's log-probs", lambda: bench.check(sent))
    worst = {name: max(first[name], last[name]) for name in first}
    return f"{_difference(worst, bench)}; a changed element and a changed tensor are caught"


def _must_be_caught(message: str, check: Any) -> None:
    try:
        check()
    except SyncError as error:
        if message not in str(error):
            raise
        return
    raise Deviation(f"the check after a sync passed; it must say: {message}")


def _difference(metrics: dict[str, float], bench: Any) -> str:
    return (
        f"log-probs differ by {metrics['sync/logprob_difference_max']:.1e} nats at most, {metrics['sync/logprob_difference_mean']:.1e} "
        f"on average ({bench.tolerance.statistic} below {bench.tolerance.nats:g} asked for)"
    )


def sleep_and_wake(device: str) -> str:
    """Asleep, the engine gives back weights and cache; awake again it computes the learner's log-probs: at level 2 from weights that
    were sent anew, at level 1 from those that it kept."""
    with _bench(device, limits=_limits(kv_cache_gib=CACHE_GIB), sleeps=True) as bench:
        bench.sync()
        results = []
        for level in (2, 1):
            freed = _freed(bench, bench.engine.sleep, level)
            taken = -_freed(bench, bench.engine.wake_up, ["weights"])
            if level == 2:
                bench.ask(bench.sender.send_all)
                sent = bench.send()
            taken -= _freed(bench, bench.engine.wake_up, ["kv_cache"])
            bench.check(sent)
            if bench.on_gpu and min(freed, taken) < 0.9 * CACHE_GIB * GIB:
                raise Deviation(f"level {level}: {freed / GIB:.2f} GiB freed and {taken / GIB:.2f} taken; the cache has {CACHE_GIB:g}")
            results.append(f"level {level}: {freed / GIB:.2f} GiB freed, {taken / GIB:.2f} taken")
        return "; ".join(results) if bench.on_gpu else "a CPU frees nothing; log-probs are right after both levels"


def _freed(bench: Any, method: Any, *arguments: Any) -> int:
    """Bytes that are free on the GPU after a call and were not before; negative when it took some, 0 on a CPU."""
    before = torch.cuda.mem_get_info()[0] if bench.on_gpu else 0
    bench.ask(method, *arguments)
    return torch.cuda.mem_get_info()[0] - before if bench.on_gpu else 0


def killed_receiver(device: str) -> str:
    """An engine dies in a transfer: the sender is told so at once, and goes on with the next engine."""
    with _bench(device) as bench:
        return _sender_survives(bench)


def killed_receiver_nccl(device: str) -> str:
    """The same through nccl, where the sender is inside a collective when the receiver dies."""
    with _bench(device, transport="nccl") as bench:
        return _sender_survives(bench)


def _sender_survives(bench: Any) -> str:
    bench.sync()
    bench.ask(bench.engine.die_in_the_next_update)
    start = time.monotonic()
    try:
        bench.send()
    except SyncError as error:
        message = str(error)
    else:
        raise Deviation("a sync to an engine that died in it succeeded")
    seconds = time.monotonic() - start
    if "engine failed" not in message or seconds > DEATH_S:
        raise Deviation(f"after {seconds:.1f} s (at most {DEATH_S:g} are expected) the sender says {message.splitlines()[0]!r}")
    bench.start_engine()
    bench.sync()
    return f"the sender names the engine after {seconds:.1f} s; the next engine gets the weights"

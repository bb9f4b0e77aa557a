"""What a sync costs over a plain memcpy of the same bytes: one learner rank to one engine, shared memory, one thread each, float32.

Four lines a model:
- ``transport``: gathering the weights, copying them, mapping them on the other side, and the calls that say so. The receiver maps every
  tensor and drops it; no checksums. The bar: at most twice a memcpy.
- ``checksums``: of all tensors, once; a checked sync computes them on both sides.
- ``engine``: what a vLLM engine takes to load, fuse and repack what it was sent, its checksums included.
- ``total``: a sync as a run sees it, to that engine, with checksums on both sides.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from actors.rollout.actor import RolloutActor
from actors.weights.destination import Destination
from actors.weights.sender import WeightSender
from benchmarks.figure import Figure
from raypref.roles import Audience
from raypref.sections import PolicyConfig, RolloutConfig, SyncConfig

SHAPES: dict[str, dict[str, int]] = {
    "15m": {"vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 4},
    "125m": {"vocab_size": 50_304, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}
"""Llama, tied embeddings: 14.5 and 123.6 million parameters."""
BARS = {"15m": 0.0, "125m": 0.5}
"""A sync of 15 million parameters is mostly its calls."""
SAMPLES = 7


def main(arguments: Sequence[str]) -> int:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for size, shape in SHAPES.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds = measure(Path(folder), shape)
            show(size, seconds)
    finally:
        ray.shutdown()
    return 0


def measure(directory: Path, shape: dict[str, int]) -> dict[str, float]:
    """Median seconds of each part; the parts take turns."""
    import ray
    from transformers import LlamaConfig

    from actors.rollout.engine import engine_env
    from tests.tiny_models import make_model

    config = LlamaConfig(**shape, max_position_embeddings=256, tie_word_embeddings=True)
    make_model(directory, tied=True)  # its tokenizer is what is used
    config.save_pretrained(directory)
    env = {"num_cpus": 0, "runtime_env": {"env_vars": engine_env("cpu", 1)}}
    limits = RolloutConfig(max_num_seqs=8, kv_cache_gib=0.0625)
    engine = ray.remote(TimedEngine).options(max_concurrency=4, **env).remote(PolicyConfig(path=str(directory), dtype="float32"), limits)
    sink, learner = ray.remote(Sink).options(**env).remote(), ray.remote(Learner).options(**env).remote(config)
    ray.get([learner.connect.remote("engine", engine, True), learner.connect.remote("sink", sink, False)], timeout=600)
    rounds = []
    for version in range(SAMPLES + 1):
        seconds = {"memcpy": ray.get(learner.memcpy.remote(), timeout=60)}
        seconds["transport"] = ray.get(learner.sync.remote("sink", version), timeout=60)
        seconds["checksums"] = ray.get(learner.checksums.remote(), timeout=60)
        seconds["total"] = ray.get(learner.sync.remote("engine", version), timeout=60)
        seconds["engine"] = ray.get(engine.take_seconds.remote(), timeout=60)
        rounds.append(seconds)
    for actor in (engine, sink, learner):
        ray.kill(actor)
    return {part: median(seconds[part] for seconds in rounds[1:]) for part in rounds[0]}


def show(size: str, seconds: dict[str, float]) -> None:
    for part in ("transport", "checksums", "engine", "total"):
        bar = BARS[size] if part == "transport" else 0.0
        unit = f"seconds of a memcpy ({seconds['memcpy']:.4f}) over those of {part} ({seconds[part]:.4f})"
        Figure(f"sync_{part}_{size}", seconds["memcpy"] / seconds[part], bar, unit, SAMPLES).show()


class Learner:
    """Stands for the learner: a model, its publisher, and a plain copy of as many bytes to compare with."""

    def __init__(self, config: Any) -> None:
        import torch
        from transformers import LlamaForCausalLM

        self._model = LlamaForCausalLM(config)
        size = sum(parameter.nbytes for parameter in self._model.parameters())
        self._bytes, self._copy = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
        self._senders: dict[str, WeightSender] = {}

    def connect(self, name: str, handle: Any, check: bool) -> None:
        from actors.weights.source import DeepSpeedSource

        sync = SyncConfig(transport="shm", timeout_s=60)
        sender = WeightSender(sync, 0, 1, DeepSpeedSource(self._model), [Destination(name, handle)])
        sender._source._active = check
        self._senders[name] = sender

    def sync(self, name: str, version: int) -> float:
        start = time.perf_counter()
        self._senders[name].sync(version)
        return time.perf_counter() - start

    def memcpy(self) -> float:
        start = time.perf_counter()
        self._copy.copy_(self._bytes)
        return time.perf_counter() - start

    def checksums(self) -> float:
        from actors.weights.checksums import checksum

        start = time.perf_counter()
        for parameter in self._model.parameters():
            checksum(parameter)
        return time.perf_counter() - start


class Sink:
    """A receiver that maps the weights and does nothing else."""

    def __init__(self) -> None:
        import torch

        from actors.weights.shm import ShmReceiver

        class Nothing:
            def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
                assert weights

        self._receiver = ShmReceiver(Nothing())

    def init_weight_transfer_engine(self, request: Any) -> None:
        self._receiver.connect(request["init_info"])

    def start_weight_update(self, complete: bool, audience: Audience) -> None:
        self._receiver.begin()

    def update_weights(self, request: Any) -> None:
        self._receiver.update(request["update_info"])

    def finish_weight_update(self) -> None:
        self._receiver.finish()

    def update_weight_version(self, new_version: str) -> None:
        pass


class TimedEngine(RolloutActor):
    """A rollout actor that sums the seconds of its weight updates."""

    _seconds = 0.0

    def start_weight_update(self, complete: bool = True, audience: Audience = "all") -> None:
        start = time.perf_counter()
        super().start_weight_update(complete, audience)
        self._seconds += time.perf_counter() - start

    def update_weights(self, request: Any) -> None:
        start = time.perf_counter()
        super().update_weights(request)
        self._seconds += time.perf_counter() - start

    def finish_weight_update(self) -> None:
        start = time.perf_counter()
        super().finish_weight_update()
        self._seconds += time.perf_counter() - start

    def take_seconds(self) -> float:
        """Seconds of the updates since the last call."""
        taken, self._seconds = self._seconds, 0.0
        return taken

"""What a sync costs over a plain memcpy of the same bytes: one learner rank to one engine, one thread each, float32.

Lines of each model, by shared memory, and again through Ray's object store (``sync_object_store_...``):
- ``transport``: gathering the weights, copying them, mapping them on the other side, and the calls that say so. The receiver maps every
  tensor and drops it; no checksums. The bar: at most twice a memcpy; through the object store, three and a third.
- ``checks``: a sync without checksums over one with them, which both sides compute. The bar: they are at most 5% of the whole.
- ``engine``: what a vLLM engine takes to load, fuse and repack what it was sent, its checksums included.
- ``total``: a sync as a run sees it, to that engine, with checksums.

And once, ``checksums``: of all tensors, alone and one after another, as memory allows; a sync computes them beside its other work.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any

from actors.rollout.actor import RolloutActor
from actors.weights.checksums import ChecksumThread
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
TRANSPORTS = {"shm": "sync", "object_store": "sync_object_store"}
"""Name of a transport -> how its figures begin."""
BARS = {
    "sync_transport_125m": 0.5,
    "sync_object_store_transport_125m": 0.3,
    "sync_checks_125m": 0.95,
    "sync_object_store_checks_125m": 0.95,
}
"""A sync of 15 million parameters is mostly its calls."""
SAMPLES = 11


def main(arguments: Sequence[str]) -> int:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for size, shape in SHAPES.items():
            with tempfile.TemporaryDirectory() as folder:
                for transport, prefix in TRANSPORTS.items():
                    show(prefix, size, measure(Path(folder), shape, transport))
    finally:
        ray.shutdown()
    return 0


def measure(directory: Path, shape: dict[str, int], transport: str) -> list[dict[str, float]]:
    """Seconds of each part, in turns."""
    import ray
    from transformers import LlamaConfig

    from actors.rollout.engine import engine_env
    from tests.tiny_models import make_model

    config = LlamaConfig(**shape, max_position_embeddings=256, tie_word_embeddings=True)
    make_model(directory, tied=True)  # its tokenizer is what is used
    config.save_pretrained(directory)
    env = {"num_cpus": 0, "runtime_env": {"env_vars": engine_env("cpu", 1)}}
    policy, limits = PolicyConfig(path=str(directory), dtype="float32"), RolloutConfig(max_num_seqs=8, kv_cache_gib=0.0625)
    engine = ray.remote(TimedEngine).options(max_concurrency=4, **env).remote(policy, limits, transport=transport)
    sink, learner = ray.remote(Sink).options(**env).remote(transport), ray.remote(Learner).options(**env).remote(config, transport)
    ray.get([learner.connect.remote("engine", engine), learner.connect.remote("sink", sink)], timeout=600)
    rounds = []
    for version in range(SAMPLES + 1):
        seconds = {"memcpy": ray.get(learner.memcpy.remote(), timeout=60)}
        seconds["checksums"] = ray.get(learner.checksums.remote(), timeout=60)
        for name, part, checked in [("sink", "transport", False), ("engine", "unchecked", False), ("engine", "total", True)]:
            ray.get([learner.check.remote(checked), engine.check.remote(checked)], timeout=60)
            seconds[part] = ray.get(learner.sync.remote(name, version), timeout=60)
            seconds["engine"] = ray.get(engine.take_seconds.remote(), timeout=60)
        rounds.append(seconds)
    for actor in (engine, sink, learner):
        ray.kill(actor)
    return rounds[1:]


def show(prefix: str, size: str, rounds: list[dict[str, float]]) -> None:
    seconds = {part: median(turn[part] for turn in rounds) for part in rounds[0]}
    for part in ("transport", *(["checksums"] if prefix == "sync" else []), "engine", "total"):
        unit = f"seconds of a memcpy ({seconds['memcpy']:.4f}) over those of {part} ({seconds[part]:.4f})"
        _show(f"{prefix}_{part}_{size}", seconds["memcpy"] / seconds[part], unit)
    sides = f"seconds of a sync without checksums ({seconds['unchecked']:.4f}) over those with them ({seconds['total']:.4f})"
    _show(
        f"{prefix}_checks_{size}", median(turn["unchecked"] / turn["total"] for turn in rounds), f"{sides}; the median of the turns' ratios"
    )


def _show(name: str, ratio: float, unit: str) -> None:
    Figure(name, ratio, BARS.get(name, 0.0), unit, SAMPLES).show()


class Checked:
    """An actor whose checksums can be switched off."""

    _checksum = staticmethod(ChecksumThread.start)

    def check(self, checked: bool) -> None:
        """Whether the next syncs compute checksums in this process."""
        setattr(ChecksumThread, "start", self._checksum if checked else _no_checksum)  # noqa: B010  a type checker refuses the plain way


def _no_checksum(thread: Any, tensor: Any) -> Future[int]:
    done: Future[int] = Future()
    done.set_result(0)
    return done


class Learner(Checked):
    """Stands for the learner: a model, its publisher, and a plain copy of as many bytes to compare with."""

    def __init__(self, config: Any, transport: str) -> None:
        import torch
        from transformers import LlamaForCausalLM

        self._model = LlamaForCausalLM(config)
        size = sum(parameter.nbytes for parameter in self._model.parameters())
        self._bytes, self._copy = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
        self._senders: dict[str, WeightSender] = {}
        self._sync = SyncConfig.parse({"transport": transport, "timeout_s": 60})

    def connect(self, name: str, handle: Any) -> None:
        from actors.weights.source import DeepSpeedSource

        self._senders[name] = WeightSender(self._sync, 0, 1, DeepSpeedSource(self._model), [Destination(name, handle)])

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

    def __init__(self, transport: str) -> None:
        import torch

        from actors.weights.transport import load

        class Nothing:
            def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
                assert list(weights)

        self._receiver = load(transport).receiver(Nothing(), torch.device("cpu"))

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


class TimedEngine(Checked, RolloutActor):
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

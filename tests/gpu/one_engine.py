"""A stand-in for the learner and one vLLM engine, both on one device (or on a GPU each), and the check that a run makes after every sync.

    with OneEngine("cuda:0", make_model(directory, tied=True)) as bench:
        bench.sync()                       # raises SyncError unless the engine holds the learner's weights and computes with them

The tests of this folder and ``benchmarks.gpu_engines`` use it; ``device`` is ``cpu`` or ``cuda:0``. A module of its own, because Ray's
workers import it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from unittest import mock

import numpy as np
import ray
import torch
from torch import Tensor, nn

from actors.policy_model import load_model
from actors.rollout.actor import RolloutActor
from actors.rollout.engine import engine_env
from actors.rollout.group import RolloutGroup
from actors.weights.destination import Destination
from actors.weights.source import RecordingSource
from raypref import types
from raypref.loop.sync_check import Tolerance, verify
from raypref.sections import PolicyConfig, RolloutConfig
from tests.stand_ins import Sender

TIMEOUT_S = 120.0
START_S = 400.0
"""For an engine, whose first start on a GPU compiles kernels."""
CACHE_GIB = 0.25


class FragileEngine(RolloutActor):
    """An engine whose weights can be changed behind the learner's back, and that can die in a transfer."""

    _dies = False

    def perturb(self) -> None:
        """Multiply the final norm's weight by 1.5. No cached key or value depends on it."""
        self._engine._llm.apply_model(_perturb)

    def die_in_the_next_update(self) -> None:
        self._dies = True

    def update_weights(self, request: Any) -> None:
        if self._dies:
            os._exit(1)
        super().update_weights(request)


def _perturb(model: nn.Module) -> None:
    (norm,) = [parameter for name, parameter in model.named_parameters() if name.endswith("model.norm.weight")]
    with torch.no_grad():
        norm.mul_(1.5)


class AlteringSender(Sender):
    """A sender that can change a tensor on its way, after its checksum was taken, whatever the transport."""

    def names(self) -> list[str]:
        return [info.name for info in self._sender._source.metadata()]

    def send_all(self) -> None:
        self._sender.send_all()

    def sync_altered(self, version: int, name: str) -> dict[str, int]:
        """Sync; the first element of the tensor arrives one larger."""
        read = RecordingSource.__iter__

        def altered(source: RecordingSource) -> Iterator[tuple[str, Tensor]]:
            for key, tensor in read(source):
                if key == name:
                    tensor = tensor.clone()
                    tensor.view(-1)[0] += 1
                yield key, tensor

        with mock.patch.object(RecordingSource, "__iter__", altered):
            return self._sender.sync(version)


class _Learner:
    """What ``verify`` asks of a learner."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> list[np.ndarray]:
        logps: list[np.ndarray] = await self._sender.logps.remote(list(sequences))
        return logps


class OneEngine:
    """The sender and the engine, connected. Starts a local Ray cluster, unless there is one."""

    def __init__(
        self,
        device: str,
        model: Path,
        *,
        transport: Literal["nccl", "ipc", "shm"] | None = None,
        limits: RolloutConfig | None = None,
        sleeps: bool = False,
    ) -> None:
        """
        Args:
            device: ``cpu``, or ``cuda:0``.
            model: directory of the policy, whose weights the sender has; the engine starts with random ones.
            transport: default: shared memory on a CPU, ipc on a GPU.
            limits: of the engine.
            sleeps: whether the engine will sleep.
        """
        self.on_gpu = device != "cpu"
        chosen = transport or ("ipc" if self.on_gpu else "shm")
        dtype: Any = "bfloat16" if self.on_gpu else "float32"
        self.policy = PolicyConfig(path=str(model), dtype=dtype)
        self.tolerance = Tolerance.of(dtype, None)
        self.version = -1
        self._limits = limits or RolloutConfig(max_num_seqs=8, gpu_memory_utilization=0.3, kv_cache_gib=CACHE_GIB, enforce_eager=True)
        self._placed: dict[str, Any] = {"num_cpus": 1, "num_gpus": (1.0 if chosen == "nccl" else 0.4) if self.on_gpu else 0}
        self._transport, self._sleeps = chosen, sleeps
        if not ray.is_initialized():
            ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        self._runner = asyncio.Runner()
        self.sender = ray.remote(AlteringSender).options(**self._placed).remote(model, chosen, device, dtype)
        self._learner: Any = _Learner(self.sender)
        self.start_engine()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_engine(self) -> None:
        """Start an engine in place of one that was killed, or the first one, and connect it."""
        env = {"env_vars": engine_env("cuda" if self.on_gpu else "cpu", 1)}
        actor = ray.remote(FragileEngine).options(max_concurrency=4, runtime_env=env, **self._placed)
        settings = {"device": "cuda" if self.on_gpu else "cpu", "transport": self._transport, "sleeps": self._sleeps}
        self.engine = actor.remote(self.policy, self._limits, **settings)
        self.group = RolloutGroup([("engine", self.engine)], TIMEOUT_S)
        self.ask(self.engine.weight_checksums, limit_s=START_S)
        self.ask(self.sender.connect, [Destination("engine", self.engine)], TIMEOUT_S)

    def ask(self, method: Any, *arguments: Any, limit_s: float = TIMEOUT_S) -> Any:
        """The answer of an actor's method."""
        return ray.get(method.remote(*arguments), timeout=limit_s)

    def sync(self, altered: str | None = None) -> dict[str, float]:
        """Send the weights as the next version, and check the engine; the metrics of the check.

        Args:
            altered: a tensor that is changed on its way.

        Raises:
            SyncError: the engine holds other weights, or computes something else with them.
        """
        sent = self.send(altered)
        return self.check(sent)

    def send(self, altered: str | None = None) -> dict[str, int]:
        """Send the weights as the next version; their checksums."""
        self.version += 1
        method, more = (self.sender.sync, ()) if altered is None else (self.sender.sync_altered, (altered,))
        sent: dict[str, int] = self.ask(method, self.version, *more)
        return sent

    def check(self, sent: dict[str, int]) -> dict[str, float]:
        """Compare checksums with those that were sent, then the log-probs of 4 times 4 responses.

        Raises:
            SyncError: they differ.
        """
        tokens = np.random.default_rng(0).integers(3, 60, (4, 17)).astype(np.int32)
        prompts = [types.Prompt(k, f"p{k}", "", row) for k, row in enumerate(tokens)]
        requests = [types.SampleRequest(prompt, 4, prompt.index, 1.0, 1.0, 16, self.version) for prompt in prompts]
        checked = verify(sent, learner=self._learner, rollout=self.group, reference=None, requests=requests, tolerance=self.tolerance)
        return self._runner.run(checked)

    def sample(self, requests: Sequence[types.SampleRequest]) -> int:
        """Number of the tokens that the engine samples for these requests, made at once."""
        before = self.group.sampled_tokens

        async def all_of_them() -> None:
            await asyncio.gather(*(self.group.sample(request) for request in requests))

        self._runner.run(all_of_them())
        return self.group.sampled_tokens - before

    def parameters(self) -> int:
        """Of the policy."""
        return sum(parameter.numel() for parameter in load_model(self.policy, torch.device("cpu")).parameters())

    def close(self) -> None:
        """End both processes, and the cluster."""
        for actor in (self.engine, self.sender):
            ray.kill(actor)
        self._runner.close()
        ray.shutdown()

"""Stand-ins for actors, in tests of the others. In a module of their own, because Ray's workers import them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.policy_model import load_model
from actors.rollout.actor import Finished
from actors.weights.publisher import Publisher, Receiver
from raypref import types
from raypref.roles import Audience
from raypref.sections import PolicyConfig
from raypref.training.logprobs import response_logps


class Sender:
    """In the learner's place: a plain transformers model that is synced and asked for log-probs."""

    def __init__(
        self, path: Path, transport: str = "shm", device: str = "cpu", dtype: Any = "float32", trained: Collection[str] | None = None
    ) -> None:
        """Trains the parameters that are named, or all."""
        self._transport = transport
        self._model = load_model(PolicyConfig(path=str(path), dtype=dtype), torch.device(device))
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(trained is None or name in trained)

    def connect(self, receivers: Sequence[Receiver], timeout_s: float = 60.0) -> None:
        from actors.weights.source import DeepSpeedSource

        self._publisher = Publisher(self._transport, 0, 1, DeepSpeedSource(self._model), receivers, timeout_s)

    def sync(self, version: int, audience: Audience = "all") -> dict[str, int]:
        return self._publisher.sync(version, audience)

    def sync_listing(self, version: int) -> tuple[dict[str, int], set[str]]:
        """Sync; what the receivers hold, and the names of what was sent this time."""
        client: Any = self._publisher._client
        send, sent = client.update_weights, set[str]()

        def listing(info: dict[str, Any]) -> None:
            sent.update(info["names"])
            send(info)

        client.update_weights = listing
        try:
            return self._publisher.sync(version), sent
        finally:
            client.update_weights = send

    def sync_corrupted(self, version: int, name: str) -> dict[str, int]:
        """Sync, but one bit of a tensor changes on the way."""
        client: Any = self._publisher._client
        send = client.update_weights

        def corrupt(info: dict[str, Any]) -> None:
            self._publisher._engine._buffer[info["offsets"][info["names"].index(name)]] ^= 1
            send(info)

        client.update_weights = corrupt
        try:
            return self._publisher.sync(version)
        finally:
            client.update_weights = send

    def move(self, seed: int) -> None:
        """Change every trained weight, a little but visibly: another policy."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in filter(lambda parameter: parameter.requires_grad, self._model.parameters()):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)

    def logps(self, sequences: Sequence[types.TokenSequence]) -> list[np.ndarray]:
        """Per-token log-probs (T_s,) of each response, one sequence at a time: no padding."""
        with torch.no_grad():
            pairs = [response_logps(self._model, [sequence]) for sequence in sequences]
        return [logps[0][mask[0]].double().cpu().numpy() for logps, mask in pairs]


class Mortal:
    """In an engine's place: streams one group, then nothing more, and waits to be killed."""

    def submit(self, requests: Sequence[tuple[str, types.SampleRequest]]) -> dict[str, Exception]:
        return {}

    def stream(self) -> Iterator[Finished | types.Rollout]:
        yield Finished(("0",), 1)
        yield types.Rollout(types.Prompt(0, "p", "", np.zeros(1, dtype=np.int32)), (), 0)
        time.sleep(600)


class Breaking(Mortal):
    """In an engine's place: announces three groups, streams one, and breaks."""

    def stream(self) -> Iterator[Finished | types.Rollout]:
        yield Finished(("0", "1", "2"), 3)
        yield types.Rollout(types.Prompt(0, "p", "", np.zeros(1, dtype=np.int32)), (), 0)
        raise ValueError("the second one")

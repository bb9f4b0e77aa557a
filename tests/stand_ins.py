"""Stand-ins for actors, for tests of other actors. They have a module to themselves, because Ray's workers import it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from actors.policy_model import load_model
from actors.rollout.actor import Finished
from actors.weights.destination import Destination
from actors.weights.sender import WeightSender
from raypref import types
from raypref.roles import Audience
from raypref.sections import PolicyConfig, SyncConfig
from raypref.training.logprobs import response_logps


class Sender:
    """Stands in for the learner: a plain transformers model that sends its weights and computes log-probs."""

    def __init__(
        self,
        path: Path,
        transport: Literal["nccl", "ipc", "shm", "object_store"] = "shm",
        device: str = "cpu",
        dtype: Any = "float32",
        trained: Collection[str] | None = None,
    ) -> None:
        """Only the parameters in ``trained`` are trainable; default: all."""
        self._transport = transport
        self._model = load_model(PolicyConfig(path=str(path), dtype=dtype), torch.device(device))
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(trained is None or name in trained)

    def connect(self, destinations: Sequence[Destination], timeout_s: float = 60.0) -> None:
        from actors.weights.source import DeepSpeedSource

        sync = SyncConfig(transport=self._transport, timeout_s=timeout_s)
        self._sender = WeightSender(sync, 0, 1, DeepSpeedSource(self._model), destinations)

    def sync(self, version: int, audience: Audience = "all") -> dict[str, int]:
        return self._sender.sync(version, audience)

    def sync_listing(self, version: int) -> tuple[dict[str, int], set[str]]:
        """Sync; checksums of what the receivers hold, and the names of what was sent this time."""
        control: Any = self._sender._control
        send, sent = control.update_weights, set[str]()

        def listing(info: dict[str, Any]) -> None:
            sent.update(info["names"])
            send(info)

        control.update_weights = listing
        try:
            return self._sender.sync(version), sent
        finally:
            control.update_weights = send

    def sync_corrupted(self, version: int, name: str) -> dict[str, int]:
        """Sync, with one bit of a tensor changed on the way."""
        control, sender = cast(Any, self._sender._control), cast(Any, self._sender._sender)
        send = control.update_weights

        def corrupt(info: dict[str, Any]) -> None:
            sender._buffer[info["offsets"][info["names"].index(name)]] ^= 1
            send(info)

        control.update_weights = corrupt
        try:
            return self._sender.sync(version)
        finally:
            control.update_weights = send

    def sync_broken(self, version: int, name: str) -> dict[str, int]:
        """Sync, with a tensor under a name that no model knows: what comes before it has been loaded then."""
        control: Any = self._sender._control
        send = control.update_weights

        def rename(info: dict[str, Any]) -> None:
            send(info | {"names": [f"{known}.unknown" if known == name else known for known in info["names"]]})

        control.update_weights = rename
        try:
            return self._sender.sync(version)
        finally:
            control.update_weights = send

    def move(self, seed: int) -> None:
        """Change every trained weight enough to change the log-probs."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in filter(lambda parameter: parameter.requires_grad, self._model.parameters()):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)

    def logps(self, sequences: Sequence[types.TokenSequence]) -> list[np.ndarray]:
        """Per-token log-probs (T_s,) of each response, computed one sequence at a time, without padding."""
        with torch.no_grad():
            pairs = [response_logps(self._model, [sequence]) for sequence in sequences]
        return [logps[0][mask[0]].double().cpu().numpy() for logps, mask in pairs]


class Mortal:
    """Stands in for an engine that streams one group and then hangs until it is killed."""

    def submit(self, requests: Sequence[tuple[str, types.SampleRequest]]) -> dict[str, Exception]:
        return {}

    def stream(self) -> Iterator[Finished | types.Rollout | None]:
        yield Finished(("0",), 1)
        yield types.Rollout(types.Prompt(0, "p", "", np.zeros(1, dtype=np.int32)), (), 0)
        yield None
        time.sleep(600)


class Breaking(Mortal):
    """Stands in for an engine that announces three groups, streams one and raises."""

    def stream(self) -> Iterator[Finished | types.Rollout | None]:
        yield Finished(("0", "1", "2"), 3)
        yield types.Rollout(types.Prompt(0, "p", "", np.zeros(1, dtype=np.int32)), (), 0)
        raise ValueError("the second one")

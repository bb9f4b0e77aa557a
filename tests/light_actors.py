"""Actors of a run without models: the project's own rollout and oracle actors around a few lines, and stand-ins for reference and learner.

A policy is one number. A response's tokens depend on the request's seed and on that number, so a request gives the same answer on every
engine that holds the same policy. In a module to itself, because Ray's workers import it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.oracle.actor import OracleActor
from actors.rollout.actor import RolloutActor
from actors.rollout.engine_stats import EngineFigures
from actors.weights.destination import Destination
from actors.weights.ray_control import RayControl
from raypref import types
from raypref.errors import SyncError
from raypref.roles import Audience
from raypref.sections import SyncConfig


class Mortal:
    """Tells its process id, so that a test can kill it."""

    def pid(self) -> int:
        return os.getpid()


class Copy:
    """A copy of the policy, and the methods of a weight sync."""

    def __init__(self) -> None:
        self.value = float("nan")
        self.version: int | None = None

    def init_weight_transfer_engine(self, request: Any) -> None:
        pass

    def start_weight_update(self, complete: bool = True, audience: Audience = "all") -> None:
        self.version = None

    def update_weights(self, request: Any) -> None:
        self.value = request["update_info"]["value"]

    def finish_weight_update(self) -> None:
        pass

    def update_weight_version(self, new_version: str) -> None:
        self.version = int(new_version)

    def weight_checksums(self) -> dict[str, int]:
        return {"weight": hash(self.value)}


class QuickEngine(Copy):
    """In the place of ``actors.rollout.engine.Engine``: finishes one request a step."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.context_tokens = 64
        self.open: dict[str, types.SampleRequest] = {}

    @property
    def unfinished(self) -> int:
        return len(self.open)

    def add(self, key: str, request: types.SampleRequest) -> None:
        self.open[key] = request

    def step(self) -> list[tuple[str, types.Rollout]]:
        time.sleep(0.05)
        key = next(iter(self.open))
        request = self.open.pop(key)
        draw = np.random.default_rng([request.seed, round(self.value * 1000)])
        responses = tuple(self._response(draw) for _ in range(request.count))
        return [(key, types.Rollout(request.prompt, responses, request.policy_version, request.origin))]

    def take_figures(self) -> EngineFigures:
        return EngineFigures()

    def _response(self, draw: np.random.Generator) -> types.Response:
        tokens = draw.integers(3, 60, 4).astype(np.int32)
        return types.Response(tokens, np.full(4, -1.0 - self.value, dtype=np.float32), " ".join(map(str, tokens)), "stop")

    def start_weight_update(self, complete: bool = True, audience: Audience = "all") -> None:
        super().start_weight_update(complete)

    def weight_checksums(self) -> dict[str, Any]:
        return {"": super().weight_checksums()}

    def shutdown(self) -> None:
        pass


class LightEngine(Mortal, RolloutActor):
    """The rollout actor around ``QuickEngine``."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        import actors.rollout.actor as module

        module.Engine = QuickEngine  # type: ignore[misc, assignment]  # this process is this actor's alone
        super().__init__(*arguments, **settings)


class LightOracle(Mortal, OracleActor):
    pass


def prefer_the_larger_first_token(prompt: str, a: str, b: str) -> float:
    time.sleep(0.005)
    first, second = int(a.split()[0]), int(b.split()[0])
    return 0.5 if first == second else 0.9 if first > second else 0.1


class LightReference(Mortal, Copy):
    """The log-prob of every response under pi_t is the policy's number."""

    def score_apart(self, examples: Sequence[types.Example]) -> tuple[bool, tuple[types.Example, ...]]:
        time.sleep(0.01)
        for example in examples:
            if example.policy_version != self.version:
                raise SyncError(f"prompt {example.prompt_id!r}: policy {example.policy_version}, but the reference holds {self.version}")
        return True, tuple(replace(example, previous_logps=np.full(len(example.response_ids), self.value)) for example in examples)

    def probe(self, sequences: Sequence[types.TokenSequence]) -> list[NDArray[np.float64]]:
        return [np.full(len(sequence.response_ids), -1.0 - self.value) for sequence in sequences]

    def refresh(self, directory: Path) -> None:
        pass

    def seal(self, iteration: int) -> None:
        pass

    def shutdown(self) -> None:
        pass


class LightRank(Mortal):
    """The policy's number grows with what it is trained on, so that it depends on every token and every log-prob under pi_t."""

    def __init__(self) -> None:
        self.value = 0.0
        self._stored: Path | None = None
        """What is sent in place of ``value``."""
        self._control: RayControl | None = None

    def listen(self) -> str:
        return "nowhere"

    def start(self, address: str) -> None:
        pass

    def connect(self, destinations: Sequence[Destination], sync: SyncConfig, stored: str | None = None) -> None:
        self._stored = None if stored is None else Path(stored) / "value.json"
        self._control = RayControl(destinations, "light", sync.timeout_s)
        self._control.init_weight_transfer_engine({})
        self._raise_failure()

    def sync(self, version: int, audience: Audience = "all", complete: bool = False, limit_s: float | None = None) -> dict[str, int]:
        assert self._control is not None
        self._control.version, self._control.audience = version, audience
        self._control.begin(limit_s)
        self._control.start_weight_update()
        value = self.value if self._stored is None else json.loads(self._stored.read_text())
        self._control.update_weights({"value": value})
        self._control.finish_weight_update()
        self._raise_failure()
        return {"weight": hash(value)}

    def begin_iteration(self, iteration: int, steps: int) -> None:
        pass

    def step(self, bounds: Sequence[tuple[int, int]], *groups: Sequence[types.Example]) -> dict[str, float]:
        time.sleep(0.02)
        batch = [example for (start, stop), group in zip(bounds, groups, strict=True) for example in group[start:stop]]
        for example in batch:
            assert example.previous_logps is not None
            self.value += 1e-3 * float(sum(ids.sum() for ids in example.response_ids)) / 100 + 1e-3 * float(example.previous_logps.sum())
        return {"loss": self.value}

    def probe(self, sequences: Sequence[types.TokenSequence]) -> list[NDArray[np.float64]]:
        return [np.full(len(sequence.response_ids), -1.0 - self.value) for sequence in sequences]

    def save(self, directory: Path, policy: Path | None = None) -> None:
        for place in (directory, policy):
            if place is not None:
                self.export(place)

    def saved(self) -> bool:
        return True

    def load(self, directory: Path) -> None:
        self.value = json.loads((directory / "value.json").read_text())

    def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "value.json").write_text(json.dumps(self.value))

    def close(self) -> None:
        pass

    def _raise_failure(self) -> None:
        if self._control is not None and self._control.failure is not None:
            raise self._control.failure

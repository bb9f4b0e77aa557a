"""The four roles in plain Python: a policy is one number, and a reference to a value is the value itself."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref import types
from raypref.roles import Audience


def prompt(index: int, id: str | None = None) -> types.Prompt:
    return types.Prompt(index=index, id=id or f"p{index}", text=f"prompt {index}", token_ids=np.array([1, 2, index], dtype=np.int32))


@dataclass
class FakePolicy:
    """A copy of the policy in an engine or reference."""

    value: float = 0.0
    version: int = -1
    keeps_pi_t: bool = False
    """A reference's copy: it does not take weights that are for the engines alone."""


@dataclass
class FakeLearner:
    """Its value grows by the number of examples; it records the prompts of every batch."""

    replicas: Sequence[FakePolicy] = ()
    value: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    begun: list[tuple[int, int]] = field(default_factory=list)
    exported: list[Path] = field(default_factory=list)
    fail_at_step: int | None = None
    delay_s: float = 0.0
    samples: dict[int, list[types.Rollout]] = field(default_factory=dict)
    """Number of steps before -> the regulariser's samples."""
    references: list[Path] = field(default_factory=list)
    evaluated: list[list[types.Example]] = field(default_factory=list)
    texts: list[list[types.Example]] = field(default_factory=list)

    async def evaluate(self, examples: Sequence[types.Slice]) -> Mapping[str, float]:
        """The loss of a held-out example is the policy's number less its log-prob under pi_t."""
        batch = [example for part in examples for example in part.ref[part.start : part.stop]]
        self.evaluated.append(batch)
        previous = [0.0 if example.previous_logps is None else float(example.previous_logps[0]) for example in batch]
        return {"loss": self.value - sum(previous) / len(batch), "rewards/accuracies": 0.5}

    async def likelihood(self, texts: Sequence[types.Slice]) -> Mapping[str, float]:
        """Each token has one nat more than the policy's number."""
        self.texts.append([example for part in texts for example in part.ref[part.start : part.stop]])
        return {"text_nll": 1.0 + self.value}

    async def regularise(self, rollouts: Sequence[types.Rollout]) -> None:
        self.samples[len(self.batches)] = list(rollouts)

    async def refresh_reference(self, directory: Path) -> None:
        self.references.append(directory)

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        from raypref.errors import LossNotFinite

        await asyncio.sleep(self.delay_s)
        if len(self.batches) == self.fail_at_step:
            raise LossNotFinite("loss is NaN; batch written to failures/step_0001.json")
        examples = [example for part in batch for example in part.ref[part.start : part.stop]]
        self.batches.append([example.prompt_index for example in examples])
        self.value += len(examples) + sum(float(example.targets.sum()) for example in examples)
        return {"loss": 1.0 / len(self.batches)}

    async def begin_iteration(self, iteration: int, steps: int) -> None:
        self.begun.append((iteration, steps))

    async def sync(self, version: int, audience: Audience = "all") -> dict[str, int]:
        for replica in self.replicas:
            if audience == "all" or not replica.keeps_pi_t:
                replica.value, replica.version = self.value, version
        return {"weight": hash(self.value)}

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> list[NDArray[np.float64]]:
        return [np.full(len(sequence.response_ids), -1.0 - self.value) for sequence in sequences]

    async def save(self, directory: Path, policy: Path | None = None) -> None:
        directory.mkdir(parents=True)
        (directory / "value.json").write_text(json.dumps(self.value))
        if policy is not None:
            await self.export(policy)

    async def saved(self) -> bool:
        return True

    async def load(self, directory: Path) -> None:
        self.value = json.loads((directory / "value.json").read_text())

    async def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.value))
        self.exported.append(directory)


@dataclass
class FakeRollout:
    """Answers after a random delay, so that groups finish out of order; counts the requests in flight."""

    policy: FakePolicy = field(default_factory=FakePolicy)
    requests: list[types.SampleRequest] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    delay: random.Random = field(default_factory=lambda: random.Random(0))

    async def sample(self, request: types.SampleRequest) -> types.Rollout:
        assert request.policy_version == self.policy.version, "asked for weights that the engine does not hold"
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.delay.random() * 0.003)
        self.in_flight -= 1
        return self._answer(request)

    def _answer(self, request: types.SampleRequest) -> types.Rollout:
        draw = np.random.default_rng(request.seed)
        responses = tuple(
            types.Response(
                token_ids=np.array([int(draw.integers(100)), 3], dtype=np.int32),
                logprobs=np.full(2, -1.0 - self.policy.value, dtype=np.float32),
                text=f"{self.policy.value:g}",
                finish_reason="stop",
            )
            for _ in range(request.count)
        )
        return types.Rollout(request.prompt, responses, self.policy.version, request.origin)

    async def probe(self, requests: Sequence[types.SampleRequest]) -> dict[str, list[types.Rollout]]:
        return {"rollout-0": [self._answer(request) for request in requests]}

    async def weight_checksums(self) -> dict[str, dict[str, int]]:
        return {"rollout-0": {"weight": hash(self.policy.value)}}


@dataclass
class FakeReference:
    """Log-probs under pi_t are its number; those under pi_ref are the number that it was last refreshed with."""

    policy: FakePolicy = field(default_factory=lambda: FakePolicy(keeps_pi_t=True))
    reference: float = 0.0
    scored: list[types.Example] = field(default_factory=list)

    async def score(self, examples: Any) -> Any:
        size = len(examples[0].response_ids)
        slots = {"previous_logps": np.full(size, self.policy.value), "reference_logps": np.full(size, self.reference)}
        scored = tuple(replace(example, **slots) for example in examples)
        self.scored.extend(scored)
        return scored

    async def seal(self, iteration: int) -> None:
        pass

    async def refresh(self, directory: Path) -> None:
        self.reference = json.loads((directory / "config.json").read_text())

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> dict[str, list[NDArray[np.float64]]]:
        return {"reference-0": [np.full(len(sequence.response_ids), -1.0 - self.policy.value) for sequence in sequences]}

    async def weight_checksums(self) -> dict[str, dict[str, int]]:
        return {"reference-0": {"weight": hash(self.policy.value)}}


@dataclass
class FakeOracle:
    """Keeps every group except those whose prompt index is in ``drops``; the policy with the larger value wins."""

    drops: frozenset[int] = frozenset()
    partners: dict[str, str] = field(default_factory=dict)
    """Prompt id -> id of the prompt whose rollout came as its partner."""
    sealed: list[int] = field(default_factory=list)
    judged: list[types.Rollout] = field(default_factory=list)
    recorded: dict[str, types.Rollout] = field(default_factory=dict)
    """By origin."""

    async def judge(self, rollout: types.Rollout, partner: types.Rollout | None = None) -> tuple[types.Verdict, Any]:
        index = rollout.prompt.index
        self.judged.append(rollout)
        if partner is not None:
            self.partners[rollout.prompt.id] = partner.prompt.id
        examples = (
            ()
            if index in self.drops
            else (
                types.Example(
                    prompt_index=index,
                    prompt_id=rollout.prompt.id,
                    prompt_ids=(rollout.prompt.token_ids,) * 2,
                    response_ids=tuple(response.token_ids for response in rollout.responses[:2]),
                    targets=np.array([0.5, -0.25]) * rollout.responses[0].token_ids[0],
                    policy_version=rollout.policy_version,
                ),
            )
        )
        return types.Verdict(index, len(examples), {"rollout/tokens": 2.0 * len(rollout.responses)}), examples

    async def recall(self, request: types.SampleRequest) -> types.Rollout:
        return self.recorded[request.origin]

    async def compare(self, challenger: types.Rollout, defender: types.Rollout) -> types.Comparison:
        mine, theirs = challenger.responses[0], defender.responses[0]
        win = 0.5 if mine.text == theirs.text else float(float(mine.text) > float(theirs.text))
        metrics = {"oracle/requests_total": types.Total(1.0)}
        return types.Comparison(challenger.prompt.id, challenger.prompt.text, win, mine.text, theirs.text, 2.0, 2.0, metrics)

    async def matrix(self, rollout: types.Rollout) -> types.PreferenceMatrix:
        return types.PreferenceMatrix(np.full((len(rollout.responses),) * 2, 0.5), "fake")

    async def seal(self, iteration: int) -> None:
        self.sealed.append(iteration)

"""The learner's weights to every engine and reference, and proof that they arrived."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from raypref.config import RunConfig
from raypref.loop.sync_check import Tolerance, verify
from raypref.roles import Audience, Roles
from raypref.types import Prompt, RunData, SampleRequest

Request = Callable[[Prompt, int, str, int], SampleRequest]
"""(prompt, count, purpose, iteration) -> what an engine is asked."""


class WeightSync:
    """Copies the learner's weights to the engines and references, and checks every copy."""

    def __init__(self, config: RunConfig, roles: Roles, data: RunData, request: Request) -> None:
        """
        Args:
            config: the run's.
            roles: learner, engines and references.
            data: its first prompts are what the engines answer for the check, held-out ones before others.
            request: makes the requests; their seeds follow from it.
        """
        self._config = config
        self._roles = roles
        self._data = data
        self._request = request
        self.largest: dict[str, float] = {}
        """The largest of each figure of the check so far."""

    @property
    def needed(self) -> bool:
        """Whether anybody holds a copy of pi_t."""
        return self._roles.rollout is not None or self._holds_previous

    @property
    def _holds_previous(self) -> bool:
        """Whether the references hold pi_t, which only a loss that reads it asks for."""
        return self._roles.reference is not None and "previous" in self._config.loss.needs

    async def sync(self, version: int, audience: Audience = "all") -> dict[str, float]:
        """Copy the weights under the name ``version``; the metrics of the check, none where it is switched off.

        Raises:
            SyncError: a receiver does not hold the learner's weights.
        """
        sent = await self._roles.learner.sync(version, audience)
        if not self._config.sync.check:
            return {}
        found = await verify(
            sent,
            learner=self._roles.learner,
            rollout=self._roles.rollout,
            reference=self._roles.reference if audience == "all" and self._holds_previous else None,
            requests=self._probes(version),
            tolerance=Tolerance.of(self._config.policy.dtype, self._config.sync.tolerance),
        )
        self.largest |= {name: max(value, self.largest.get(name, 0.0)) for name, value in found.items()}
        return found

    def _probes(self, version: int) -> list[SampleRequest]:
        """What every engine is asked after a sync."""
        sync = self._config.sync
        probed = itertools.islice(itertools.chain(self._data.held_out, self._data.prompts), sync.probe_prompts)
        how = {"temperature": 1.0, "top_p": 1.0, "max_tokens": sync.probe_tokens, "policy_version": version}
        return [replace(self._request(prompt, 1, "probe", 0), **how) for prompt in probed]  # type: ignore[arg-type]

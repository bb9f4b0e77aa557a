"""Weight sync as the loop sees it: the learner's weights go to every engine and reference, and a check proves that they arrived."""

from __future__ import annotations

import hashlib
import itertools

from raypref.config import RunConfig
from raypref.loop.requests import RequestBuilder
from raypref.loop.sync_check import Tolerance, verify
from raypref.roles import Audience, Roles
from raypref.types import RunData, SampleRequest


class WeightSync:
    """Copies the learner's weights to the engines and references, and checks every copy."""

    def __init__(self, config: RunConfig, roles: Roles, data: RunData, requests: RequestBuilder) -> None:
        """
        Args:
            config: of the run.
            roles: learner, engines and references.
            data: for the check the engines answer its first held-out prompts, then its first training prompts.
            requests: builds what the engines are asked.
        """
        self._config = config
        self._roles = roles
        self._data = data
        self._requests = requests
        self.largest: dict[str, float] = {}
        """The largest value so far of each metric of the check."""

    @property
    def needed(self) -> bool:
        """Whether anything holds a copy of the policy."""
        return self._roles.rollout is not None or self._references_hold_pi_t

    @property
    def _references_hold_pi_t(self) -> bool:
        """They do only for a loss that reads log-probs under pi_t."""
        return self._roles.reference is not None and "previous" in self._config.loss.needs

    async def sync(self, version: int, audience: Audience) -> dict[str, float]:
        """Copy the weights under the name ``version``; the metrics of the check, none where it is switched off.

        Raises:
            SyncError: a copy differs from the learner's weights.
        """
        sent = await self._roles.learner.sync(version, audience)
        if audience == "all":
            self._requests.weights = hashlib.blake2b(repr(sorted(sent.items())).encode(), digest_size=16).hexdigest()
        if not self._config.sync.check:
            return {}
        metrics = await verify(
            sent,
            learner=self._roles.learner,
            rollout=self._roles.rollout,
            reference=self._roles.reference if audience == "all" and self._references_hold_pi_t else None,
            requests=self._probe_requests(version),
            tolerance=Tolerance.of(self._config.policy.dtype, self._config.sync.tolerance),
        )
        self.largest |= {name: max(value, self.largest.get(name, 0.0)) for name, value in metrics.items()}
        return metrics

    def _probe_requests(self, version: int) -> list[SampleRequest]:
        """What every engine is asked after a weight sync, at temperature 1."""
        sync = self._config.sync
        prompts = itertools.islice(itertools.chain(self._data.held_out, self._data.prompts), sync.probe_prompts)
        return [
            self._requests.build(
                prompt,
                1,
                purpose="probe",
                iteration=0,
                policy_version=version,
                temperature=1.0,
                top_p=1.0,
                max_tokens=sync.probe_tokens,
            )
            for prompt in prompts
        ]

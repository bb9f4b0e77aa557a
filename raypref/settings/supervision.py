"""The ``supervision`` section: when an actor counts as hung, and how often actors are replaced."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from raypref.registry import Section


class FirstCallsConfig(Section):
    """Seconds that the first three calls of a kind may take, by role; None, or more than ``learner.timeout_s``: that."""

    rollout: PositiveFloat | None = None
    """An engine's first groups: the longest response that ``rollout.max_tokens`` allows, as often as groups wait for each other."""
    reference: PositiveFloat | None = None
    """The first log-probs under the frozen policies."""
    oracle: PositiveFloat | None = None
    """The first groups that are judged, and the first held-out answers that are compared. Not of an oracle that waits for an
    endpoint, or for the policy's engines."""
    learner: PositiveFloat | None = None
    """The first steps: a whole global batch each, and what is compiled or allocated for it. The first of its other calls (an export, a
    held-out loss) have ``learner.timeout_s``."""

    def limits(self) -> dict[str, float | None]:
        """The limits by role, that of the learner by its call."""
        return {"learner: step" if role == "learner" else role: limit_s for role, limit_s in self.model_dump().items()}


class SupervisionConfig(Section):
    """Actors that die or hang while the run goes on. A death is noticed within 15 s; a hang when a call takes much longer than usual.

    A call may take ``multiple`` times the median of earlier calls of its kind, at least ``floor_s`` and at most ``learner.timeout_s``,
    which is also the limit of the first calls of a kind, unless ``first_calls`` sets a lower one; for weight syncs ``sync.timeout_s`` is in
    its place. Calls of an oracle that waits for an endpoint, or for the policy's engines, have ``learner.timeout_s`` alone. Engines,
    references and oracles are replaced; the loss of a learner's rank ends this attempt of the run.
    """

    multiple: Annotated[float, Field(gt=1)] = 10.0
    """Times the median of earlier calls, from which a call counts as hung."""
    floor_s: PositiveFloat = 60.0
    """Seconds that every call may take."""
    first_calls: FirstCallsConfig = FirstCallsConfig()
    """Of an actor that hangs from its beginning."""
    restarts: Annotated[int, Field(ge=0)] = 5
    """Most replacements of one role within ``window_s``, and, counted apart, most inputs of a role that are set aside because each killed
    a replica twice. One more ends this attempt of the run; 0: the first loss does."""
    window_s: PositiveFloat = 3600.0
    """Seconds for which a replacement is counted."""

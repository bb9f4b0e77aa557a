"""Seconds by stage and by role."""

from __future__ import annotations

import time

ROLES = {
    "rollout": ("rollout", "regulariser"),
    "oracle": ("judge",),
    "reference": ("reference",),
    "learner": ("train", "checkpoint", "export", "load"),
}
"""Role -> stages in which it alone works."""
TOGETHER = {"sync": ("rollout", "reference", "learner"), "evaluate": ("rollout", "oracle")}
"""Stage -> the roles that work in it."""
JOINED_S = 0.05
"""Two spans of a stage with a shorter pause between them count as one."""
QUEUES = ("rollout", "judge", "reference")
"""Stages that a group goes through."""


class StageClock:
    """Wall seconds in which a stage, or a role, had at least one call in flight. Stages overlap, so they may add up to more than the run's
    time."""

    def __init__(self) -> None:
        self._roles = {role: Stage() for role in ROLES}
        self._stages: dict[str, Stage] = {}
        self._taken_at = time.monotonic()
        self._taken: dict[str, float] = {}
        self._taken_of_roles = dict.fromkeys(ROLES, 0.0)
        self._waiting: dict[str, float] = {}

    def stage(self, name: str) -> Stage:
        """``with clock.stage(name):`` around a call."""
        if name not in self._stages:
            roles = TOGETHER.get(name, tuple(role for role, stages in ROLES.items() if name in stages))
            self._stages[name] = Stage(tuple(self._roles[role] for role in roles))
        return self._stages[name]

    def take(self) -> dict[str, float]:
        """Metrics of the time since they were last taken: ``time/iteration_s``, and ``time/<stage>_s`` of every stage so far."""
        now, seconds = time.monotonic(), self.seconds()
        spent = {"iteration": now - self._taken_at} | {name: total - self._taken.get(name, 0.0) for name, total in seconds.items()}
        self._waiting = self._waited(now - self._taken_at)
        self._taken_at, self._taken = now, seconds
        return {f"time/{name}_s": round(value, 3) for name, value in spent.items()}

    def waiting(self) -> dict[str, float]:
        """``waiting/<role>`` of every role that had a call in the time that was last taken, and ``overlap_efficiency``."""
        return self._waiting

    def in_flight(self) -> dict[str, float]:
        """``in_flight/<stage>``: calls of each stage of a group that are under way now."""
        return {f"in_flight/{name}": float(self._stages[name].active) for name in QUEUES if name in self._stages}

    def seconds(self) -> dict[str, float]:
        """Stage -> its seconds since the start."""
        return {name: round(stage.total_s, 3) for name, stage in self._stages.items()}

    def take_spans(self) -> list[tuple[str, float, float]]:
        """(stage, begin, end) of each time in which a stage was at work, in monotonic seconds; those taken before are left out."""
        return [(name, *span) for name, stage in self._stages.items() for span in stage.take_spans()]

    def _waited(self, span_s: float) -> dict[str, float]:
        totals = {role: stage.total_s for role, stage in self._roles.items()}
        busy = {role: total - self._taken_of_roles[role] for role, total in totals.items()}
        self._taken_of_roles = totals
        waited = {f"waiting/{role}": max(0.0, 1.0 - seconds / span_s) for role, seconds in busy.items() if seconds > 0.0 and span_s > 0.0}
        return waited | ({"overlap_efficiency": 1.0 - min(waited.values())} if waited else {})


class Stage:
    """One stage of the clock, entered by any number of calls at a time; one object for all calls, since every group enters three."""

    __slots__ = ("_roles", "_since", "_spans", "active", "total_s")

    def __init__(self, roles: tuple[Stage, ...] = ()) -> None:
        """
        Args:
            roles: those that work in it; each is entered with it.
        """
        self._roles = roles
        self.active = 0
        self._since = 0.0
        self._spans: list[tuple[float, float]] = []
        self.total_s = 0.0

    def take_spans(self) -> list[tuple[float, float]]:
        """Begin and end of each time in which calls were under way; those taken before are left out."""
        taken, self._spans = self._spans, []
        return taken

    def __enter__(self) -> None:
        if self.active == 0:
            now = time.monotonic()
            self._begin(now)
            for role in self._roles:
                role._begin(now)
                role.active += 1
        self.active += 1

    def __exit__(self, *failure: object) -> None:
        self.active -= 1
        if self.active == 0:
            now = time.monotonic()
            self._end(now)
            for role in self._roles:
                role.active -= 1
                role._end(now)

    def _begin(self, now: float) -> None:
        if self.active == 0:
            self._since = now

    def _end(self, now: float) -> None:
        if self.active == 0:
            self.total_s += now - self._since
            joined = bool(self._spans) and self._since - self._spans[-1][1] < JOINED_S
            self._spans.append((self._spans.pop()[0] if joined else self._since, now))

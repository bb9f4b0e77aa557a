"""vLLM's own figures of an engine: summed over its steps, taken now and then, and joined over engines.

vLLM gives its scheduler's statistics to whatever stands in ``LLMEngine.logger_manager``. ``EngineStats`` stands there in place of vLLM's
log lines and Prometheus registry, whose per-request statistics cost a few percent of a step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(slots=True)
class EngineFigures:
    """Sums over an engine's steps."""

    steps: int = 0
    running: float = 0.0
    """Sum over the steps of the sequences that were being decoded."""
    waiting: float = 0.0
    """Sum over the steps of the sequences that waited for room."""
    kv_cache: float = 0.0
    """Sum over the steps of the share of the key-value cache in use."""
    kv_cache_peak: float = 0.0
    prefix_queries: int = 0
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Of these, the tokens that it held."""
    preempted: int = 0
    """Sequences that lost their place in the cache, and were computed again."""

    def add(self, other: EngineFigures) -> None:
        """Join what another engine, or the same one later, has counted."""
        peak = max(self.kv_cache_peak, other.kv_cache_peak)
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.kv_cache_peak = peak

    def metrics(self) -> dict[str, float]:
        """The metrics ``engine/...``; none without a step."""
        if not self.steps:
            return {}
        found = {
            "engine/running": self.running / self.steps,
            "engine/waiting": self.waiting / self.steps,
            "engine/kv_cache_usage": self.kv_cache / self.steps,
            "engine/kv_cache_usage_peak": self.kv_cache_peak,
            "engine/preempted": float(self.preempted),
        }
        if self.prefix_queries:
            found["engine/prefix_cache_hits"] = self.prefix_hits / self.prefix_queries
        return found


class EngineStats:
    """Takes the place of vLLM's ``StatLoggerManager``; used on the engine's thread alone."""

    def __init__(self) -> None:
        self._figures = EngineFigures()

    def record(self, scheduler_stats: Any, iteration_stats: Any = None, mm_cache_stats: Any = None, engine_idx: int | None = None) -> None:
        """One step of the engine (``vllm.v1.metrics.stats.SchedulerStats``)."""
        if scheduler_stats is None:
            return
        figures, prefix = self._figures, scheduler_stats.prefix_cache_stats
        figures.steps += 1
        figures.running += scheduler_stats.num_running_reqs
        figures.waiting += scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
        figures.kv_cache += scheduler_stats.kv_cache_usage
        figures.kv_cache_peak = max(figures.kv_cache_peak, scheduler_stats.kv_cache_usage)
        figures.prefix_queries += prefix.queries
        figures.prefix_hits += prefix.hits
        figures.preempted += prefix.preempted_requests

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """The engine falls asleep or wakes up: the run knows."""

    def record_admission_rejection(self, reason: str) -> None:
        """A request was refused: its caller knows."""

    def log_engine_initialized(self) -> None:
        """Nothing to print."""

    def log(self) -> None:
        """vLLM calls it every few seconds; there is nothing to print."""

    def take(self) -> EngineFigures:
        """What was counted since it was last taken."""
        figures, self._figures = self._figures, EngineFigures()
        return figures

    @classmethod
    def instead_of_logs(cls, engine: Any) -> EngineStats:
        """Stand in for the statistics of an ``LLMEngine`` that was made with ``disable_log_stats=False``."""
        stats = cls()
        engine.logger_manager = stats
        engine.log_stats = False  # those of single requests, which nothing reads; the scheduler's come all the same
        return stats

"""Tokens per second, and the share of what the GPUs could do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raypref.sections import PlacementConfig


@dataclass(frozen=True, slots=True)
class Speed:
    """What the learner could do at most."""

    flops_per_token: float
    """Operations that training on one token takes."""
    peak_flops: float
    """Operations per second of one GPU."""


class Throughput:
    """Tokens per second per GPU, sampled and trained, of one iteration at a time."""

    def __init__(self, placement: PlacementConfig) -> None:
        self._gpus = {"sampled": placement.rollout.engines * placement.rollout.tensor_parallel, "trained": placement.learner.ranks}
        self._tokens = dict.fromkeys(self._gpus, 0.0)
        self._processed = 0.0
        self._unused: Mapping[str, float] = {}

    def add_unused(self, counts: Mapping[str, float]) -> None:
        """Note what the iteration sampled and no step used."""
        self._unused = counts

    def add_sampled(self, metrics: Mapping[str, float]) -> None:
        """Count a group by its ``rollout/tokens``."""
        self._tokens["sampled"] += metrics.get("rollout/tokens", 0.0)

    def add_trained(self, metrics: Mapping[str, float]) -> None:
        """Count a step by its ``tokens`` and ``sequence_tokens``."""
        self._tokens["trained"] += metrics.get("tokens", 0.0)
        self._processed += metrics.get("sequence_tokens", 0.0)

    def take(self, times: Mapping[str, float], speed: Speed | None = None) -> dict[str, float]:
        """The iteration's times, and the throughput that follows from them; what did not happen is left out.

        Args:
            times: ``StageClock.take()`` at the end of the iteration.
            speed: of the learner; None: there is no ``mfu``.
        """
        seconds = {"sampled": times.get("time/rollout_s", 0.0), "trained": times.get("time/train_s", 0.0)}
        rates = {
            f"tokens_per_second_per_gpu/{name}": self._tokens[name] / (seconds[name] * gpus)
            for name, gpus in self._gpus.items()
            if self._tokens[name] and seconds[name] and gpus
        }
        if speed is not None and self._processed and seconds["trained"]:
            per_gpu = self._processed / (seconds["trained"] * self._gpus["trained"])
            rates["mfu"] = per_gpu * speed.flops_per_token / speed.peak_flops
        self._tokens = dict.fromkeys(self._gpus, 0.0)
        self._processed = 0.0
        unused, self._unused = self._unused, {}
        return {**times, **rates, **unused}

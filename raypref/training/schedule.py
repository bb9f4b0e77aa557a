"""The learning rate as a pure function of the step: warm-up, then decay."""

from __future__ import annotations

import math

from raypref.sections import ScheduleConfig


def learning_rate(step: int, horizon_steps: float, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of optimiser step ``step``.

    With w steps of warm-up (``ScheduleConfig.warmup``), the rate rises as (step + 1) / (w + 1) until step w. From there it falls to
    final_ratio * peak at the horizon, along a line or half a cosine, or stays constant. Departs from transformers' schedules in the warm-up
    alone, which is step / w there: the first step, the only one of an iteration of one step, would have a rate of 0.

    Args:
        step: from 0.
        horizon_steps: length of the schedule, above 0; later steps keep its final rate.
        peak: the highest rate.
        schedule: kind and warm-up.
    """
    warmup = schedule.warmup(horizon_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule.type == "constant":
        return peak
    left = horizon_steps - warmup
    progress = min((step - warmup) / left, 1.0) if left > 0 else 1.0
    above = peak * (1.0 - progress) if schedule.type == "linear" else peak * 0.5 * (1.0 + math.cos(math.pi * progress))
    return above if not schedule.final_ratio else schedule.final_ratio * peak + (1.0 - schedule.final_ratio) * above


def horizon_steps(steps: int, iterations: int, schedule: ScheduleConfig) -> float:
    """Length of the schedule in steps: ``horizon_iterations`` times the steps of its span.

    Args:
        steps: optimiser steps of one iteration.
        iterations: iterations of the run.
        schedule: with ``span: iteration`` it restarts with each iteration; with ``span: run`` it covers the whole run.
    """
    return schedule.horizon_iterations * steps * (iterations if schedule.span == "run" else 1)

"""The section on the plan: what was expected before the start (``plan.json``) beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raypref.output.terminal import counted
from raypref.report.parts import Block, Note, Section, Table, shown
from raypref.report.run_directory import RunDirectory

ROLES = ("learner", "rollout", "reference", "oracle")
_GIB = 2**30


def plan(run: RunDirectory) -> Section:
    """Memory by GPU, role and phase, the peak of each role beside the measured one, and the seconds of an iteration likewise."""
    if run.plan is None:
        note = Note("The run has no plan.json; raypref plan says what a config will need.")
        return Section("plan", "Plan", blocks=[note, *_peaks(run, {})])
    rows = [[name, text] for name, text in _leaves({key: value for key, value in run.plan.items() if key != "first_prompt"})]
    everything = Table("Everything that was planned", ("what", "value"), rows, folded=True, texts=True)
    try:
        planned = peaks_by_role(run.plan)
        blocks: list[Block] = [*_peaks(run, planned), *_memory(run.plan), *_seconds(run, run.plan), everything]
    except (KeyError, TypeError, AttributeError, ValueError):  # of another version
        blocks = [Note("plan.json has another form than this version writes.", "warning"), *_peaks(run, {}), everything]
    fits = run.plan.get("fits")
    intro = "What the run was expected to need, before it started." + ("" if fits is None else " It fits." if fits else " It does not fit.")
    return Section("plan", "Plan", intro, blocks)


def peaks_by_role(plan: Mapping[str, Any]) -> dict[str, float]:
    """Role -> bytes that the plan gives one of its processes at most, over the phases."""
    found: dict[str, float] = {}
    for use in plan["gpus"]:
        for role in dict.fromkeys(use["roles"]):
            sums = [
                sum(size for name, size in parts.items() if name.startswith(f"{role} ")) / use["roles"].count(role)
                for parts in use["phases"].values()
            ]
            found[role] = max(found.get(role, 0.0), *sums)
    return found


def _peaks(run: RunDirectory, planned: Mapping[str, float]) -> Iterator[Table]:
    """Planned and measured peaks of one process of each role."""
    measured = {(memory, role): run.series(f"memory_peak/{memory}/{role}") for memory in ("gpu", "host") for role in ROLES}
    on_gpus = any(measured["gpu", role] for role in ROLES)
    rows = [
        [
            role,
            f"{planned[role] / _GIB:.2f}" if role in planned else "–",
            *([_largest(measured["gpu", role].values)] if on_gpus else []),
            _largest(measured["host", role].values),
        ]
        for role in ROLES
        if measured["gpu", role] or measured["host", role]
    ]
    if not rows:
        return
    about = "The largest process of each role. Host memory is the whole process, its libraries among it, which the plan does not count."
    if on_gpus:
        headings: tuple[str, ...] = ("role", "planned, GPU", "measured, GPU", "measured, host")
        about += " On a GPU the tensors are measured; the plan also counts the CUDA context and compiled graphs."
    else:
        headings = ("role", "planned tensors", "measured, host")
    yield Table("Peaks of memory by role (GiB)", headings, rows, about)


def _largest(values: tuple[float, ...]) -> str:
    return f"{max(values):.2f}" if values else "–"


def _memory(plan: Mapping[str, Any]) -> Iterator[Table]:
    """What equal GPUs hold by phase."""
    capacity = plan["gpu_bytes"]
    for use in plan["gpus"]:
        phases = {phase: parts for phase, parts in use["phases"].items() if parts}
        names = list(dict.fromkeys(name for parts in phases.values() for name in parts))
        rows = [[name, *(_gib(parts[name]) if name in parts else "" for parts in phases.values())] for name in names]
        limit = f" of {_gib(capacity)}" if capacity else ""
        peak = f"at most {_gib(use['peak_bytes'])}{limit}, {use['peak_phase']}"
        title = f"Memory of {counted(use['count'], 'GPU')} ({' + '.join(dict.fromkeys(use['roles']))}): {peak}"
        if rows:
            yield Table(title, ("GiB by phase", *phases), rows)


def _seconds(run: RunDirectory, plan: Mapping[str, Any]) -> Iterator[Table]:
    """Seconds of a stage of one iteration, beside the mean of those measured."""
    if plan["seconds"] is None:
        return
    stages = {**plan["seconds"]["stages"], "iteration": plan["seconds"]["iteration_s"]}
    measured = {name: run.series(f"time/{name}_s") for name in stages}
    rows = [[name, f"{float(value):.1f}", shown(measured[name].mean)] for name, value in stages.items() if measured[name]]
    caption = "Planned times follow from stated throughputs (raypref plan); a stage's time is what it takes alone."
    yield Table("Seconds of an iteration", ("stage", "planned", "measured"), rows, caption)


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f} GiB"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{place}]")
    elif value is not None:
        yield path, shown(value, 4) if isinstance(value, float) else str(value)

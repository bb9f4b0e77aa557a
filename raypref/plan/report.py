"""A plan as text and tables that lose nothing at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raypref.output.terminal import counted, visible
from raypref.plan.fit import GpuUse
from raypref.plan.hardware import GIB
from raypref.plan.memory import PHASES
from raypref.plan.run_plan import RunPlan

if TYPE_CHECKING:
    from rich.table import Table

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """A table between lines of text."""

    title: str
    table: Table
    notes: tuple[str, ...] = ()


def verdict(plan: RunPlan) -> str:
    """Whether it fits, and by how much, in one sentence."""
    limit = plan.setting.gpu_bytes
    if plan.placed.cannot is not None:
        return f"does not fit: {plan.placed.cannot}"
    if limit is None:
        return "on CPUs" if plan.setting.job.device == "cpu" else "whether it fits cannot be told: the memory of the GPUs is not known"
    worst = max(plan.gpus, key=lambda use: use.peak_bytes)
    left = limit - worst.peak_bytes
    where = f"a GPU with {_names(worst)} needs {worst.peak_bytes / GIB:.1f} of {limit / GIB:.1f} GiB in phase {worst.peak_phase}"
    if left < 0:
        return f"does not fit: {where}, {-left / GIB:.1f} too much"
    if not plan.fits:
        return "does not fit: rollout.gpu_memory_utilization leaves nothing for an engine's key-value cache"
    return f"fits: {where}, {left / GIB:.1f} ({left / limit:.0%}) are left"


def _names(use: GpuUse) -> str:
    return " + ".join(dict.fromkeys(use.roles))


def parts(plan: RunPlan) -> Iterator[Part]:
    """Every table, in order."""
    for use in plan.gpus:
        yield _memory(plan, use)
    yield _placement(plan)
    if plan.supply is not None:
        yield _data(plan)
    if plan.duration is not None:
        yield _time(plan)


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    return table


def _memory(plan: RunPlan, use: GpuUse) -> Part:
    """What one kind of GPU holds, by phase; on a CPU one process."""
    peak, limit = use.peak_bytes, plan.setting.gpu_bytes
    unit, size_of = ("GiB", GIB) if peak >= GIB or limit else ("MiB", _MIB)

    def shown(size: int) -> str:
        return f"{size / size_of:.2f}" if size else "-"

    table = _table("what", *PHASES)
    several = len(set(use.roles)) > 1
    for item in dict.fromkeys(item for phase in PHASES for item in use.phases[phase]):
        figures = [use.phases[phase].get(item, 0) for phase in PHASES]
        table.add_row(item if several else item.partition(" ")[2], *map(shown, figures))
    sums = [sum(use.phases[phase].values()) for phase in PHASES]
    table.add_section()
    table.add_row("sum", *map(shown, sums))
    if limit is not None:
        table.add_row("left", *(shown(limit - total) for total in sums))
    host = dict.fromkeys(item for phase in PHASES for item in use.host[phase])
    if host:
        table.add_section()
    for item in host:
        table.add_row(f"host memory: {item}", *(shown(use.host[phase].get(item, 0)) for phase in PHASES))
    where = "process" if plan.setting.job.device == "cpu" else "GPU"
    return Part(f"{unit} of a {where} with {_names(use)} ({use.count} of them)", table)


def _placement(plan: RunPlan) -> Part:
    table = _table("actors", "node", "GPUs")
    for index, spot in enumerate(plan.placed.places):
        names = ", ".join(actor.name for actor in plan.placed.plan.actors if actor.bundle == index)
        gpus = "no room" if spot is None else ", ".join(map(str, spot.gpus)) or "-"
        table.add_row(names, "-" if spot is None else str(spot.node), gpus)
    nodes = f"{counted(plan.setting.cluster.nodes, 'node')} of {counted(plan.placed.gpus_per_node, 'GPU')}"
    counted_only = " (counted, not there)" if plan.setting.job.device == "cpu" else ""
    return Part(f"where the actors land: {nodes}{counted_only}", table)


def _data(plan: RunPlan) -> Part:
    """Steps and examples by iteration."""
    supply = plan.supply
    assert supply is not None
    item, share, count = "prompts" if supply.sampled else "given examples", supply.share, supply.iterations
    table = _table("iteration", item, "examples at most", "steps")
    table.add_row("1" if count == 1 else f"each of 1 to {count}", *map(str, (share.items, share.examples, share.steps)))
    table.add_section()
    table.add_row("all", str(supply.used), str(count * share.examples), str(supply.steps))
    left_out = ", ".join(f"{count} {reason}" for reason, count in supply.left_out.items() if count) or "none"
    held = supply.held_out or supply.held_out_examples
    counts = f"of {supply.items} {item} {supply.used} are used, {supply.unused} are not; {held} held out; left out: {left_out}"
    lengths = f"prompts have {supply.prompts.mean:.0f} tokens on average, at most {supply.prompts.longest}"
    return Part("data by iteration", table, (counts, lengths))


def _time(plan: RunPlan) -> Part:
    """Seconds of an iteration by stage."""
    found = plan.duration
    assert found is not None
    waits, table = found.waits(), _table("stage", "seconds", "waits")
    for stage, seconds in found.stages.items():
        table.add_row(stage, f"{seconds:,.1f}" if seconds else "-", f"{waits[stage]:.0%}" if stage in waits else "")
    rough = "; times on CPUs are rough" if plan.setting.job.device == "cpu" else ""
    sampled = f"{found.sampled_tokens_per_s:,.0f} tokens/s per engine, " if found.sampled_tokens_per_s else ""
    notes = (
        f"all iterations: {_duration(found.run_s)}, without the start",
        f"assumed: responses of {found.response_tokens:.0f} tokens, {sampled}{found.trained_tokens_per_s:,.0f} tokens/s per rank{rough}",
        *(f"not counted: {note}" for note in found.not_counted),
    )
    return Part(f"an iteration takes {_duration(found.iteration_s)}; what the rest waits for: {found.bottleneck}", table, notes)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def micro_batch(plan: RunPlan) -> str | None:
    """The largest that fits, beside the one that is set; None where the memory of the GPUs is not known."""
    if plan.setting.gpu_bytes is None:
        return None
    now, longest = plan.setting.config.learner.micro_batch_tokens, plan.setting.example_tokens or 0
    note = f" (but an example may have {longest} tokens, and is a micro-batch by itself)" if longest > now else ""
    most = plan.largest_micro_batch
    return f"learner.micro_batch_tokens: {now}{note}; " + (
        "no size fits" if most is None else f"the largest that fits, with 5% left: {most}"
    )


def changes(plan: RunPlan) -> list[str]:
    """What to change if it does not fit."""
    if plan.fits is not False:
        return []
    if not plan.remedies:
        return ["no change that was tried makes it fit: use more GPUs, larger ones, or a smaller model"]
    lines = ["each of these makes it fit:"]
    for remedy in plan.remedies:
        lines += [f"  {' '.join(remedy.overrides)}", f"      {'; '.join(remedy.costs)}"]
    return [visible(line) for line in lines]

"""How a global batch is divided into micro-batches on ranks. Every rank computes the same plan from the whole batch, without communication.

B examples of the global batch. A unit is a list of examples that go into the same micro-batch.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from raypref import types
from raypref.training.packing import Packing, rows_of


@dataclass(frozen=True, slots=True)
class Size:
    """Cost of an indivisible unit: ``rows`` rows, each padded to ``longest``."""

    rows: int
    longest: int
    """Positions of the longest row."""

    @classmethod
    def of(cls, sequences: Sequence[types.TokenSequence], packing: Packing) -> Size:
        """With varlen packing there is no padding: each position counts as a row of length 1."""
        rows = rows_of(sequences, packing)
        if packing.kind == "varlen":
            return cls(sum(row.tokens for row in rows), 1)
        return cls(len(rows), max(row.tokens for row in rows))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass of one rank."""

    examples: tuple[int, ...]
    """Indices into the global batch."""
    counted: bool
    """False for a filler: a repeat with weight 0, so that all ranks make the same number of passes."""
    padded_tokens: int
    """Tokens of the forward pass, padding included."""


Plan = tuple[tuple[MicroBatch, ...], ...]
"""Rank -> its micro-batches; every rank has the same number of them."""


def plan_micro_batches(items: Sequence[Sequence[types.TokenSequence]], ranks: int, micro_batch_tokens: int, packing: Packing) -> Plan:
    """Distribute examples, given as their sequences. Related examples form a unit, so that what they share is computed once.

    If all related examples stay together, there may be too few units to give every rank the same work, or any work: a filler costs a rank
    as much as computing something twice. Therefore plans with smaller units are made as well, and the one with the shortest critical path
    is returned.

    Args:
        items: (B,) the sequences of each example; at least one example, each with at least one sequence.
        ranks: number of learner ranks.
        micro_batch_tokens: budget of one pass, padding included.
        packing: how the model's inputs are laid out.
    """

    @functools.cache
    def size(*unit: int) -> Size:
        return Size.of([sequence for k in unit for sequence in items[k]], packing)

    def cost(unit: Sequence[int]) -> int:
        return _cost([0], [size(*unit)])

    def fits(unit: Sequence[int]) -> bool:
        return len(unit) == 1 or cost(unit) <= micro_batch_tokens

    def planned(units: Sequence[Sequence[int]]) -> Plan:
        def of_examples(micro: MicroBatch) -> MicroBatch:
            examples = tuple(k for unit in micro.examples for k in units[unit])
            return MicroBatch(examples, micro.counted, cost(examples))

        budget = micro_batch_tokens
        while True:
            by_unit = distribute([size(*unit) for unit in units], ranks, budget)
            plan = tuple(tuple(map(of_examples, of_rank)) for of_rank in by_unit)
            if all(fits(micro.examples) for of_rank in plan for micro in of_rank):
                return plan
            budget = budget * 9 // 10  # units with the same prompt share rows anew when they meet, which can cost more than their sum

    def at_least(count: int) -> list[list[int]]:
        return _halve_until(related, cost, lambda units: len(units) >= count and all(map(fits, units)))

    related = _related_units(items, packing, fits)
    counts = sorted({max(len(related), min(count, len(items))) for count in (ranks, 2 * ranks, 4 * ranks, len(items))})
    return min((planned(at_least(count)) for count in counts), key=critical_path_tokens)


def critical_path_tokens(plan: Plan) -> int:
    """Padded tokens on the critical path: the sum over rounds of the costliest micro-batch, since ranks wait for each other in a round."""
    return sum(max(micro.padded_tokens for micro in of_round) for of_round in zip(*plan, strict=True))


def _related_units(items: Sequence[Sequence[types.TokenSequence]], packing: Packing, fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Each example joins the first unit that it fits into: of the same prompt under prefix sharing, else with a response in common."""
    responses = [{sequence.response_ids.tobytes() for sequence in item} for item in items]
    units: dict[bytes, list[list[int]]] = {}
    for k, item in enumerate(items):
        same_prompt = units.setdefault(item[0].prompt_ids.tobytes(), [])
        for unit in same_prompt:
            related = packing.kind == "prefix_sharing" or any(responses[k] & responses[other] for other in unit)
            if related and fits([*unit, k]):
                unit.append(k)
                break
        else:
            same_prompt.append([k])
    return [unit for same_prompt in units.values() for unit in same_prompt]


def distribute(sizes: Sequence[Size], ranks: int, micro_batch_tokens: int) -> Plan:
    """Distribute units by their sizes.

    Units are sorted by length and cut into micro-batches of at most ``micro_batch_tokens`` padded tokens (a larger unit is a micro-batch
    by itself), whose costs are then made as even as their number allows. Every rank has the same number of micro-batches, since under
    ZeRO-3 each layer of each pass is a collective: costly ones are halved until the count is a multiple of the ranks; if there are too few
    units for that, fillers of weight 0 are added. Micro-batches of similar cost run in the same round, the costlier ones on the ranks with
    less work so far.

    Args:
        sizes: (B,) at least one.
        ranks: number of learner ranks.
        micro_batch_tokens: budget of one pass, padding included.

    Returns:
        The plan, which depends on the arguments alone; ``examples`` are indices into ``sizes``.
    """
    order = sorted(range(len(sizes)), key=lambda k: (-sizes[k].longest, -sizes[k].rows, k))
    cut = _cut_evenly(order, sizes, ranks, micro_batch_tokens)
    groups = _halve_until(cut, lambda group: _cost(group, sizes), lambda groups: len(groups) % ranks == 0)
    groups.sort(key=lambda group: (-_cost(group, sizes), group))
    micro = [MicroBatch(tuple(group), True, _cost(group, sizes)) for group in groups]
    cheapest = min(range(len(sizes)), key=lambda k: (_cost([k], sizes), k))
    filler = MicroBatch((cheapest,), False, _cost([cheapest], sizes))
    micro.extend([filler] * (-len(micro) % ranks))
    return _assign(micro, ranks)


def _cut_evenly(order: Sequence[int], sizes: Sequence[Size], ranks: int, budget: int) -> list[list[int]]:
    """The cut whose costliest group is cheapest, with as many groups as the budget needs, rounded up to a multiple of the ranks."""
    needed = len(_cut(order, sizes, budget))
    allowed = min(needed + -needed % ranks, len(sizes))
    least = bisect.bisect_left(range(budget), True, key=lambda tokens: len(_cut(order, sizes, tokens)) <= allowed)
    return _cut(order, sizes, least)


def _cut(order: Sequence[int], sizes: Sequence[Size], budget: int) -> list[list[int]]:
    """Consecutive runs of ``order`` (longest first) that stay within the budget or hold one example."""
    groups: list[list[int]] = []
    rows = longest = 0
    for k in order:
        rows += sizes[k].rows
        if groups and rows * longest <= budget:
            groups[-1].append(k)
        else:
            groups.append([k])
            rows, longest = sizes[k].rows, sizes[k].longest
    return groups


def _halve_until(groups: list[list[int]], cost: Callable[[list[int]], int], enough: Callable[[list[list[int]]], bool]) -> list[list[int]]:
    """Halve the costliest group until ``enough`` is true, or until each group holds one example."""
    groups = list(groups)
    while not enough(groups):
        divisible = [k for k, group in enumerate(groups) if len(group) > 1]
        if not divisible:
            break
        largest = max(divisible, key=lambda k: (cost(groups[k]), -k))
        group = groups.pop(largest)
        groups += [group[: len(group) // 2], group[len(group) // 2 :]]
    return groups


def _assign(micro: Sequence[MicroBatch], ranks: int) -> Plan:
    """Assign rounds of ``ranks`` micro-batches: within a round, the costliest goes to the rank with the least work so far."""
    plans: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for start in range(0, len(micro), ranks):
        by_load = sorted(range(ranks), key=lambda rank: (load[rank], rank))
        for rank, item in zip(by_load, micro[start : start + ranks], strict=True):
            plans[rank].append(item)
            load[rank] += item.padded_tokens
    return tuple(tuple(of_rank) for of_rank in plans)


def _cost(group: Iterable[int], sizes: Sequence[Size]) -> int:
    """Padded tokens: every row is padded to the longest."""
    group = list(group)
    return sum(sizes[k].rows for k in group) * max(sizes[k].longest for k in group)

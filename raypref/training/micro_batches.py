"""A global batch as micro-batches on ranks: planned by every rank from the whole batch, alike, without talking.

Shapes: B examples of the global batch, S sequences of an example, M examples of a micro-batch, N their sequences, R tokens of the longest
response.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raypref import types
from raypref.losses.base import Frozen, LossBatch
from raypref.training.packing import Packing, rows_of


@dataclass(frozen=True, slots=True)
class Size:
    """What must go into the same micro-batch costs: its rows are as long as the longest row there."""

    rows: int
    longest: int
    """Positions of the longest row."""

    @classmethod
    def of(cls, sequences: Sequence[types.TokenSequence], packing: Packing) -> Size:
        """Without padding there is nothing to be as long as: as many rows of one position as there are positions."""
        rows = rows_of(sequences, packing)
        if packing.kind == "joined":
            return cls(sum(row.tokens for row in rows), 1)
        return cls(len(rows), max(row.tokens for row in rows))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass of one rank."""

    examples: tuple[int, ...]
    """Indices into the global batch."""
    counts: bool
    """False for a repeat that only keeps the rank in step with the others: its weight is 0."""
    padded_tokens: int


Plan = tuple[tuple[MicroBatch, ...], ...]
"""Rank -> its micro-batches; every rank has the same number of them."""


def share(items: Sequence[Sequence[types.TokenSequence]], ranks: int, micro_batch_tokens: int, packing: Packing) -> Plan:
    """``plan`` for examples, given as their sequences: those with something in common go together, which computes it once.

    Kept together as far as the budget allows they may be too few for the ranks to have like work, or any (a repeat of weight 0 costs a
    rank as much as computing twice), so plans with smaller units compete: the one with the shortest critical path is taken.

    Args:
        items: (B,) at least one; each has at least one sequence.
        packing: how the model is given them.
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
            return MicroBatch(examples, micro.counts, cost(examples))

        budget = micro_batch_tokens
        while True:
            found = tuple(tuple(map(of_examples, hand)) for hand in plan([size(*unit) for unit in units], ranks, budget))
            if all(fits(micro.examples) for hand in found for micro in hand):
                return found
            budget = budget * 9 // 10  # units of one prompt that meet are laid out anew

    def at_least(count: int) -> list[list[int]]:
        return _halved(together, cost, lambda units: len(units) >= count and all(map(fits, units)))

    together = _united(items, packing, fits)
    counts = sorted({max(len(together), min(count, len(items))) for count in (ranks, 2 * ranks, 4 * ranks, len(items))})
    return min((planned(at_least(count)) for count in counts), key=path_tokens)


def path_tokens(found: Plan) -> int:
    """Padded tokens on the critical path: of each round of passes, which the ranks take together, the costliest."""
    return sum(max(micro.padded_tokens for micro in turn) for turn in zip(*found, strict=True))


def _united(items: Sequence[Sequence[types.TokenSequence]], packing: Packing, fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Each example with the first others that it fits with: of the same prompt in shared rows, else with a sequence in common."""
    responses = [{sequence.response_ids.tobytes() for sequence in item} for item in items]
    units: dict[bytes, list[list[int]]] = {}
    for k, item in enumerate(items):
        same_prompt = units.setdefault(item[0].prompt_ids.tobytes(), [])
        for unit in same_prompt:
            related = packing.kind == "shared" or any(responses[k] & responses[other] for other in unit)
            if related and fits([*unit, k]):
                unit.append(k)
                break
        else:
            same_prompt.append([k])
    return [unit for same_prompt in units.values() for unit in same_prompt]


def plan(sizes: Sequence[Size], ranks: int, micro_batch_tokens: int) -> Plan:
    """Distribute a global batch.

    Examples are sorted by length and cut into micro-batches of at most ``micro_batch_tokens`` padded tokens (an example above that is
    one by itself), which are then made as even as their number allows. There are as many on every rank, since under ZeRO-3 each layer
    of each pass is a collective: costly ones are halved until the count is a multiple of the ranks, and where examples run out, repeats
    of weight 0 fill up. Micro-batches of like cost run at the same time, the costlier of them on the rank that has had less so far.

    Args:
        sizes: (B,) at least one.
        ranks: how many learner ranks there are.
        micro_batch_tokens: budget of one pass, padding included.

    Returns:
        The plan, a function of the arguments alone.
    """
    order = sorted(range(len(sizes)), key=lambda k: (-sizes[k].longest, -sizes[k].rows, k))
    cut = _cut_evenly(order, sizes, ranks, micro_batch_tokens)
    groups = _halved(cut, lambda group: _cost(group, sizes), lambda groups: len(groups) % ranks == 0)
    groups.sort(key=lambda group: (-_cost(group, sizes), group))
    micro = [MicroBatch(tuple(group), True, _cost(group, sizes)) for group in groups]
    cheapest = min(range(len(sizes)), key=lambda k: (_cost([k], sizes), k))
    filler = MicroBatch((cheapest,), False, _cost([cheapest], sizes))
    micro.extend([filler] * (-len(micro) % ranks))
    return _assign(micro, ranks)


def _cut_evenly(order: Sequence[int], sizes: Sequence[Size], ranks: int, budget: int) -> list[list[int]]:
    """The cut whose costliest group is cheapest, among those of as many groups as the budget asks for, up to a multiple of the ranks."""
    needed = len(_cut(order, sizes, budget))
    allowed = min(needed + -needed % ranks, len(sizes))
    least = bisect.bisect_left(range(budget), True, key=lambda tokens: len(_cut(order, sizes, tokens)) <= allowed)
    return _cut(order, sizes, least)


def _cut(order: Sequence[int], sizes: Sequence[Size], budget: int) -> list[list[int]]:
    """Consecutive runs of ``order`` (longest first) that stay within the budget, or hold one example."""
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


def _halved(groups: list[list[int]], cost: Callable[[list[int]], int], enough: Callable[[list[list[int]]], bool]) -> list[list[int]]:
    """Halve the costliest groups until it is enough, or each holds one example."""
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
    """Deal rounds of ``ranks`` micro-batches: within a round, the costliest to the rank with the least so far."""
    hands: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for start in range(0, len(micro), ranks):
        by_load = sorted(range(ranks), key=lambda rank: (load[rank], rank))
        for rank, item in zip(by_load, micro[start : start + ranks], strict=True):
            hands[rank].append(item)
            load[rank] += item.padded_tokens
    return tuple(tuple(hand) for hand in hands)


def _cost(group: Iterable[int], sizes: Sequence[Size]) -> int:
    """Padded tokens: every row is as long as the longest."""
    group = list(group)
    return sum(sizes[k].rows for k in group) * max(sizes[k].longest for k in group)


def sequences(examples: Iterable[types.Example]) -> list[types.TokenSequence]:
    """(N,) the examples' sequences, one example's after the other's."""
    pairs = [pair for example in examples for pair in zip(example.prompt_ids, example.response_ids, strict=True)]
    return [types.TokenSequence(prompt, response) for prompt, response in pairs]


def response_tokens(examples: Iterable[types.Example]) -> int:
    """How many response tokens the examples have, over all their sequences."""
    return sum(len(response) for example in examples for response in example.response_ids)


def collate(
    examples: Sequence[types.Example],
    logps: Tensor,
    needs: frozenset[Frozen],
    *,
    statistics: Mapping[str, Tensor] | None = None,
    token_kl: Tensor | None = None,
) -> LossBatch:
    """What a loss is computed from, in float64: sums over hundreds of tokens are subtracted from each other.

    Args:
        examples: M examples.
        logps: (N, R) float32 per-token log-probs of ``sequences(examples)``, 0 where there is no token.
        needs: the frozen log-probs that the loss reads.
        statistics: name -> () mean over the global batch.
        token_kl: (N, R) float32 per-token KL(pi_theta || pi_ref), 0 where there is no token.

    Raises:
        ValueError: an example comes without log-probs that the loss needs.
    """
    widths = np.array([len(example.response_ids) for example in examples])
    present = np.arange(widths.max()) < widths[:, None]
    mask = torch.from_numpy(present).to(logps.device)

    def spread(values: Sequence[np.ndarray]) -> Tensor:
        table = np.zeros(present.shape)
        table[present] = np.concatenate(values)
        return torch.from_numpy(table).to(logps.device)

    def frozen(slot: Frozen) -> Tensor | None:
        return spread([_frozen_logps(example, slot) for example in examples]) if slot in needs else None

    def summed(tokens: Tensor) -> Tensor:
        rows = tokens.double().sum(-1)
        return torch.zeros(mask.shape, dtype=rows.dtype, device=logps.device).masked_scatter(mask, rows)

    return LossBatch(
        logps=summed(logps),
        reference_logps=frozen("reference"),
        previous_logps=frozen("previous"),
        targets=spread([example.targets for example in examples]),
        lengths=spread([np.array([len(response) for response in example.response_ids]) for example in examples]),
        mask=mask,
        statistics=statistics or {},
        token_kl=None if token_kl is None else summed(token_kl),
    )


def _frozen_logps(example: types.Example, slot: Frozen) -> np.ndarray:
    logps = example.reference_logps if slot == "reference" else example.previous_logps
    if logps is None:
        raise ValueError(f"example of prompt {example.prompt_id!r}: the loss needs {slot}_logps, and the reference actors gave none")
    return logps

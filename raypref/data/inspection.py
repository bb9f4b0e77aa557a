"""What a run's data looks like to the policy: the first records token by token, lengths, duplicates, doubled control tokens.

Everything is computed from the prompts and examples that a run would train on (``raypref.loop.loading``), not from the files again.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.identity import turns_of
from raypref.data.policy_facts import PolicyFacts
from raypref.losses.base import Loss
from raypref.types import Example, Prompt, RunData

Tokens = NDArray[np.int32]

LEFT_OUT = {
    "overlong": "longer than the context leaves room for (data.overlong=drop)",
    "skipped": "records that cannot be used (data.on_bad_record=skip)",
    "unpicked": "records of which the selection picks nothing",
    "identical": "comparisons of an answer with itself (data.identical=drop)",
}
"""Key of ``RunData.left_out`` -> what it counts."""
_QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Parts:
    """A prompt and a response as the policy reads them."""

    role: str
    """``chosen``, ``rejected``, ``response``, ..."""
    prompt: Tokens
    """(T,) without loss."""
    response: Tokens
    """(T',) with loss on each token; empty where the policy will sample it."""


def sequences_of(item: Prompt | Example, loss: Loss) -> list[Parts]:
    """The sequences of a prompt (one, without a response) or of an example, with their roles."""
    if isinstance(item, Prompt):
        return [Parts("prompt", item.token_ids, np.zeros(0, np.int32))]
    roles = roles_of(len(item.response_ids), loss)
    return [Parts(*parts) for parts in zip(roles, item.prompt_ids, item.response_ids, strict=True)]


def roles_of(sequences: int, loss: Loss) -> list[str]:
    """What the sequences of an example are, in their order (``raypref.data.examples``)."""
    picked = sequences // 3 if loss.revisions else sequences // 2 if loss.mismatched else sequences
    roles = {1: ["response"], 2: ["chosen", "rejected"]}.get(picked, [f"response {k + 1}" for k in range(picked)])
    if loss.revisions:
        return roles + [f"{role} behind {earlier}" for earlier in roles for role in roles]
    return roles + [f"mismatched {role}" for role in roles] if loss.mismatched else roles


def records(data: RunData, loss: Loss, facts: PolicyFacts, count: int, most_tokens: int, width: int) -> Iterator[str]:
    """Lines: the first records token by token.

    Args:
        data: of the run, in the order in which it takes it.
        loss: says what the sequences of an example are.
        facts: the policy's tokenizer.
        count: number of records.
        most_tokens: of each prompt and each response; the middle of a longer one is left out.
        width: of the lines.
    """
    first: list[Prompt | Example] = [*data.items[:count]]
    for number, item in enumerate(first):
        name = item.id if isinstance(item, Prompt) else item.prompt_id
        yield f"record {number} of the run, id {name!r}"
        yield from tokens_of(item, loss, facts, most_tokens, width)
        yield ""


def tokens_of(item: Prompt | Example, loss: Loss, facts: PolicyFacts, most_tokens: int, width: int) -> Iterator[str]:
    """Lines: a prompt, or the sequences of an example, token by token with the loss mask. Arguments as those of ``records``."""
    shown: Tokens | None = None
    for sequence in sequences_of(item, loss):
        if shown is None or not np.array_equal(sequence.prompt, shown):
            yield f"  prompt, {len(sequence.prompt)} tokens, no loss (mask 0):"
            yield from _spelt(sequence.prompt, facts, most_tokens, width)
            shown = sequence.prompt
        if sequence.role == "prompt":
            yield "  response: sampled by the policy, loss on each of its tokens (mask 1)"
            continue
        yield f"  {sequence.role}, {len(sequence.response)} tokens, loss on each (mask 1), from position {len(sequence.prompt)}:"
        yield from _spelt(sequence.response, facts, most_tokens, width)


def _spelt(ids: Tokens, facts: PolicyFacts, most: int, width: int) -> Iterator[str]:
    """Ids with their texts, without spaces inside, so that lines break between tokens."""
    left_out = max(len(ids) - most, 0)
    first = list(ids if not left_out else ids[: most // 2])
    words = [_token(int(number), facts.tokenizer) for number in first]
    if left_out:
        words += [f"({left_out}␣not␣shown)", *(_token(int(number), facts.tokenizer) for number in ids[len(ids) - most + most // 2 :])]
    lines = textwrap.wrap(" ".join(words), width - 4, break_long_words=False, break_on_hyphens=False)
    yield from (f"    {line}" for line in lines)


def _token(number: int, tokenizer: Any) -> str:
    """``523'User'``; a control token, which is one id and no text that spells it out, as ``2<|im_end|>``."""
    added = tokenizer.added_tokens_decoder.get(number)
    if added is not None and added.special:
        return f"{number}{added.content}"
    text = tokenizer.decode([number], skip_special_tokens=False)
    if "\ufffd" in text:  # a part of a character
        text = str(tokenizer.convert_ids_to_tokens(number))
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r").replace(" ", "␣")
    return f"{number}'{escaped}'"


def lengths(data: RunData, loss: Loss, context_tokens: int) -> list[tuple[str, ...]]:
    """A table of lengths in tokens: the first row names the columns."""
    by_role: dict[str, list[int]] = {}
    for item in data.items:
        sequences = sequences_of(item, loss)
        by_role.setdefault("prompt", []).append(len(sequences[0].prompt))
        for sequence in sequences:
            if sequence.role != "prompt":
                role = "response" if sequence.role.startswith("response") else sequence.role
                by_role.setdefault(role, []).append(len(sequence.response))
    if data.examples:
        by_role["prompt + response"] = [len(part.prompt) + len(part.response) for item in data.items for part in sequences_of(item, loss)]
    heading = ("tokens", "number", "mean", *("least" if q == 0 else "most" if q == 1 else f"{q:.0%}" for q in _QUANTILES))
    rows = [
        (role, str(len(counts)), f"{np.mean(counts):.1f}", *(f"{value:.0f}" for value in np.quantile(counts, _QUANTILES, method="higher")))
        for role, counts in by_role.items()
    ]
    return [heading, *rows, ("context", "", "", "", "", "", "", str(context_tokens))]


def duplicates(data: RunData, loss: Loss) -> dict[str, int]:
    """How many items repeat an earlier one, by what is repeated."""
    if not data.examples:
        return {"prompts that occur before": _repeated(Counter(map(turns_of, data.prompts)))}
    keys = [(example.prompt_ids[0].tobytes(), *(ids.tobytes() for ids in example.response_ids)) for example in data.examples]
    counts = {
        "prompts that occur before": _repeated(Counter(key[0] for key in keys)),
        "examples that occur before, prompt and answers": _repeated(Counter(keys)),
    }
    if "chosen" in roles_of(len(data.examples[0].response_ids), loss):
        compared = [key[:3] for key in keys if len(key) > 2]
        known = set(compared)
        counts["pairs that say the opposite of another pair"] = sum(
            chosen != rejected and (prompt, rejected, chosen) in known for prompt, chosen, rejected in compared
        )
        counts["pairs whose chosen and rejected answers are the same tokens"] = sum(chosen == rejected for _, chosen, rejected in compared)
    return counts


def _repeated(counter: Mapping[Any, int]) -> int:
    return sum(count - 1 for count in counter.values())


def control_tokens(data: RunData, loss: Loss, facts: PolicyFacts) -> dict[str, int]:
    """How many sequences begin or end with a control token twice, or do not end at all."""
    begin, ends = facts.tokenizer.bos_token_id, facts.end_token_ids
    counts = {"sequences that begin with BOS twice": 0, "responses that end with two end tokens": 0, "responses without an end token": 0}
    for item in data.items:
        for sequence in sequences_of(item, loss):
            counts["sequences that begin with BOS twice"] += begin is not None and sequence.prompt[:2].tolist() == [begin, begin]
            if sequence.role != "prompt":
                ended = np.isin(sequence.response[-2:], ends).tolist()
                counts["responses that end with two end tokens"] += ended == [True, True]
                counts["responses without an end token"] += ended[-1:] != [True]
    return counts if data.examples else {"sequences that begin with BOS twice": counts["sequences that begin with BOS twice"]}


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines with aligned columns; the first column is flush left."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        yield (
            "  "
            + "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )

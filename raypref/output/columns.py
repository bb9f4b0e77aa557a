"""The columns of the files with responses that a run writes: ``rollouts/*.parquet`` and ``evaluation/*.jsonl``.

K responses of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """One column."""

    name: str
    type: str
    definition: str


ROLLOUT_COLUMNS = (
    ColumnInfo("iteration", "int", "Number of the iteration, from 1; the file name holds it too."),
    ColumnInfo("prompt_index", "int", "Position of the prompt in the run's order, from 0; batches fill in this order."),
    ColumnInfo("prompt_id", "str", "The data's name for the prompt, or the number of its record, from 0, where it has none."),
    ColumnInfo("prompt", "str", "The bare question, as the oracle sees it; of a chat with several turns, all of them as one text."),
    ColumnInfo("chat", "list[{role, content}]", "The turns of a prompt that is a chat, as the oracle sees them; empty for a plain text."),
    ColumnInfo("prompt_token_ids", "list[int]", "What the policy was given: chat template and special tokens included."),
    ColumnInfo("policy_version", "int", "Which policy sampled: version t is the policy after t iterations, so it is iteration - 1."),
    ColumnInfo("responses", "list[str], K", "The responses as text, without special tokens."),
    ColumnInfo("response_token_ids", "list[list[int]], K", "The responses as tokens, the end token included if it was sampled."),
    ColumnInfo("logprobs", "list[list[float]], K", "Log-prob of each response token at temperature 1, in nats, as the engine computed it."),
    ColumnInfo("finish_reasons", "list[str], K", "'stop': the policy ended its response; 'length': it was cut off at rollout.max_tokens."),
    ColumnInfo("oracle", "str", "The oracle's type."),
    ColumnInfo(
        "preference",
        "list[list[float]], K x K",
        "P[i, j] = P(response i is better than response j), with judging.truncated applied; null where it is not known. "
        "Win rates are the row means.",
    ),
    ColumnInfo("asked", "list[list[bool]], K x K", "True where the oracle was asked, also where it then abstained."),
    ColumnInfo(
        "picked",
        "list[list[int]]",
        "For each training example of the group, the indices of its responses, best first: [chosen, rejected] for a pair. Empty: the group "
        "was dropped.",
    ),
    ColumnInfo("origin", "str", "A hash of the settings, the policy's weights, the prompt and the seed: equal only where all of them are."),
    ColumnInfo("transcript", "str", "What the oracle was asked, round after round, and its answers, as JSON. A resumed run reads it back."),
)

EVALUATION_COLUMNS = (
    ColumnInfo("iteration", "int", "Number of the iteration whose policy is evaluated (the challenger)."),
    ColumnInfo("opponent", "str", "'base': the run's first policy; 'previous': the policy evaluated before."),
    ColumnInfo("prompt_id", "str", "The data's name for the held-out prompt, or the number of its record, from 0, where it has none."),
    ColumnInfo("prompt", "str", "The bare question, as the oracle sees it."),
    ColumnInfo(
        "win_rate",
        "float",
        "Mean of P(challenger's response is better) over all pairs of one response from each side: evaluation.responses squared "
        "comparisons. NaN if the oracle abstained on all of them.",
    ),
    ColumnInfo("challenger", "str", "The challenger's first response; win_rate counts its other responses too."),
    ColumnInfo("defender", "str", "The opponent's first response."),
    ColumnInfo("challenger_tokens", "float", "Mean length of the challenger's responses, in tokens."),
    ColumnInfo("defender_tokens", "float", "Mean length of the opponent's responses, in tokens."),
    ColumnInfo("metrics", "dict[str, float]", "What the oracle observed on this prompt; see the metrics under oracle/."),
)

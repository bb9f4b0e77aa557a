"""The ``judging`` section: what a preference matrix means, which comparisons are asked, what becomes of those without an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from raypref.errors import ConfigError
from raypref.registry import Section


class JudgingConfig(Section):
    """How a group is judged, whatever the oracle."""

    preference: Literal["pairwise", "sppo"] = "pairwise"
    """pairwise: P[i, j] is the oracle's own verdict on the pair, never assumed transitive; sppo: what the SPPO authors' code makes of it,
    P[i, j] = sigmoid(g_i - g_j) with g_i = 2/K sum_j logit P[i, j], transitive by construction and twice as steep."""
    pairs: Literal["selection", "all", "random"] = "selection"
    """Comparisons to ask. selection: its own, round by round; all: the whole matrix, whatever the selection reads; random: each response
    against ``opponents`` others, drawn for each prompt, in place of the whole matrix; win rates are estimated from them."""
    opponents: PositiveInt = 2
    """m, with ``pairs: random``; one more for one response where m and K are odd."""
    abstentions: Literal["leave_out", "drop_group", "tie", "stop"] = "leave_out"
    """What becomes of a group with comparisons that the oracle left open. leave_out: the selection does without the responses concerned;
    drop_group: it is dropped; tie: they count as one half each; stop: the run stops. They are counted in any case."""
    tie_margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Verdicts within this distance of one half are ties: exactly one half."""
    groups: PositiveInt = 16
    """Prompts that one oracle replica judges at a time; their comparisons share the oracle's batches."""
    cache: Path | None = None
    """Directory of verdicts, kept by content (oracle, prompt, pair of responses) and shared by replicas and runs; default: none is kept."""

    @model_validator(mode="after")
    def _whole_matrix(self) -> Self:
        if self.preference == "sppo" and self.pairs == "random":
            raise ConfigError("judging.pairs: random, but judging.preference=sppo aggregates over the whole group; set pairs to all")
        return self

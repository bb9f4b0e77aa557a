"""The ``judging`` section: what a preference matrix means, which comparisons are asked, what becomes of those without an answer."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from raypref.errors import ConfigError
from raypref.registry import Section, UserDirectory
from raypref.sections import Fraction


class JudgingConfig(Section):
    """How a group is judged, whatever the oracle."""

    preference: Literal["pairwise", "sppo"] = "pairwise"
    """pairwise: P[i, j] is the oracle's verdict on the pair, never assumed transitive; sppo: what the SPPO authors' code derives from
    the verdicts, P[i, j] = sigmoid(g_i - g_j) with g_i = 2/K sum_j logit P[i, j], transitive by construction and twice as steep."""
    pairs: Literal["selection", "all", "random"] = "selection"
    """Which comparisons are asked. selection: those that the selection wants, round by round; all: the whole matrix, whatever the
    selection reads; random: each response against ``opponents`` others, drawn per prompt; win rates are estimated from them."""
    opponents: PositiveInt = 2
    """m, with ``pairs: random``. Where m and K are odd, one response meets one opponent more."""
    truncated: Literal["keep", "drop", "penalise"] = "keep"
    """A response that was cut off before its end token. keep: it is judged like any other; drop: it is left out of its group; penalise:
    it is judged, then moved ``truncation_penalty`` of the way to losing against every finished response."""
    truncation_penalty: Fraction = 1.0
    """0 leaves the verdict as it is, 1 makes it a certain loss; only with ``truncated: penalise``."""
    abstentions: Literal["leave_out", "drop_group", "tie", "stop"] = "leave_out"
    """What happens to a group with comparisons on which the oracle abstained. leave_out: the selection does without the responses
    concerned; drop_group: the group is dropped; tie: each counts as one half; stop: the run stops. They are counted in any case."""
    tie_margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Verdicts within this distance of one half count as ties, exactly one half."""
    groups: PositiveInt = 16
    """Prompts that one oracle replica judges at a time; their comparisons share the oracle's batches."""
    cache: UserDirectory | None = None
    """Directory in which verdicts are kept, by content (oracle, prompt, pair of responses), and shared by replicas and runs. Default:
    nothing is kept."""

    @model_validator(mode="after")
    def _whole_matrix(self) -> Self:
        if self.preference == "sppo" and self.pairs == "random":
            raise ConfigError("judging.pairs: random, but judging.preference=sppo aggregates over the whole group; set judging.pairs=all")
        return self

"""From a rollout to training examples, worked out by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypref.errors import ConfigError, OracleError
from raypref.judging.config import JudgingConfig
from raypref.judging.judge import Judge
from raypref.judging.oracle_queue import OracleQueue
from raypref.losses.dpo import DPO
from raypref.losses.sppo import SPPO
from raypref.losses.srpo import SRPO
from raypref.oracles.base import ABSTAIN, Answer, Question
from raypref.preferences import log_odds
from raypref.selection.all_responses import AllResponses
from raypref.selection.base import Pairs, Picks, Selection
from raypref.selection.best_worst import BestWorst
from raypref.types import Judged, PreferenceMatrix
from tests.groups import Judging, TableOracle, rollout

TABLE = {"a>bb": 0.8, "a>ccc": 0.9, "bb>ccc": 0.7}


def judge(table: dict[str, float] = TABLE, selection: Any = None, loss: Any = None, judging: Any = None) -> Judging:
    oracle = TableOracle(table=table, asked=[])
    settings = JudgingConfig(**(judging or {}))
    judge = Judge(OracleQueue(oracle, settings), selection or BestWorst(), loss or SPPO(eta=30), judging=settings)
    return Judging(oracle, judge)


class FirstAgainstLast(Selection):
    """Asks for (0, K-1), then for (0, 1), then for (0, K-1) again."""

    type: str = "first_against_last"
    pick: tuple[int, ...] = (0, 1)

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        matrix = yield [(0, size - 1)]
        assert not np.isnan(matrix.values[0, size - 1])
        assert np.isnan(matrix.values[0, 1])
        matrix = yield [(0, 1), (0, size - 1)]
        assert not np.isnan(matrix.values[0, 1])
        return [self.pick]


def test_best_and_worst_become_an_example() -> None:
    """Win rates 2.2/3, 1.4/3, 0.9/3, so the pair is (a, ccc) with targets 30 (2.2/3 - 1/2) = 7 and 30 (0.3 - 1/2) = -6."""
    judged = judge().judge(rollout("a", "bb", "ccc", index=5))
    (example,) = judged.examples
    np.testing.assert_allclose(example.targets, [7, -6])
    assert [ids.tolist() for ids in example.response_ids] == [[97], [99, 99, 99]]
    assert (example.prompt_index, example.prompt_id, example.prompt_ids[1].tolist(), example.policy_version) == (5, "p", [1, 2, 3], 2)
    assert example.prompt_ids[0] is example.prompt_ids[1]
    assert (judged.picked, judged.verdict.prompt_index, judged.verdict.examples) == (((0, 2),), 5, 1)
    assert judged.matrix.oracle == "table"


def test_metrics() -> None:
    """Lengths 1 + 2 + 3 = 6, mean 2; one of three cut off; spread (2.2 - 0.9) / 3; the shorter the better, so the ranks are opposite;
    binary entropies of 0.8, 0.9 and 0.7: 0.5004, 0.3251 and 0.6109 nats; the selection's own: three comparisons."""
    metrics = judge().judge(rollout("a", "bb", "ccc", cut_off=[1])).verdict.metrics
    assert metrics == pytest.approx(
        {
            "entropy": 0.5,
            "rollout/tokens": 6.0,
            "rollout/response_tokens": 2.0,
            "rollout/truncated": 1 / 3,
            "oracle/win_rate_spread": 1.3 / 3,
            "oracle/cycle": 0.0,
            "oracle/length_bias": -1.0,
            "oracle/entropy": pytest.approx(1.4364 / 3, abs=1e-4),
            "oracle/abstained": 0.0,
            "oracle/dropped": 0.0,
            "oracle/overlong": 0.0,
            "oracle/comparisons": 3.0,
            "oracle/ties": 0.0,
            "oracle/saturated": 0.0,
        }
    )


def test_certain_verdicts_are_counted_since_their_log_odds_are_cut() -> None:
    """1, 1 - 1e-13 and 0.7: two of three."""
    judged = judge({"a>bb": 1.0, "bb>ccc": 1.0 - 1e-13, "a>ccc": 0.7}).judge(rollout("a", "bb", "ccc"))
    assert judged.verdict.metrics["oracle/saturated"] == pytest.approx(2 / 3)
    np.testing.assert_allclose(log_odds(np.array([[0.5, 1.0], [0.0, 0.5]])), [[0.0, 27.631], [-27.631, 0.0]], atol=1e-3)


def test_what_an_oracle_observes_of_a_whole_matrix_is_kept() -> None:
    everything = Judge(OracleQueue(TableOracle(table=TABLE, asked=[]), JudgingConfig()), None, SPPO(eta=30))
    matrix = asyncio.run(everything.matrix(rollout("a", "bb", "ccc")))
    assert matrix.metrics == {"oracle/abstained": 0.0}


def test_a_cycle_is_reported_and_its_group_dropped() -> None:
    judged = judge({"a>bb": 0.7, "bb>ccc": 0.7, "a>ccc": 0.3}).judge(rollout("a", "bb", "ccc"))
    assert judged.examples == ()
    assert (judged.verdict.metrics["oracle/cycle"], judged.verdict.metrics["oracle/dropped"]) == (1.0, 1.0)


def test_cut_off_responses_are_kept_by_default() -> None:
    assert judge().judge(rollout("a", "bb", "ccc", cut_off=[0, 1, 2])).verdict.examples == 1


def test_cut_off_responses_are_left_out() -> None:
    """Without ``a`` the pair is (bb, ccc), judged as a group of two: w = (0.5 + 0.7) / 2 = 0.6, target 30 * 0.1 = 3."""
    judging = judge(judging={"truncated": "drop"})
    judged = judging.judge(rollout("a", "bb", "ccc", cut_off=[0]))
    assert judged.picked == ((1, 2),)
    np.testing.assert_allclose(judged.examples[0].targets, [3, -3])
    assert [question.responses for question in judging.oracle.asked] == [("bb", "ccc")]
    nan = np.nan
    np.testing.assert_allclose(judged.matrix.values, [[0.5, nan, nan], [nan, 0.5, 0.7], [nan, 0.3, 0.5]])


def test_a_group_with_one_response_left_is_dropped_without_asking() -> None:
    judging = judge(judging={"truncated": "drop"})
    judged = judging.judge(rollout("a", "bb", "ccc", cut_off=[0, 2]))
    assert (judged.examples, judging.oracle.asked) == ((), [])
    assert judged.verdict.metrics["oracle/dropped"] == 1.0
    assert np.isnan(judged.verdict.metrics["oracle/win_rate_spread"])


def test_cut_off_responses_are_penalised() -> None:
    """``a`` cut off, a certain loss: P(a > bb) = P(a > ccc) = 0, so bb (w = (1 + 0.5 + 0.7) / 3) wins and a (0.5 / 3) loses."""
    judged = judge(judging={"truncated": "penalise"}).judge(rollout("a", "bb", "ccc", cut_off=[0]))
    assert judged.picked == ((1, 0),)
    np.testing.assert_allclose(judged.examples[0].targets, [30 * (2.2 / 3 - 0.5), 30 * (0.5 / 3 - 0.5)])
    np.testing.assert_allclose(judged.matrix.values[0], [0.5, 0.0, 0.0])


def test_abstentions_are_counted_and_what_they_spoil_is_left_out() -> None:
    """No verdict on (a, bb): of four responses ccc and dddd remain, of three only one, and the group is dropped."""
    table = TABLE | {"a>bb": ABSTAIN, "ccc>dddd": 0.9}
    judged = judge(table).judge(rollout("a", "bb", "ccc", "dddd"))
    assert judged.picked == ((3, 2),) or judged.picked == ((2, 3),)
    assert judged.verdict.metrics["oracle/abstained"] == pytest.approx(1 / 6)
    dropped = judge(table).judge(rollout("a", "bb", "ccc"))
    assert (dropped.examples, dropped.verdict.metrics["oracle/abstained"]) == ((), pytest.approx(1 / 3))


def test_a_loss_that_needs_what_the_oracle_left_open_drops_the_group() -> None:
    """The estimate is made of all win rates, those of a and bb have a hole."""
    judging = judge(TABLE | {"a>bb": ABSTAIN, "ccc>dddd": 0.9}, AllResponses(), SPPO(baseline="estimate"))
    judged = judging.judge(rollout("a", "bb", "ccc", "dddd"))
    assert (judged.examples, judged.picked, judged.verdict.metrics["oracle/dropped"]) == ((), (), 1.0)


def test_a_selection_asks_round_by_round() -> None:
    """Each comparison is asked once; a loss that needs no more than the pair is served."""
    judging = judge(selection=FirstAgainstLast(), loss=DPO(labels="soft"))
    judged = judging.judge(rollout("a", "bb", "ccc"))
    assert [question.pairs for question in judging.oracle.asked] == [((0, 2),), ((0, 1),)]
    np.testing.assert_allclose(judged.examples[0].targets, [0.8, 0.2])
    np.testing.assert_allclose(judged.matrix.values[1], [0.2, 0.5, np.nan])
    assert np.isnan(judged.verdict.metrics["oracle/cycle"])


def test_a_selection_that_cannot_serve_the_loss_is_an_error_not_a_dropped_group() -> None:
    with pytest.raises(
        ConfigError, match=r"'first_against_last' \(judging\.pairs: selection\) does not ask for all the comparisons that loss 'sppo' needs"
    ):
        judge(selection=FirstAgainstLast()).judge(rollout("a", "bb", "ccc"))


@pytest.mark.parametrize("pick", [(0, 3), (1, 1), (), (-1, 0)])
def test_picks_that_are_not_there_are_an_error(pick: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="picked"):
        judge(selection=FirstAgainstLast(pick=pick), loss=DPO()).judge(rollout("a", "bb", "ccc"))


def test_pairs_that_are_not_there_are_an_error() -> None:
    class Backwards(Selection):
        type: str = "backwards"

        def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
            yield [(1, 0)]
            return []

    with pytest.raises(ConfigError, match=r"'backwards' asks for \(1, 0\) of 2 responses"):
        judge(selection=Backwards()).judge(rollout("a", "bb"))


def test_a_wrong_answer_names_the_prompt() -> None:
    with pytest.raises(OracleError, match=r"oracle 'table', prompt 'p': P\[0, 1\] = nan"):
        judge({"a>bb": float("nan")}).judge(rollout("a", "bb"))


def test_compare_is_the_mean_over_both_sides() -> None:
    """a and dddd against bb and ccc: (0.8 + 0.9 + 0.4 + 0.5) / 4 = 0.65."""
    judging = judge(TABLE | {"dddd>bb": 0.4})
    found = judging.compare(rollout("a", "dddd"), rollout("bb", "ccc"))
    assert found.win_rate == pytest.approx(0.65)
    assert (found.challenger, found.defender, found.prompt_id, found.prompt) == ("a", "bb", "p", "Why?")
    assert (found.challenger_tokens, found.defender_tokens) == (2.5, 2.5)
    assert judging.oracle.asked[0].pairs == ((0, 2), (0, 3), (1, 2), (1, 3))
    assert found.metrics == {"oracle/abstained": 0.0}


def test_compare_leaves_abstentions_out() -> None:
    assert judge(TABLE | {"a>bb": ABSTAIN}).compare(rollout("a"), rollout("bb", "ccc")).win_rate == pytest.approx(0.9)
    assert np.isnan(judge({"a>bb": ABSTAIN}).compare(rollout("a"), rollout("bb")).win_rate)


def test_a_policy_of_srpo_is_compared_where_nothing_is_trained() -> None:
    """The loss wants revisions for its examples; ``raypref evaluate revisions`` makes no examples, so there is nothing to build them."""
    assert judge(loss=SRPO()).compare(rollout("a"), rollout("bb")).win_rate == pytest.approx(0.8)


def test_compare_refuses_different_prompts() -> None:
    with pytest.raises(ValueError, match="answers prompt 'p', the defender 'q'"):
        judge().compare(rollout("a"), rollout("bb", prompt_id="q"))


def test_the_whole_matrix_is_asked_for_at_once() -> None:
    judging = judge(selection=FirstOfTwo(), loss=DPO(), judging={"pairs": "all"})
    judged = judging.judge(rollout("a", "bb", "ccc"))
    assert [question.pairs for question in judging.oracle.asked] == [((0, 1), (0, 2), (1, 2))]
    assert judged.matrix.known.all()


class FirstOfTwo(Selection):
    """Asks for (0, 1) alone."""

    type: str = "first_of_two"

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        yield [(0, 1)]
        return [(0, 1)]


def test_random_opponents_stand_for_all() -> None:
    """One opponent each of four: two comparisons. With a > bb alone asked in a's row, w_a = (1/2 + 3 * 0.8) / 4."""
    table = dict.fromkeys(("a>bb", "a>ccc", "a>dddd", "bb>ccc", "bb>dddd", "ccc>dddd"), 0.8)
    judging = judge(table, AllResponses(), judging={"pairs": "random", "opponents": 1})
    judged = judging.judge(rollout("a", "bb", "ccc", "dddd"))
    (question,) = judging.oracle.asked
    assert len(question.pairs) == 2
    assert judged.matrix.asked.sum() == 4
    winners = [i for i, _ in question.pairs]
    rates = np.where(np.isin(np.arange(4), winners), (0.5 + 3 * 0.8) / 4, (0.5 + 3 * 0.2) / 4)
    np.testing.assert_allclose(judged.examples[0].targets, 30 * (rates - 0.5))
    assert np.isnan(judged.verdict.metrics["oracle/cycle"])
    again = judge(table, AllResponses(), judging={"pairs": "random", "opponents": 1})
    again.judge(rollout("a", "bb", "ccc", "dddd"))
    assert again.oracle.asked[0].pairs == question.pairs, "what is drawn depends on the prompt alone"


def test_random_opponents_cannot_serve_a_selection_of_certain_pairs() -> None:
    with pytest.raises(ConfigError, match=r"judging\.pairs: random opponents stand for a whole matrix"):
        judge(selection=FirstOfTwo(), loss=DPO(), judging={"pairs": "random"}).judge(rollout("a", "bb", "ccc"))


def test_a_loss_that_reads_one_comparison_is_told_that_random_opponents_lack_it() -> None:
    table = dict.fromkeys(("a>bb", "a>ccc", "a>dddd", "bb>ccc", "bb>dddd", "ccc>dddd"), 0.8)
    judging = judge(table, BestWorst(), DPO(labels="soft"), judging={"pairs": "random", "opponents": 1})
    with pytest.raises(ConfigError, match=r"\(judging\.pairs: random\) does not ask for .* loss 'dpo' needs"):
        judging.judge(rollout("a", "bb", "ccc", "dddd"))


def test_what_becomes_of_abstentions() -> None:
    """leave_out is the default above. tie: P(a, bb) = 1/2 explicitly, so w_a = (0.5 + 0.5 + 0.9) / 3; counted all the same."""
    table = TABLE | {"a>bb": ABSTAIN}
    group = rollout("a", "bb", "ccc")
    tied = judge(table, judging={"abstentions": "tie"}).judge(group)
    np.testing.assert_allclose(tied.examples[0].targets[0], 30 * (1.9 / 3 - 0.5))
    assert tied.verdict.metrics["oracle/abstained"] == pytest.approx(1 / 3)
    four = rollout("a", "bb", "ccc", "dddd")
    assert judge(table | {"ccc>dddd": 0.9}, judging={"abstentions": "drop_group"}).judge(four).examples == ()
    with pytest.raises(OracleError, match=r"prompt 'p': no verdict on responses \[\(0, 1\)\]"):
        judge(table, judging={"abstentions": "stop"}).judge(group)


def test_close_verdicts_are_ties() -> None:
    """P(bb > ccc) = 0.7 is within 0.2 of one half, 0.8 is not."""
    judged = judge(judging={"tie_margin": 0.2 + 1e-9}).judge(rollout("a", "bb", "ccc"))
    np.testing.assert_allclose(judged.matrix.values, [[0.5, 0.8, 0.9], [0.2, 0.5, 0.5], [0.1, 0.5, 0.5]])
    assert judged.verdict.metrics["oracle/ties"] == 0.0, "the oracle itself said 0.7"


def test_the_metrics_tell_of_the_oracle_and_not_of_what_is_made_of_its_verdicts() -> None:
    """Stone, paper and scissors at 0.9: a cycle, though the SPPO authors' scores are all equal; entropy of 0.9 is 0.3251 nats."""
    table = {"a>bb": 0.9, "bb>ccc": 0.9, "a>ccc": 0.1}
    metrics = judge(table, judging={"preference": "sppo"}).judge(rollout("a", "bb", "ccc", cut_off=[0])).verdict.metrics
    assert (metrics["oracle/cycle"], metrics["oracle/ties"]) == (1.0, 0.0)
    assert metrics["oracle/entropy"] == pytest.approx(0.3251, abs=1e-4)


def test_the_sppo_authors_preferences() -> None:
    """logits log 4, log 9, log(7/3): g = 2/3 (log 4 + log 9, log(7/3) - log 4, -log 9 - log(7/3)), P = sigmoid(g_i - g_j)."""
    judged = judge(judging={"preference": "sppo"}).judge(rollout("a", "bb", "ccc"))
    scores = 2 / 3 * np.array([np.log(36), np.log(7 / 12), -np.log(21)])
    np.testing.assert_allclose(judged.matrix.values, 1 / (1 + np.exp(scores[None, :] - scores[:, None])))
    open_pair = judge(TABLE | {"a>bb": ABSTAIN}, judging={"preference": "sppo"}).judge(rollout("a", "bb", "ccc"))
    assert open_pair.examples == (), "every score depends on all comparisons"


def test_groups_share_the_oracles_calls() -> None:
    """The first question goes alone, what comes while it is answered goes together."""

    class Counting(TableOracle):
        type: str = "counting"
        calls: list[int]

        def compare(self, questions: Sequence[Question]) -> list[Answer]:
            self.calls.append(len(questions))
            return super().compare(questions)

    oracle = Counting(table=TABLE, asked=[], calls=[])
    together = Judge(OracleQueue(oracle, JudgingConfig(groups=4)), BestWorst(), SPPO(eta=30))

    async def run() -> list[Judged]:
        return await asyncio.gather(*(together.judge(rollout("a", "bb", "ccc", index=k)) for k in range(6)))

    judged = asyncio.run(run())
    assert [item.verdict.prompt_index for item in judged] == list(range(6))
    assert oracle.calls == [1, 4, 1]


def test_an_oracles_error_reaches_everyone_who_waits() -> None:
    class Broken(TableOracle):
        type: str = "broken"

        def compare(self, questions: Sequence[Question]) -> list[Answer]:
            raise TimeoutError("no answer")

    broken = Judge(OracleQueue(Broken(table={}, asked=[]), JudgingConfig()), BestWorst(), SPPO(eta=30))

    async def run() -> list[Judged | BaseException]:
        return await asyncio.gather(*(broken.judge(rollout("a", "bb")) for _ in range(3)), return_exceptions=True)

    errors = asyncio.run(run())
    assert [type(error) for error in errors] == [OracleError] * 3
    assert all("oracle 'broken' raised TimeoutError: no answer" in str(error) for error in errors)


def test_verdicts_are_kept(tmp_path: Path) -> None:
    group = rollout("a", "bb", "ccc")
    fresh = judge(judging={"cache": tmp_path}).judge(group)
    second = judge(judging={"cache": tmp_path})
    kept = second.judge(group)
    assert (fresh.verdict.metrics["oracle/cache_hits"], kept.verdict.metrics["oracle/cache_hits"]) == (0.0, 1.0)
    assert second.oracle.asked == []
    np.testing.assert_array_equal(fresh.matrix.values, kept.matrix.values)


def test_what_may_change_is_not_kept(tmp_path: Path) -> None:
    """The first pair is provisional: it is asked again, the others come from the cache."""

    class Wavering(TableOracle):
        type: str = "wavering"

        def compare(self, questions: Sequence[Question]) -> list[Answer]:
            return [Answer(answer.values, provisional=frozenset({(0, 1)})) for answer in super().compare(questions)]

    for asked in (((0, 1), (0, 2), (1, 2)), ((0, 1),)):
        oracle = Wavering(table=TABLE, asked=[])
        Judging(oracle, Judge(OracleQueue(oracle, JudgingConfig(cache=tmp_path)), BestWorst(), SPPO(eta=30))).judge(
            rollout("a", "bb", "ccc")
        )
        assert [question.pairs for question in oracle.asked] == [asked]


def test_verdicts_that_change_with_the_policy_cannot_be_kept(tmp_path: Path) -> None:
    class Moving(TableOracle):
        type: str = "moving"

        def identity(self) -> str | None:
            return None

    with pytest.raises(ConfigError, match=r"judging\.cache: the verdicts of oracle 'moving' depend on more than"):
        OracleQueue(Moving(table={}, asked=[]), JudgingConfig(cache=tmp_path))

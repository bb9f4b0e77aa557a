"""Several oracles as one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import Field

from raypref.errors import ConfigError, OracleError
from raypref.oracles.base import ABSTAIN, Answer, Oracle, Question, Services, oracles
from raypref.oracles.callable import CallableOracle
from raypref.oracles.ensemble import Ensemble, Member
from raypref.oracles.support.checked import Checked, ask
from raypref.preferences import Matrix

PAIR = Question("p0", "Why?", ("a", "b"), ((0, 1),))
THREE = Question("p1", "How?", ("a", "b", "c"), ((0, 1), (0, 2), (1, 2)))


class Fixed(Oracle):
    """P(i > j) by (text i, text j); abstains on the rest."""

    type: str = "fixed"
    verdicts: dict[str, float]

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        return [Answer(self._matrix(question), {"oracle/position_bias": [0.25]}) for question in questions]

    def identity(self) -> str | None:
        return self.model_dump_json()

    def _matrix(self, question: Question) -> Matrix:
        values = np.full((len(question.responses), len(question.responses)), 0.5)
        for i, j in question.pairs:
            chance = self.verdicts.get(question.responses[i] + question.responses[j])
            values[i, j], values[j, i] = (ABSTAIN, ABSTAIN) if chance is None else (chance, 1.0 - chance)
        return values


FIXED = f"{__name__}:Fixed"


def of_two(first: Oracle, second: Oracle, *weights: float) -> Checked:
    """The ensemble's answer on the pair, of members that say ``first`` and ``second``; None abstains."""
    members = [
        Member(oracle=Fixed(verdicts={} if chance is None else {"ab": chance}), weight=weight)
        for chance, weight in zip((first, second), weights, strict=True)
    ]
    (answer,) = ask(Ensemble(members=members), [PAIR])
    return answer


def test_the_weighted_mean_and_what_the_members_differ_by() -> None:
    """(3 * 0.9 + 1 * 0.5) / 4 = 0.8; the deviation is sqrt((3 * 0.1^2 + 1 * 0.3^2) / 4) = sqrt(0.03)."""
    answer = of_two(0.9, 0.5, 3.0, 1.0)
    assert answer.values[0, 1] == pytest.approx(0.8, abs=1e-12)
    assert answer.observed["oracle/disagreement"] == pytest.approx([np.sqrt(0.03)])


def test_members_that_agree_leave_the_verdict_as_it_is() -> None:
    answer = of_two(0.25, 0.25, 1.0, 1.0)
    assert (answer.values[0, 1], answer.observed["oracle/disagreement"]) == (0.25, [0.0])


def test_opposite_certainties_are_a_tie_with_the_largest_disagreement() -> None:
    answer = of_two(1.0, 0.0, 1.0, 1.0)
    assert (answer.values[0, 1], answer.observed["oracle/disagreement"]) == (0.5, [0.5])


def test_a_member_that_abstains_leaves_its_weight_to_the_others_and_is_counted() -> None:
    """One verdict disagrees with nobody: no figure, not a zero."""
    answer = of_two(None, 0.75, 3.0, 1.0)
    assert answer.values[0, 1] == 0.75
    assert answer.observed["oracle/disagreement"] == []
    assert (answer.observed["oracle/fixed_0/abstained"], answer.observed["oracle/fixed_1/abstained"]) == ([1.0], [0.0])


def test_a_verdict_from_which_a_member_abstained_is_provisional() -> None:
    """The first abstains on (a, c), both on (b, c)."""
    first, second = Fixed(verdicts={"ab": 0.6}), Fixed(verdicts={"ab": 1.0, "ac": 0.7})
    (answer,) = ask(Ensemble(members=[first, second]), [THREE])
    assert answer.provisional == {(0, 2), (1, 2)}
    assert of_two(0.9, 0.5, 1.0, 1.0).provisional == set()


def test_a_verdict_that_is_provisional_for_a_member_is_for_the_ensemble() -> None:
    nested = Ensemble(members=[Fixed(verdicts={"ab": 0.6}), Fixed(verdicts={})])
    assert ask(Ensemble(members=[nested, Fixed(verdicts={"ab": 1.0})]), [PAIR])[0].provisional == {(0, 1)}


def test_where_all_abstain_the_ensemble_does() -> None:
    answer = of_two(None, None, 1.0, 1.0)
    assert np.isnan(answer.values[0, 1])


def test_each_pair_of_each_question_has_its_own_members() -> None:
    """(a, b): 0.6 and 1 give 0.8; (a, c): the first alone, 0.7; (b, c): nobody. Another question in the same call changes nothing."""
    first, second = Fixed(verdicts={"ab": 0.6, "ac": 0.7}), Fixed(verdicts={"ab": 1.0})
    answer, other = ask(Ensemble(members=[first, second]), [THREE, PAIR])
    np.testing.assert_allclose(answer.values, [[0.5, 0.8, 0.7], [0.2, 0.5, np.nan], [0.3, np.nan, 0.5]], atol=1e-12)
    assert answer.observed["oracle/fixed_1/abstained"] == [0.0, 1.0, 1.0]
    assert other.values[0, 1] == pytest.approx(0.8)


def test_what_members_observe_is_kept_under_their_names() -> None:
    answer = of_two(0.5, 0.5, 1.0, 1.0)
    assert answer.observed["oracle/fixed_0/position_bias"] == [0.25]
    assert answer.observed["oracle/fixed_1/position_bias"] == [0.25]


def test_a_member_that_gives_no_matrix_is_named() -> None:
    with pytest.raises(OracleError, match=r"oracle\.members\.1: oracle 'fixed', prompt 'p0': P\[0, 1\] = 1\.5 is no probability"):
        of_two(0.5, 1.5, 1.0, 1.0)


def test_a_config_has_weights_beside_the_members_own_keys() -> None:
    section = {"type": "ensemble", "members": [{"type": FIXED, "verdicts": {"ab": 1.0}, "weight": 3}, {"type": FIXED, "verdicts": {}}]}
    ensemble = oracles.build(section)
    assert [member.weight for member in ensemble.members] == [3.0, 1.0]
    assert ensemble.members[0].oracle == Fixed(type=FIXED, verdicts={"ab": 1.0})


def judge(prompt: str, a: str, b: str) -> float:
    return 0.75


def test_the_resolved_config_makes_the_same_ensemble() -> None:
    members = [{"type": "callable", "function": f"{__name__}:judge", "mode": "pairwise", "weight": 2.0}]
    ensemble = oracles.build({"type": "ensemble", "members": members})
    dumped = json.loads(ensemble.model_dump_json())
    assert dumped == ensemble.model_dump(mode="json") == {"type": "ensemble", "members": members}
    assert oracles.build(dumped) == ensemble


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([{"type": "callable", "function": "no_such:f"}], r"^oracle\.members\.0\.function: cannot import"),
        (
            [Fixed(verdicts={}), {"type": "callable", "function": judge, "mod": 1}],
            r"^oracle\.members\.1\.mod: unknown key; did you mean 'mode'\?",
        ),
        ([{"type": "calable"}], r"^oracle\.members\.0\.type: no oracle is called 'calable'; did you mean 'callable'\?"),
        ([{"weight": 2}], r"^oracle\.members\.0: expected a section with a 'type'"),
        ([3], r"^oracle\.members\.0: expected a section with a 'type'"),
        ([{"type": FIXED, "verdicts": {}, "weight": 0}], r"^oracle\.members\.0\.weight: Input should be greater than 0 \(got 0\)"),
        ([], r"^oracle\.members: List should have at least 1 item"),
        ({"type": FIXED}, r"^oracle\.members: expected a list of oracle sections, got \{'type'"),
        (
            [Fixed(verdicts={}), {"type": "ensemble", "members": [{"type": "callable", "function": 3}]}],
            r"^oracle\.members\.1\.members\.0\.function: expected 'module:name' or a function, got 3",
        ),
    ],
)
def test_a_wrong_member_is_named_by_its_path(members: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        oracles.build({"type": "ensemble", "members": members})


def test_all_wrong_members_are_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        oracles.build({"type": "ensemble", "members": [{"type": FIXED}, {"type": "callable"}]})
    assert str(caught.value).splitlines() == [
        "oracle.members.0.verdicts: required, but not given",
        "oracle.members.1.function: required, but not given",
    ]


class Recorder(Oracle):
    """Notes what it was given; cannot be cached."""

    type: str = "recorder"
    seen: list = Field(default_factory=list)

    def load(self, services: Services) -> None:
        self.seen.append(services)

    def identity(self) -> str | None:
        return None


class Broken(Oracle):
    type: str = "broken"
    path: str = "nowhere"

    def load(self, services: Services) -> None:
        raise ConfigError(f"oracle.path: {self.path} is no checkpoint")


def test_every_member_is_loaded_with_the_host() -> None:
    first, second = Recorder(), Recorder()
    services = object()
    Ensemble(members=[first, second]).load(services)
    assert (first.seen, second.seen) == ([services], [services])


def test_a_member_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^oracle\.members\.1\.path: nowhere is no checkpoint"):
        Ensemble(members=[Recorder(), Broken()]).load(object())


def test_identity_follows_from_members_and_weights() -> None:
    def identity(*members: Any) -> str | None:
        return Ensemble(members=list(members)).identity()

    one, other = Fixed(verdicts={"ab": 0.5}), Fixed(verdicts={"ab": 0.25})
    assert identity(one, other) == identity(one, Member(oracle=other))
    assert len({identity(one, one), identity(one, other), identity(other, one), identity(one, Member(oracle=other, weight=2.0))}) == 4
    assert identity(one, Recorder()) is None


class Remote(Oracle):
    """Answers only when all three questions are under way at once, and after the member that computes."""

    type: str = "remote"
    parallel: ClassVar[int] = 3
    computed: threading.Event
    together: threading.Barrier

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        assert len(questions) == 1
        self.together.wait()
        assert self.computed.wait(10.0)
        return [Answer(np.full((2, 2), 0.5))]


def test_members_that_wait_do_so_at_once_and_while_the_others_compute() -> None:
    """With the calls one after the other, the barrier or the event would time out. The member that computes gets one call."""
    computed, together = threading.Event(), threading.Barrier(4, timeout=10.0)
    calls = []

    def compute(prompts: list[str], responses: list[list[str]]) -> list[Matrix]:
        together.wait()
        computed.set()
        calls.append(len(prompts))
        return [np.array([[0.5, 1.0], [0.0, 0.5]])] * len(prompts)

    ensemble = Ensemble(members=[Remote(computed=computed, together=together), CallableOracle(function=compute)])
    answers = ask(ensemble, [PAIR] * 3)
    assert calls == [3]
    assert [answer.values[0, 1] for answer in answers] == [0.75] * 3


class Failing(Oracle):
    type: str = "failing"
    parallel: ClassVar[int] = 2
    asked: list = Field(default_factory=list)

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked.append(questions[0].prompt_id)
        time.sleep(0.02)
        raise OracleError("the key was refused")


def test_after_an_error_no_further_question_is_begun() -> None:
    """All hundred, two at a time, would take a second; the first error comes after 20 ms."""
    failing = Failing()
    with pytest.raises(OracleError, match=r"oracle\.members\.0: the key was refused"):
        Ensemble(members=[failing]).compare([PAIR] * 100)
    assert len(failing.asked) < 100


def test_local_directories_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor works in another directory than the driver. A hub name stays one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge").mkdir()
    members = [
        {"type": "pairrm", "path": "judge", "base": "microsoft/deberta-v3-large"},
        {"type": "reward_model", "path": "judge", "weight": 2},
    ]
    first, second = oracles.build({"type": "ensemble", "members": members}).located().members
    assert (first.oracle.path, first.oracle.base) == (str(tmp_path / "judge"), "microsoft/deberta-v3-large")
    assert (second.oracle.path, second.weight) == (str(tmp_path / "judge"), 2)


@pytest.mark.parametrize(
    ("members", "asks"),
    [([], False), ([{"type": "self_judge"}], True), ([{"type": "ensemble", "members": [{"type": "self_judge"}]}], True)],
)
def test_an_ensemble_asks_the_policy_when_a_member_does(members: list[dict[str, Any]], asks: bool) -> None:
    assert Ensemble.parse({"members": [{"type": "reward_model", "path": "m"}, *members]}, "oracle").asks_policy is asks


def test_an_ensemble_waits_for_others_where_a_member_does() -> None:
    """An endpoint's delays say nothing of the oracle; a model's calls take what they took before."""
    local = {"type": "reward_model", "path": "m"}
    judge = {"type": "judge", "model": "m", "key_env": None, "base_url": "http://127.0.0.1:1/v1"}
    found = [Ensemble.parse({"members": members}, "oracle").waits_for_others for members in ([local], [local, judge])]
    assert found == [False, True]

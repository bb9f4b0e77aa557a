"""The rules that tie sections of a config together: what each finds, and that all problems are named at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import pytest

from raypref.checks import Task, check, check_supply, judges, samples
from raypref.config import RunConfig
from raypref.errors import ConfigError, DataError, Problem, refuse
from raypref.evaluation.config import EvaluationConfig
from raypref.losses.base import Loss
from raypref.selection.base import Pairs, Picks, Selection
from raypref.types import PreferenceMatrix

ORACLE = {"type": "callable", "function": "tests.test_checks:answer"}
GOOD: dict[str, Any] = {
    "policy": {"path": "m"},
    "loss": {"type": "dpo"},
    "selection": {"type": "best_worst"},
    "oracle": ORACLE,
    "data": {"path": "p.jsonl"},
}


def answer(prompts: list[str], responses: list[list[str]]) -> None:
    """Named by the configs; nothing is asked here."""


def config_of(**sections: Any) -> RunConfig:
    return RunConfig.parse(GOOD | sections)


def problems(task: Task | None = None, **sections: Any) -> list[str]:
    return [str(problem) for problem in check(config_of(**sections), task)]


def test_a_config_that_fits_together_has_no_problems() -> None:
    assert problems() == []


def test_something_to_compare_is_needed_where_responses_are_sampled() -> None:
    assert problems(rollout={"responses": 1}) == ["rollout.responses: 1, which leaves the oracle nothing to compare; set at least 2"]
    assert problems(rollout={"responses": 1}, data={"type": "preferences", "path": "p"}) == []
    assert problems(Task("generate"), rollout={"responses": 1}) == []


def test_sampled_responses_need_an_oracle_and_a_selection() -> None:
    found = problems(oracle=None, selection=None)
    assert [line.partition(";")[0] for line in found] == [
        "oracle: required to train on sampled responses (data.type: prompts)",
        "selection: required to train on sampled responses (data.type: prompts)",
    ]
    assert problems(oracle=None, selection=None, data={"type": "preferences", "path": "p"}) == []


@pytest.mark.parametrize(
    ("data", "held_out", "every", "evaluated"),
    [
        ({"held_out": "h.jsonl"}, None, 1, True),
        ({"held_out_prompts": 8}, None, 1, True),
        ({"held_out_prompts": 8}, None, 0, False),
        ({"type": "demonstrations", "held_out_prompts": 8}, None, 1, True),
        ({}, True, 1, True),
        ({}, None, 1, False),
        ({"held_out": "h.jsonl"}, False, 1, False),
    ],
)
def test_an_oracle_of_given_data_compares_answers_to_held_out_prompts(
    data: dict[str, Any], held_out: bool | None, every: int, evaluated: bool
) -> None:
    """Without an oracle nothing is sampled: the loss on held-out records needs the learner alone. Whether the records have answers shows
    when they are read (tests/loop/test_loading.py)."""
    given = {"type": "preferences", "path": "p.jsonl"} | data
    sections = {"data": given, "loss": {"type": "sft" if given["type"] == "demonstrations" else "dpo"}, "evaluation": {"every": every}}
    task = Task(held_out=held_out)
    assert problems(task, oracle=None, selection=None, **sections) == problems(task, selection=None, **sections) == []
    for oracle, answers in ((None, False), (GOOD["oracle"], evaluated)):
        config = RunConfig.parse(GOOD | sections | {"oracle": oracle})
        assert samples(config, task) == judges(config, task) == answers


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "25, but with data.type=prompts the held-out data are prompts without answers"),
        ({"data": {"type": "preferences", "path": "p", "held_out_prompts": 4}, "loss": {"type": "dpo"}, "every": 0}, "25, but evaluation."),
        ({"data": {"type": "preferences", "path": "p"}, "loss": {"type": "dpo"}}, "25, but no data is held out; set data.held_out_prompts"),
        ({"data": {"type": "preferences", "path": "p", "held_out_prompts": 4}, "loss": {"type": "dpo"}}, None),
        ({"texts": "t"}, None),
        ({"texts": "t", "every": 0}, "25, but evaluation.every=0 switches"),
    ],
)
def test_the_loss_is_measured_on_held_out_records_of_given_data_alone(sections: dict[str, Any], message: str | None) -> None:
    evaluation = {"loss_every_steps": 25} | {key: sections[key] for key in ("every", "texts") if key in sections}
    found = problems(evaluation=evaluation, **{key: value for key, value in sections.items() if key not in evaluation})
    assert [line.startswith(f"evaluation.loss_every_steps: {message}") for line in found] == ([] if message is None else [True])


def test_what_generation_and_comparison_ask_of_the_oracle() -> None:
    assert problems(Task("generate"), oracle=None) == []
    assert problems(Task("generate", chooses=1)) == ["responses: 1, which leaves the oracle nothing to choose from; ask for at least 2"]
    assert problems(Task("generate", chooses=2)) == []
    assert problems(Task("generate", chooses=2), oracle=None) == ["oracle: required to choose the best answer; give an oracle section"]
    assert problems(Task("compare"), oracle=None) == ["oracle: required to compare responses; give an oracle section"]
    asking = {"type": "self_judge"}
    assert problems(Task("compare"), oracle=asking) == [
        "oracle.type: self_judge, which asks the policy, and no policy runs here; give another oracle"
    ]
    assert problems(oracle=asking) == []


@pytest.mark.parametrize(
    ("loss", "selection", "message"),
    [
        ({"type": "dpo"}, {"type": "all_responses"}, "loss.type: 'dpo' needs pairs, the selection gave 5 responses"),
        ({"type": "sppo", "against": "pair"}, {"type": "all_responses"}, "gave 5"),
        ({"type": "srpo"}, {"type": "ranking"}, "loss.type: 'srpo' needs pairs"),
        ({"type": "s_dpo"}, {"type": "best_of_n", "others": "drop"}, "loss.type: 's_dpo' needs at least 2 responses"),
        ({"type": "sppo"}, {"type": "random_pair"}, "does not ask for all the comparisons that loss 'sppo' needs"),
        ({"type": "sppo"}, {"type": "tournament"}, "does not ask for all the comparisons that loss 'sppo' needs"),
        ({"type": "kto", "desirable": "chosen"}, {"type": "all_responses"}, "5 responses"),
    ],
)
def test_a_loss_that_cannot_use_what_the_selection_gives_is_found(loss: dict[str, Any], selection: dict[str, Any], message: str) -> None:
    (found,) = problems(loss=loss, selection=selection, data={"path": "p", "template": "tldr"})
    assert message in found


@pytest.mark.parametrize(
    ("loss", "selection"),
    [
        ({"type": "sppo"}, {"type": "all_responses"}),
        ({"type": "sppo"}, {"type": "best_worst"}),
        ({"type": "sppo", "against": "pair"}, {"type": "tournament"}),
        ({"type": "dpo"}, {"type": "all_pairs"}),
        ({"type": "inpo"}, {"type": "random_pair", "chosen": "drawn"}),
        ({"type": "s_dpo"}, {"type": "best_of_n"}),
        ({"type": "ranking_dpo"}, {"type": "ranking", "examples": "tails"}),
        ({"type": "best_response_sft"}, {"type": "best_of_n", "others": "drop"}),
    ],
)
@pytest.mark.parametrize("size", [2, 5, 8])
def test_a_loss_that_can_is_left_alone(loss: dict[str, Any], selection: dict[str, Any], size: int) -> None:
    assert problems(loss=loss, selection=selection, rollout={"responses": size}) == []


def test_a_pair_loss_fits_all_responses_of_groups_of_two() -> None:
    assert problems(selection={"type": "all_responses"}, rollout={"responses": 2}) == []


def test_random_opponents_stand_for_a_whole_matrix_only() -> None:
    """With one opponent each the best and the worst of five are rarely compared; a soft label is that comparison."""
    (certain,) = problems(judging={"pairs": "random"}, selection={"type": "tournament"})
    assert certain.startswith(
        "judging.pairs: random, where random opponents stand for the whole matrix, but selection.type=tournament asks"
    )
    (soft,) = problems(judging={"pairs": "random", "opponents": 1}, loss={"type": "dpo", "labels": "soft"})
    assert soft.startswith("selection.type: best_worst, which with judging.pairs=random does not ask for all the comparisons")
    assert problems(judging={"pairs": "random", "opponents": 1}) == []
    assert problems(judging={"pairs": "all"}, loss={"type": "sppo"}, selection={"type": "random_pair"}) == []


class Backwards(Selection):
    type: str = "backwards"

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        yield [(1, 0)]
        return []


class TooFar(Selection):
    type: str = "too_far"

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        yield []
        return [(0, size)]


@pytest.mark.parametrize(("rule", "message"), [(Backwards(), "asks for (1, 0) of 5"), (TooFar(), "picked (0, 5) of 5 responses")])
def test_a_selection_that_breaks_its_contract_is_found(rule: Selection, message: str) -> None:
    (found,) = check(config_of().model_copy(update={"selection": rule}))
    assert message in str(found)


def test_demonstrations_are_no_pairs() -> None:
    given = {"type": "demonstrations", "path": "d.jsonl"}
    (found,) = problems(data=given)
    assert found.startswith("loss.type: dpo, which needs at least 2 responses per example, but data.type=demonstrations gives one")
    assert problems(data=given, loss={"type": "sft"}) == []


def test_revisions_need_a_template() -> None:
    def template(**data: Any) -> list[str]:
        return problems(loss={"type": "srpo"}, data={"path": "p"} | data)

    (missing,) = template()
    assert missing.startswith("data.template: required for revisions (loss 'srpo', which trains on them)")
    (chat,) = template(template="chat", chat_template=False)
    assert chat.startswith("data.template: chat, but data.chat_template is false")
    assert template(template="tldr") == []
    held_out = {"path": "p", "held_out": "h"}
    assert len(problems(evaluation={"revisions": 2}, data=held_out)) == 1
    assert problems(evaluation={"revisions": 2}) == []
    assert len(problems(Task("generate", revises=True))) == 1


class Both(Loss):
    type: str = "both"
    revisions: ClassVar[bool] = True
    mismatched: ClassVar[bool] = True


def test_one_example_has_revisions_or_mismatched_sequences() -> None:
    config = config_of(data={"path": "p", "template": "tldr"}).model_copy(update={"loss": Both()})
    (found,) = check(config)
    assert str(found).startswith("loss.type: both, which asks for revisions and for mismatched sequences")


def test_what_deepspeed_trains_wrongly() -> None:
    (found,) = problems(learner={"zero_stage": 0})
    assert found.startswith("learner.zero_stage: 0, which trains wrongly in DeepSpeed with policy.dtype=bfloat16")
    assert problems(learner={"zero_stage": 0}, policy={"path": "m", "dtype": "float32"}) == []
    assert problems(Task("generate"), learner={"zero_stage": 0}) == []


def test_what_must_hold_for_turns() -> None:
    def turns(task: Task | None = None, **sections: Any) -> list[str]:
        good: dict[str, Any] = {"placement": {"layout": "colocated", "sleep": True}, "loop": {"overlap": False}}
        return [line.partition(";")[0] for line in problems(task, **(good | sections))]

    assert turns() == []
    assert turns(policy={"path": "m", "dtype": "float32"}, learner={"zero_stage": 1}) == []
    assert turns(placement={"sleep": True}) == ["placement.sleep: true, but the engines share no GPUs with the learner"]
    assert turns(loop={}) == ["placement.sleep: true, but with loop.overlap the engines sample while the learner trains"]
    assert turns(learner={"zero_stage": 1}) == [
        "learner.zero_stage: 1, whose optimiser state in bfloat16 cannot leave the GPU, as placement.sleep needs"
    ]
    assert turns(Task("generate"), placement={"sleep": True}) == []
    given = {"type": "preferences", "path": "p"}
    assert turns(data=given, placement={"sleep": True}) == []
    assert len(turns(data=given, placement={"sleep": True}, regulariser={"type": "token_kl"})) == 1


def test_enough_data_for_the_run() -> None:
    """3 iterations of 2 steps of 64 examples: 384. 3 iterations of 10 prompts: 30."""
    steps = config_of(loop={"sync_interval": 2})
    prompts = config_of(loop={"prompts_per_iteration": 10})
    assert check_supply(steps, 384) == check_supply(prompts, 30) == check_supply(config_of(), 3) == []
    (found,) = check_supply(steps, 383)
    assert str(found) == (
        "data: 383 usable prompts, but the run needs at least 384 (3 iterations x 2 steps x 64 examples); give more data or lower loop.*"
    )
    with pytest.raises(DataError, match=r"30 \(3 iterations x 10 prompts\)"):
        refuse(check_supply(prompts, 29), DataError)


def test_evaluations_are_counted_in_steps_only_with_a_sync_interval() -> None:
    """Checkpoints are in any case: they fall within iterations."""
    found = problems(evaluation={"every_steps": 50}, checkpoint={"every_steps": 5})
    assert found == [
        "evaluation.every_steps: 50, but without loop.sync_interval the run is counted in iterations; use evaluation.every, in iterations",
    ]
    assert problems(evaluation={"every_steps": 50}, checkpoint={"every_steps": 5}, loop={"sync_interval": 1, "steps": 9}) == []
    assert problems(Task("generate"), evaluation={"every_steps": 50}) == []


@pytest.mark.parametrize(
    ("loop", "epochs", "expected"),
    [
        ({"sync_interval": 1, "steps": 7}, 1, None),
        ({"sync_interval": 8, "steps": 96}, 1, None),
        ({"sync_interval": 8, "steps": 96}, 3, None),
        ({"sync_interval": 8, "steps": 100}, 1, "100, which is not a multiple of an iteration's 8 (loop.sync_interval); set 96 or 104"),
        ({"sync_interval": 8, "steps": 5}, 1, "5, which is not a multiple of an iteration's 8 (loop.sync_interval); set 8"),
        (
            {"sync_interval": 8, "steps": 100},
            2,
            "100, which is not a multiple of an iteration's 16 (loop.sync_interval x 2 learner.epochs); set 96 or 112",
        ),
    ],
)
def test_a_run_ends_with_a_whole_iteration(loop: dict[str, int], epochs: int, expected: str | None) -> None:
    assert problems(loop=loop, learner={"epochs": epochs}) == ([] if expected is None else [f"loop.steps: {expected}"])


def test_enough_data_for_the_steps() -> None:
    """10 steps of 64 pairs: 640 prompts, or examples; 320 in two epochs. Five responses have ten pairs: a step's 64 need 7 prompts,
    and an iteration begins with new ones: 10 x 7 = 70; in one iteration of ten steps 64."""
    steps = {"sync_interval": 1, "steps": 10}
    assert check_supply(config_of(loop=steps), 640) == []
    (found,) = check_supply(config_of(loop=steps), 639)
    assert str(found) == (
        "data: 639 usable prompts, but the run needs at least 640 (10 steps x 64 examples); give more data or lower loop.steps"
    )
    given = config_of(loop=steps, data={"path": "p", "type": "preferences"}, selection={"type": "all_pairs"})
    assert str(check_supply(given, 639)[0]).startswith("data: 639 usable examples, but the run needs at least 640 ")
    epochs = config_of(loop=steps, learner={"epochs": 2})
    assert [len(check_supply(epochs, count)) for count in (320, 319)] == [0, 1]
    pairs = config_of(loop=steps, selection={"type": "all_pairs"})
    assert [len(check_supply(pairs, count)) for count in (70, 69)] == [0, 1]
    assert "a prompt gives at most 10" in str(check_supply(pairs, 69)[0])
    one = config_of(loop={"sync_interval": 10, "steps": 10}, selection={"type": "all_pairs"})
    assert [len(check_supply(one, count)) for count in (64, 63)] == [0, 1]


def test_all_problems_are_one_error_of_a_line_each() -> None:
    found = check(config_of(oracle=None, selection=None, learner={"zero_stage": 0}))
    with pytest.raises(ConfigError) as error:
        refuse(found)
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["oracle", "selection", "learner.zero_stage"]
    refuse([])


@pytest.mark.parametrize("message", ["loss.tau: 3 is above; set less", "file:3: broken", "no place", "a: b; c; d"])
def test_a_problem_made_of_an_error_reads_the_same(message: str) -> None:
    assert str(Problem.of(ConfigError(message))).rstrip(": ") == message


def test_what_greedy_answers_and_passes_are_for() -> None:
    assert problems(rollout={"temperature": 0}) == [
        "rollout.temperature: 0, which gives equal responses to train on; set it above 0; evaluation.temperature=0 evaluates greedily"
    ]
    assert problems(Task("generate"), rollout={"temperature": 0}) == []
    held_out = {"path": "p", "held_out_prompts": 4}
    assert problems(data=held_out, evaluation={"temperature": 0}) == []
    assert problems(data=held_out, evaluation={"temperature": 0, "responses": 2}) == [
        "evaluation.responses: 2, but evaluation.temperature is 0, and all of them would be equal; set evaluation.responses=1"
    ]
    (message,) = problems(rollout={"max_tokens": 8}, evaluation={"max_tokens": 9})
    assert message.startswith("evaluation.max_tokens: 9, but prompts leave room for rollout.max_tokens=8 alone")
    assert problems(data={"path": "p", "passes": 2})[0].startswith("data.passes: 2, but with data.type=prompts")


@pytest.mark.parametrize("name", ["base", "step", "two words", "1st", "a.b"])
def test_names_of_opponents(name: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.against: .* names an opponent"):
        EvaluationConfig(against={name: "f.jsonl"})

"""What the progress line says."""

from __future__ import annotations

import pytest

from raypref.errors import ConfigError
from raypref.metrics import answering, progress_line
from raypref.metrics.progress import Callback, ended
from raypref.metrics.progress_line import Bar, ProgressLine, in_words
from raypref.types import Chain, Verdict
from tests.fakes import prompt
from tests.groups import rollout


def test_win_rate_is_that_of_a_policy_and_no_step_is_told_before_there_is_one() -> None:
    """The policy of iteration 1 is evaluated while iteration 2 samples; a resumed run took steps before."""
    line = ProgressLine(iterations=3)
    line.on_iteration(2)
    assert "step" not in line.line()
    line.on_step(46, {"loss": 2.0})
    line.on_evaluation({"iteration": 1, "base": {"win_rate": 0.625}})
    line.on_end()
    assert line.line().startswith("iteration 2/3  step 46  groups 0  loss 2  win rate 0.625 after iteration 1  ")


def test_the_loss_on_held_out_examples_stands_beside_that_of_training() -> None:
    line = ProgressLine(iterations=1)
    line.on_iteration(1)
    line.on_held_out_loss({"iteration": 1, "step": 0, "loss": 0.693147})
    assert line.line().startswith("iteration 1/1  groups 0  held-out loss 0.6931 after step 0  ")
    line.on_step(2, {"loss": 0.5})
    line.on_held_out_loss({"iteration": 1, "step": 2, "loss": 0.625, "text_nll": 1.5})
    line.on_end()
    assert line.line().startswith("iteration 1/1  step 2  groups 0  loss 0.5  held-out loss 0.625 after step 2  ")


def test_tokens_per_second_count_from_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests at 10 s, 60 tokens of the first at 12 s: 30 tokens/s. Nothing is shown before, nor when no request is under way."""
    clock = {"now": 10.0}
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: clock["now"])
    line = ProgressLine(iterations=3)
    line.on_iteration(1)
    for index in range(2):
        line.on_sample(prompt(index))
    assert "tokens/s" not in line.line()
    clock["now"] = 12.0
    line.on_group(Verdict(0, 1, {"rollout/tokens": 60.0}))
    assert "groups 1  30 tokens/s" in line.line()
    line.on_group(Verdict(1, 1, {"rollout/tokens": 60.0}))
    assert "tokens/s" not in line.line()
    line.on_end()


def test_the_start_names_the_actors_that_are_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """From the first second, and in a file, too."""
    line = ProgressLine(iterations=3)
    assert capsys.readouterr().out == "reading the config, the model's files and the data ... (0 s)\n"
    line.on_waiting([f"learner-{k}" for k in range(5)] + ["rollout-0", "rollout-1", "oracle-0"])
    assert capsys.readouterr().out == ("starting learner-0, learner-1, learner-2, learner-3, learner-4, rollout-0 and 2 more ... (0 s)\n")
    line.on_waiting(["oracle-0"])
    assert line.line() == "starting oracle-0 ... (0 s)"
    line.on_waiting([])
    assert line.line().startswith("iteration 1/3")
    line.on_end()


def test_the_time_that_is_left_follows_from_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """10 s for half of the groups and none of the steps: a quarter of iteration 1 of 2, so that 7 quarters are left, 70 s."""
    clock = {"now": 0.0}
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: clock["now"])
    line = ProgressLine(iterations=2)
    line.on_sizes(groups=4, steps=2)
    line.on_iteration(1)
    assert line.left_s() is None, "nothing is done yet"
    clock["now"] = 10.0
    for index in range(2):
        line.on_group(Verdict(index, 1, {}))
    assert line.left_s() == pytest.approx(70.0)
    assert line.line() == "iteration 1/2  groups 2  10 s, about 1 min left"
    assert list(line.bars()) == [Bar("sampled, judged", 2, 4, "groups"), Bar("trained", 0, 2, "steps")]
    for step in (1, 2):
        line.on_step(step, {"loss": 0.5})
    line.on_iteration(2)
    assert line.left_s() == pytest.approx(10.0), "one of two iterations is over"
    assert list(line.bars()) == [Bar("sampled, judged", 0, 4, "groups"), Bar("trained", 0, 2, "steps")]
    line.on_end()
    assert capsys.readouterr().out.count("\n") == 1, "in a file one line each 15 s"


def test_given_data_has_no_groups_to_show() -> None:
    line = ProgressLine(iterations=1)
    line.on_sizes(groups=0, steps=8)
    line.on_iteration(1)
    line.on_step(4, {"loss": 0.5})
    line.on_end()
    assert list(line.bars()) == [Bar("trained", 4, 8, "steps")]


def test_a_terminal_shows_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the start, with what it waits for; then of the stages. The run's log lines stand above them."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    line = ProgressLine(iterations=3)
    line.on_waiting(["learner-0", "rollout-0"])
    line.on_waiting(["rollout-0"])
    assert list(line.bars()) == [Bar("starting", 1, 2, "actors")]
    line.on_sizes(groups=10, steps=5)
    line.on_iteration(1)
    line.on_step(2, {"loss": 0.25})
    line.on_end()
    shown = capsys.readouterr().out
    for text in ("starting learner-0, rollout-0 ... (0 s)", "0/2 actors", "2/5 steps", "loss 0.25"):
        assert text in shown


@pytest.mark.parametrize(("seconds", "words"), [(40.2, "40 s"), (75.0, "1 min"), (59.6 * 60, "1 h 0 min"), (12000.0, "3 h 20 min")])
def test_durations_are_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


class Broken(Callback):
    """Fails at the end."""

    def on_end(self) -> None:
        raise KeyError("mine")


class Told(Callback):
    """Counts its ends."""

    ends = 0

    def on_end(self) -> None:
        self.ends += 1


def test_a_callback_that_fails_at_the_end_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    with ended([Broken(), told, Broken()]):
        result = "done"
    assert (result, told.ends) == ("done", 1)
    assert caplog.text.count("Broken.on_end failed") == 2
    assert "KeyError: 'mine'" in caplog.text


def test_a_callback_that_fails_at_the_end_hides_no_error() -> None:
    with pytest.raises(ZeroDivisionError), ended([Broken(), told := Told()]):
        raise ZeroDivisionError
    assert told.ends == 1


@pytest.mark.parametrize("wrong", [Told, print, object()])
def test_what_is_no_callback_is_refused_at_the_start(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"callbacks: .* is no raypref\.Callback"), ended([wrong]):  # type: ignore[list-item]
        pass


def test_a_run_that_is_counted_in_steps_shows_how_many_there_are() -> None:
    line = ProgressLine(iterations=150, steps=300)
    line.on_iteration(3)
    line.on_step(5, {"loss": 0.5})
    assert "iteration 3/150  step 5/300  " in line.line()


def answered(tokens: int) -> Chain:
    return Chain(prompt(0), ((rollout("x" * tokens).responses[0],),), 0)


def test_the_answers_of_generate_are_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a log: the start, its end, every 15 s, and the last answer; 60 tokens in 2 s after the engines were ready at 10 s."""
    clock = {"now": 0.0}
    monkeypatch.setattr(answering.time, "monotonic", lambda: clock["now"])
    shown = answering.Answering(prompts=3)
    shown.on_waiting(["rollout-0"])
    clock["now"] = 10.0
    shown.on_waiting([])
    clock["now"] = 12.0
    shown.on_answered(answered(60))
    assert shown.line() == "1 of 3 prompts answered  30 tokens/s  12 s"
    clock["now"] = 30.0
    shown.on_answered(answered(40))
    shown.on_answered(answered(0))
    shown.on_end()
    told = capsys.readouterr()
    assert told.out == "", "standard output is for the results"
    assert told.err.splitlines() == [
        "starting rollout-0 ... (0 s)",
        "0 of 3 prompts answered  10 s",
        "2 of 3 prompts answered  5 tokens/s  30 s",
        "3 of 3 prompts answered  5 tokens/s  30 s",
    ]


def test_the_answers_of_generate_are_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = answering.Answering(prompts=2)
    shown.on_waiting(["rollout-0"])
    shown.on_waiting([])
    shown.on_answered(answered(5))
    shown.on_answered(answered(5))
    shown.on_end()
    assert "2/2" in capsys.readouterr().err

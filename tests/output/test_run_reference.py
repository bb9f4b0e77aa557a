"""A run and an iteration by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.output.run_reference import RunReference, policy_path


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run of three iterations that kept the last two policies, and evaluated the base policy and iterations 1 and 3."""
    run = tmp_path / "x"
    for name in ("policy", "policies/iteration_0002", "policies/iteration_0003", "evaluation"):
        (run / name).mkdir(parents=True)
    (run / "config.yaml").write_text("policy: {path: org/base}\n")
    (run / "summary.json").write_text(json.dumps({"iterations": 3}))
    for name in ("iteration_0000", "iteration_0001", "iteration_0003", "iteration_0003_against_base"):
        (run / "evaluation" / f"{name}.jsonl").write_text("")
    return run


def _named(text: str) -> RunReference:
    found = RunReference.read(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("suffix", "name", "policy", "answers"),
    [
        ("", "x", "policy", "iteration_0003"),
        ("@last", "x", "policy", "iteration_0003"),
        ("@3", "x@3", "policy", "iteration_0003"),
        ("@base", "x@base", "org/base", "iteration_0000"),
        ("@0", "x@base", "org/base", "iteration_0000"),
    ],
)
def test_a_policy_of_a_run_and_its_answers(finished: Path, suffix: str, name: str, policy: str, answers: str) -> None:
    found = _named(f"{finished}{suffix}")
    assert found.name == name
    assert found.policy() == (policy if "/" in policy else str(finished / policy))
    assert found.answers() == finished / "evaluation" / f"{answers}.jsonl"


def test_an_earlier_policy_is_the_one_that_was_kept(finished: Path) -> None:
    assert policy_path(f"{finished}@2") == str(finished / "policies" / "iteration_0002")
    with pytest.raises(ConfigError, match=r"no policy of iteration 1; there are: @2, @3, @base\. checkpoint\.policies"):
        policy_path(f"{finished}@1")
    with pytest.raises(ConfigError, match=r"there are answers of: @base, @1, @3\. raypref generate"):
        _named(f"{finished}@2").answers()


def test_a_policy_within_the_next_iteration_is_not_that_of_the_iteration(finished: Path) -> None:
    """The best one so far is kept, under the name of its checkpoint; that of the iteration it began with may be gone."""
    (finished / "policies" / "iteration_0001-step_000014").mkdir()
    with pytest.raises(ConfigError, match=r"no policy of iteration 1; there are: @2, @3, @base\."):
        policy_path(f"{finished}@1")


def test_of_an_unfinished_run_the_last_policy_is_the_newest_that_is_complete(finished: Path) -> None:
    (finished / "summary.json").unlink()
    assert policy_path(str(finished)) == str(finished / "policies" / "iteration_0003")


def test_what_is_no_run_stays_as_it_is(finished: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.yaml").write_text("")
    (model / "config.json").write_text("{}")
    for text in ("org/name", str(model), str(finished / "policy"), f"{tmp_path}/nothing@2", "@2"):
        assert RunReference.read(text) is None, text
        assert policy_path(text) == text
    with pytest.raises(ConfigError, match="'two' is no iteration of it"):
        RunReference.read(f"{finished}@two")


def test_a_config_may_start_from_a_run_s_policy(finished: Path) -> None:
    config = RunConfig.parse({"policy": {"path": f"{finished}@2"}, "loss": {"type": "sppo"}})
    assert config.policy.path == str(finished / "policies" / "iteration_0002")
    with pytest.raises(ConfigError, match=r"policy\.path: .*no policy of iteration 1"):
        RunConfig.parse({"policy": {"path": f"{finished}@1"}, "loss": {"type": "sppo"}})


def test_a_run_of_an_earlier_version_has_comparisons_but_no_answers(finished: Path) -> None:
    """The remedy is a command: it names the policy and the held-out prompts."""
    (finished / "config.yaml").write_text("policy: {path: org/base}\ndata: {held_out: data/held_out.jsonl}\n")
    for path in (finished / "evaluation").glob("*.jsonl"):
        path.unlink()
    (finished / "evaluation" / "iteration_0002_against_base.jsonl").touch()
    (finished / "evaluation" / "iteration_0003_against_base.jsonl").touch()
    with pytest.raises(ConfigError) as refused:
        _named(f"{finished}@2").answers()
    message = str(refused.value)
    assert "kept comparisons (evaluation/iteration_0002_against_base.jsonl) but no files of answers" in message
    assert f"raypref generate {finished}@2 --prompts data/held_out.jsonl --output x@2.jsonl" in message
    assert "--responses x@2.jsonl" in message

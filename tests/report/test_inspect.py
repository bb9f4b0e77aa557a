"""``raypref inspect RUN``: judging, batches and micro-batches of a run are found again from what it has written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from raypref.checks import Task
from raypref.cli.app import app
from raypref.compose import inspect
from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.loop.loading import load_run_data
from raypref.output.journal import Journal
from raypref.report.groups import groups_of, iteration_groups
from raypref.report.policy_logps import AFTER, BASE, BEFORE, logps_under
from raypref.report.replay import Replay
from raypref.report.run_directory import RunDirectory
from raypref.types import TokenSequence
from tests.report.runs import lines, made_run
from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model", tied=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Path) -> RunDirectory:
    """A run of two epochs over 2 x 20 prompts, every third of which is tied altogether and dropped."""
    directory = tmp_path_factory.mktemp("made") / "run"
    policy = {"path": str(model), "dtype": "float32"}
    made_run(
        directory, prompts=40, policy=policy, loop={"iterations": 2}, learner={"global_batch": 4, "epochs": 2}, placement={"device": "cpu"}
    )
    return RunDirectory(directory)


def policy_facts(config: RunConfig) -> Any:
    return inspect(config, Task())[1]


def replay_of(run: RunDirectory) -> Replay:
    assert run.config is not None
    return Replay(run.config, policy_facts(run.config))


def shown(run: RunDirectory, *options: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, ["inspect", str(run.path), *options])
    assert result.exit_code == 0, result.exception
    return result.output


def test_groups_are_judged_as_they_were(made: RunDirectory) -> None:
    groups = list(groups_of(made))
    assert len(groups) == 40
    assert [list(map(list, judged.picked)) for judged in replay_of(made).judged(groups)] == [group.row["picked"] for group in groups]


def test_every_step_has_the_tokens_that_the_learner_counted(made: RunDirectory) -> None:
    """In both epochs, and in the short batch at an iteration's end; examples are those of the journal, in the order of the prompts."""
    replay, counted = replay_of(made), {line["step"]: line["tokens"] for line in lines(made.path) if "tokens" in line}
    assert len(counted) == made.steps > 10
    places: list[int] = []
    for number, tokens in counted.items():
        step = replay.sampled_step(made, number)
        assert sum(len(response) for example in step.examples for response in example.response_ids) == tokens
        if step.epoch == 1 and step.iteration == 1:
            places += [example.prompt_index for example in step.examples]
    kept = [group.prompt_index for group in iteration_groups(made, 1) if group.row["picked"]]
    assert places == kept
    assert 0 < len(kept) < 20


def test_micro_batches_hold_every_example_once(made: RunDirectory) -> None:
    assert made.config is not None
    config = made.config.model_copy(update={"learner": made.config.learner.model_copy(update={"micro_batch_tokens": 24})})
    replay = Replay(config, None)
    step = replay.sampled_step(made, 1)
    plan, packing = replay.micro_batches(step)
    assert packing.kind == "prefix_sharing"
    assert len(plan[0]) > 1
    assert sorted(k for micro in plan[0] for k in micro.examples) == [0, 1, 2, 3]
    assert all(micro.padded_tokens <= 24 or len(micro.examples) == 1 for micro in plan[0])


def test_a_prompt_is_shown_with_its_targets_and_tokens(made: RunDirectory) -> None:
    """SPPO's target is eta (win rate - 1/2), with the win rate of the group's matrix."""
    group = next(group for group in groups_of(made) if group.row["picked"])
    text = shown(made, "--prompt", group.prompt_id)
    best = group.row["picked"][0][0]
    assert f"{10.0 * (group.matrix[best].mean() - 0.5):+.4f}" in text
    assert re.search(r"selection best_worst \(by=win_rate", text)
    assert "no loss (mask 0)" in text
    assert f"chosen, {len(group.row['response_token_ids'][best])} tokens, loss on each (mask 1)" in text
    assert shown(made, "--prompt", str(group.prompt_index)) == text


def test_a_step_is_shown_with_its_micro_batches(made: RunDirectory) -> None:
    text = shown(made, "--step", "3")
    assert "step 3: step 3 of iteration 1" in text
    assert "(as metrics.jsonl has it)" in text
    assert "micro-batches of 1 rank: at most 8192 tokens in a pass, inputs prefix_sharing, device cpu" in text


def test_groups_are_sorted_by_a_metric(made: RunDirectory) -> None:
    """Lengths of the newest iteration, the largest first, under a short name and under the full one."""
    text = shown(made, "--sort", "length", "--most", "5")
    values = [float(line.split()[2]) for line in text.splitlines()[2:]]
    means = [np.mean([len(ids) for ids in group.row["response_token_ids"]]) for group in iteration_groups(made, 2)]
    assert values == pytest.approx(sorted(means, reverse=True)[:5], abs=1e-3)
    assert shown(made, "--sort", "rollout/response_tokens", "--most", "5") == text
    assert shown(made, "--sort", "cycle", "--iteration", "1").startswith("iteration 1: ")


def test_log_probs_are_those_of_the_policies(made: RunDirectory, model: Path, tmp_path: Path) -> None:
    """Of the same policy the log-probs are the same; those of a token are the logarithm of the softmax of its logits."""
    import torch
    from transformers import AutoModelForCausalLM

    assert made.config is not None
    prompt, response = np.array([5, 6, 7], dtype=np.int32), np.array([8, 9], dtype=np.int32)
    sequences = [TokenSequence(prompt, response)]
    found = logps_under({BASE: model, BEFORE: model}, sequences, made.config)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.tensor([[5, 6, 7, 8, 9]])).logits[0]
    expected = sum(torch.log_softmax(logits[place], -1)[token] for place, token in ((2, 8), (3, 9)))
    assert found[BASE][0] == pytest.approx(float(expected), abs=1e-5)
    assert found[BEFORE] == found[BASE]
    with pytest.raises(ConfigError, match="cannot be loaded"):
        logps_under({AFTER: tmp_path}, sequences, made.config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "nobody"], "no such group"),
        (["--step", "999"], "the run has"),
        (["--sort", "beauty"], "no group has it; known: entropy"),
        (["--step", "1", "--prompt", "p1"], "give one of them"),
    ],
)
def test_what_is_not_there_is_named(made: RunDirectory, options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["inspect", str(made.path), *options])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_partners_of_mismatched_responses_are_found_again(tmp_path: Path, model: Path) -> None:
    """KTO's examples hold responses to another prompt; the learner counted their tokens, too."""
    policy = {"path": str(model), "dtype": "float32"}
    made_run(tmp_path / "run", loss={"type": "kto"}, loop={"iterations": 2}, policy=policy)
    run = RunDirectory(tmp_path / "run")
    replay, counted = replay_of(run), {line["step"]: line["tokens"] for line in lines(run.path) if "tokens" in line}
    for number, tokens in counted.items():
        step = replay.sampled_step(run, number)
        assert all(len(example.response_ids) == 4 for example in step.examples)
        assert sum(len(response) for example in step.examples for response in example.response_ids) == tokens


def test_steps_of_given_data(tmp_path: Path, model: Path) -> None:
    """6 pairs in 2 iterations, batches of 2: step 3 is the second of iteration 2 ... of which the last is short."""
    rows = [{"prompt": f"w{k}", "chosen": f"w{k + 1}", "rejected": f"w{k + 2}"} for k in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "output_dir": str(tmp_path / "run"),
        "policy": {"path": str(model), "dtype": "float32"},
        "data": {"type": "preferences", "path": str(tmp_path / "pairs.jsonl"), "chat_template": False, "shuffle": False},
        "loss": {"type": "dpo"},
        "loop": {"iterations": 2},
        "learner": {"global_batch": 2},
    }
    config = RunConfig.parse(values)
    replay = Replay(config, policy_facts(config))
    data = load_run_data(config, policy_facts(config))
    steps = [replay.given_step(data, number) for number in (1, 2, 3, 4)]
    assert [[example.prompt_index for example in step.examples] for step in steps] == [[0, 1], [2], [3, 4], [5]]
    assert [(step.iteration, step.place) for step in steps] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    with pytest.raises(ConfigError, match="the run has 4 steps"):
        replay.given_step(data, 5)


def test_overview_without_options(made: RunDirectory) -> None:
    assert "finished: 2 of 2 iterations finished" in shown(made)


def test_groups_of_an_iteration_within_a_file_of_several(tmp_path: Path) -> None:
    """Online iterations share a file of the journal, which is named after the last of them; the groups of a single one are found."""
    made_run(tmp_path / "run", prompts=60, loop={"sync_interval": 1, "steps": 4}, checkpoint={"every_steps": 3})
    run = RunDirectory(tmp_path / "run")
    together = list(groups_of(run))
    iterations = {group.iteration for group in together}
    assert len(iterations) == 4
    assert len(list((run.path / "rollouts").glob("*.parquet"))) < len(iterations)
    for number in iterations:
        alone = iteration_groups(run, number)
        assert [group.prompt_index for group in alone] == sorted(g.prompt_index for g in together if g.iteration == number)


def test_groups_of_a_journal_that_is_still_open(tmp_path: Path) -> None:
    """What is judged and not sealed is read, too: that of a killed run, or of one that goes on."""
    made_run(tmp_path / "run", loop={"iterations": 1}, prompts=8)
    run = RunDirectory(tmp_path / "run")
    before = list(groups_of(run))
    journal = Journal(run.path / "rollouts", "oracle-1")
    replay = Replay(RunConfig.parse(run.values), None)
    for group, judged in zip(before[:3], replay.judged(before[:3]), strict=True):
        journal.append(replace(group.rollout, origin=f"again {group.prompt_id}"), judged, group.transcript)
    journal.close()
    assert len(list(groups_of(run))) == len(before) + 3
    assert run.problems == []

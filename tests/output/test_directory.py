"""The output directory of a new run, and of one that goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from actors.learner import checkpoint as learner_checkpoint
from raypref import compose
from raypref.config import RunConfig
from raypref.data.fingerprint import Fingerprint
from raypref.errors import ConfigError, DataError
from raypref.output import directory as output
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.removal import take_away
from raypref.output.restarts import Restarts
from raypref.types import Example, RunData
from tests.fakes import prompt


def data_of(texts: str) -> RunData:
    """A prompt of each letter, named by its place as prompts without an id are; two held-out ones."""
    held_out = [replace(prompt(k, str(k)), text=text) for k, text in enumerate("hi")]
    return RunData([replace(prompt(k, str(k)), text=text) for k, text in enumerate(texts)], held_out=held_out)


DATA = data_of("abcd")


def config_for(directory: Path, **sections: Any) -> RunConfig:
    return RunConfig.parse({"output_dir": str(directory), "policy": {"path": "p"}, "loss": {"type": "sppo", "eta": 5}} | sections)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run of 2 steps an iteration that was stopped in its third, after step 5."""
    output.begin(config_for(tmp_path))
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 6, "cut o')
    rollouts = tmp_path / "rollouts"
    (rollouts / ".open").mkdir(parents=True)
    (rollouts / ".open" / "oracle-0.arrows").touch()
    for iteration in range(1, 4):
        (rollouts / f"iteration_{iteration:04d}-oracle-0-00.parquet").touch()
    save(tmp_path)
    return tmp_path


def save(directory: Path, data: RunData | None = None) -> None:
    """The checkpoint after two iterations."""
    checkpoints = Checkpoints(directory / "checkpoints", 2, Fingerprint.of(DATA if data is None else data))
    checkpoints.begin(RunState(2, 4, 16))
    checkpoints.complete_files(RunState(2, 4, 16))
    checkpoints.commit(RunState(2, 4, 16), evaluations=[])


def test_what_came_after_the_checkpoint_is_removed(stopped: Path) -> None:
    """The checkpoint stands after iteration 2 and step 4: step 5, the cut-off line and iteration 3 go."""
    newest = output.resume(config_for(stopped), DATA)
    assert newest.name == "iteration_0002"
    (newest / "learner.universal" / "state").mkdir(parents=True)
    output.rewind(config_for(stopped), newest)
    assert not (newest / "learner.universal").exists(), "an interrupted conversion leaves it"
    assert [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    left = sorted(path.name for path in (stopped / "rollouts").iterdir() if path.name != ".open")
    assert left == ["iteration_0001-oracle-0-00.parquet", "iteration_0002-oracle-0-00.parquet"]


@pytest.mark.parametrize("iterations", [2, 3])
def test_a_run_that_goes_on_after_its_end_is_not_finished(stopped: Path, iterations: int) -> None:
    """With more iterations, or from an earlier checkpoint: until it ends again nobody takes its last policy for the one of now. Where
    nothing is repeated it is finished still."""
    (stopped / "summary.json").write_text('{"iterations": 2}')
    config = config_for(stopped, loop={"iterations": iterations})
    output.rewind(config, Checkpoints.of(config).complete()[-1])
    assert (stopped / "summary.json").exists() == (iterations == 2)


def test_what_is_no_complete_checkpoint_is_removed(stopped: Path) -> None:
    """A run that was killed while it removed one, or wrote one that it never came to again, leaves files as large as a checkpoint."""
    for name in ("iteration_0001", "iteration_0002-step_000004"):
        (stopped / "checkpoints" / name / "learner").mkdir(parents=True)
    output.rewind(config_for(stopped), output.resume(config_for(stopped), DATA))
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["iteration_0002"]


def test_a_checkpoint_that_is_half_removed_is_not_complete(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is taken back to an earlier checkpoint, and killed while it removes the later ones."""
    config, checkpoints = config_for(stopped), Checkpoints.of(config_for(stopped))
    checkpoints.begin(RunState(3, 6, 24))
    checkpoints.commit(RunState(3, 6, 24), evaluations=[])
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        output.rewind(config, output.resume(config, DATA, Path("iteration_0002")))
    assert [path.name for path in checkpoints.complete()] == ["iteration_0002"]


def test_a_resumption_that_is_refused_late_changes_nothing(stopped: Path) -> None:
    """A ZeRO stage that DeepSpeed cannot convert to is refused as the learner's checkpoint is read, after config and data were compared."""
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    config = config_for(stopped, placement={"learner": {"ranks": 1}, "rollout": {"engines": 2}}, learner={"zero_stage": 3})
    newest = output.resume(config, DATA)
    (newest / "learner").mkdir()
    learner_checkpoint.write(newest / "learner", learner_checkpoint.Progress(), learner_checkpoint.Layout(2, 2))
    with pytest.raises(ConfigError, match=r"learner\.zero_stage: 3, but the checkpoint .* was written with 2"):
        compose._run_on_cluster(config, DATA, [], Restarts(config.checkpoint), newest, resumed=True)
    (newest / "learner" / "learner.json").unlink()
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_where_it_runs_may_change(stopped: Path) -> None:
    placement = {"rollout": {"engines": 2}, "learner": {"ranks": 3}}
    output.resume(config_for(stopped, placement=placement, loop={"overlap": False}, learner={"zero_stage": 1}), DATA)


def test_what_memory_it_takes_may_change(stopped: Path) -> None:
    """A run that ran out of memory goes on with smaller micro-batches and a smaller share for the engine."""
    less = {"learner": {"micro_batch_tokens": 512}, "rollout": {"gpu_memory_utilization": 0.5, "max_num_seqs": 8, "kv_cache_gib": 1.0}}
    policy = {"path": "p", "gradient_checkpointing": True}
    output.resume(config_for(stopped, **less, policy=policy), DATA)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"seed": 1}, ["seed: 1, but the run has 0; set it as its config.yaml has it"]),
        ({"loss": {"type": "sppo", "eta": 6}}, ["loss.eta: 6.0, but the run has 5.0; set it"]),
        ({"data": {"shuffle": False}}, ["data.shuffle: false, but the run has true"]),
        ({"rollout": {"kv_cache_gib": 1.0}, "data": {"template": "chat"}}, ["data.template: chat, but the run has null"]),
        ({"policy": {"path": "q"}, "seed": 2}, ["policy.path: q, but the run has p;", "seed: 2, but the run has 0;"]),
        ({"selection": {"type": "best_worst"}}, ["selection: {'type': 'best_worst', "]),
    ],
)
def test_what_it_computes_may_not(stopped: Path, sections: dict[str, Any], named: list[str]) -> None:
    """Every key is named with the value that it has now and the one that it had."""
    with pytest.raises(ConfigError) as error:
        output.resume(config_for(stopped, **sections), DATA)
    lines = str(error.value).splitlines()
    assert len(lines) == len(named)
    assert all(line.startswith(beginning) for line, beginning in zip(lines, named, strict=True)), lines
    assert len((stopped / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_value_that_is_gone_is_named(stopped: Path) -> None:
    output._write_config(config_for(stopped, data={"template": "chat"}))
    with pytest.raises(ConfigError, match=r"^data\.template: null, but the run has chat; set it as its config\.yaml has it$"):
        output.resume(config_for(stopped), DATA)


@pytest.mark.parametrize("key", ["path", "held_out", "split"])
def test_the_same_data_under_another_path_is_the_same(stopped: Path, key: str) -> None:
    moved = config_for(stopped, data={key: "/elsewhere/p.jsonl"})
    output.rewind(moved, output.resume(moved, DATA))
    assert yaml.safe_load((stopped / "config.yaml").read_text())["data"][key] == "/elsewhere/p.jsonl"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (data_of("abcde"), r"training data: 4 records before, 5 now; 1 of them are new or changed, the first is prompt '4' \('e'\)"),
        (data_of("abc"), r"training data: 4 records before, 3 now; 1 of the earlier ones are gone"),
        (data_of("abxy"), r"training data: 4 records before, 4 now; 2 of them are new or changed, the first is prompt '2' \('x'\)"),
        (data_of("bacd"), r"training data: .*; 2 of them are new or changed, the first is prompt '0' \('b'\)"),
        (
            RunData([*DATA.prompts[:1], *DATA.prompts[:0:-1]], held_out=DATA.held_out),
            r"training data: the same 4 records in another order; the first one that stands in another place is prompt '3' \('d'\)",
        ),
        (
            RunData([replace(DATA.prompts[0], chat=(("system", "s"), ("user", "a"))), *DATA.prompts[1:]], held_out=DATA.held_out),
            r"the first is prompt '0'",
        ),
        (RunData(DATA.prompts, held_out=data_of("hj").prompts), r"this run in .*: held-out prompts: 2 records before, 2 now; 1 of them"),
        (RunData(DATA.prompts), r"held-out prompts: 2 records before, 0 now; 2 of the earlier ones are gone"),
    ],
)
def test_data_that_changed_is_noticed(stopped: Path, data: RunData, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("this run in", "the run in")):
        output.resume(config_for(stopped), data)
    assert len((stopped / "metrics.jsonl").read_text().splitlines()) == 6, "nothing is removed"


def test_given_answers_that_changed_are_noticed(stopped: Path) -> None:
    """Another answer, or another target, to the same prompt. Token ids of prompts do not count: some templates write the date."""

    def examples(answer: int = 7, target: float = 1.0, prompt: int = 5, content: str = "c") -> RunData:
        ids = np.array([prompt], dtype=np.int32), np.array([answer], dtype=np.int32)
        made = [Example(k, f"p{k}", ids[:1], ids[1:], np.array([target]), None, content_id=content) for k in range(2)]
        return RunData(examples=made)

    save(stopped, examples())
    for changed in (examples(answer=8), examples(target=0.0), examples(content="d")):
        with pytest.raises(DataError, match=r"training data: 2 records before, 2 now; 2 of them .* the first is prompt 'p0'"):
            output.resume(config_for(stopped), changed)
    output.resume(config_for(stopped), examples(prompt=6))
    apart = RunData(examples=examples().examples, held_out_examples=examples(content="h").examples)
    with pytest.raises(DataError, match=r"held-out examples: 0 records before, 2 now; 2 of them are new or changed"):
        output.resume(config_for(stopped), apart)


def test_a_checkpoint_of_before_held_out_examples_is_accepted(stopped: Path) -> None:
    """Its hashes have no such kind, and its state no losses; the other kinds are compared."""
    hashes = stopped / "checkpoints" / "iteration_0002" / "data.npz"
    with np.load(hashes) as arrays:
        before = {name: arrays[name] for name in ("training", "held_out")}
    np.savez(hashes, allow_pickle=False, **before)
    hashes.with_name("manifest.json").unlink()  # an earlier version wrote none
    held_out = [Example(0, "p", (np.array([1]),), (np.array([2]),), np.zeros(1), None)]
    output.resume(config_for(stopped), replace(DATA, held_out_examples=held_out))
    with pytest.raises(DataError, match="training data"):
        output.resume(config_for(stopped), replace(data_of("abc"), held_out_examples=held_out))
    state = hashes.with_name("state.json")
    state.write_text(json.dumps({"state": {"iteration": 2, "step": 4, "cursor": 16}, "evaluations": []}))
    assert Checkpoints.read_held_out(state.parent) == []


def test_a_checkpoint_without_a_hash_of_the_data_is_accepted(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of an earlier version. It cannot be checked, which is said; then the path must be the same."""
    for name in ("data.npz", "manifest.json"):
        (stopped / "checkpoints" / "iteration_0002" / name).unlink()
    with pytest.raises(ConfigError, match=r"data\.path: elsewhere\.jsonl, but the run has null"):
        output.resume(config_for(stopped, data={"path": "elsewhere.jsonl"}), DATA)
    output.resume(config_for(stopped), data_of("x"))
    assert "iteration_0002 has no hash of the data: whether the data is that of the run cannot be checked" in caplog.text


def test_a_key_that_did_not_exist_has_its_default(stopped: Path) -> None:
    before = yaml.safe_load((stopped / "config.yaml").read_text())
    del before["data"]["overlong"], before["sync"]
    (stopped / "config.yaml").write_text(yaml.safe_dump(before))
    with pytest.raises(ConfigError, match=r"^data\.overlong: refuse, but the run has drop"):
        output.resume(config_for(stopped, data={"overlong": "refuse"}), DATA)
    output.resume(config_for(stopped), DATA)


@pytest.mark.parametrize(
    ("loop", "now", "schedule", "message"),
    [
        ({"prompts_per_iteration": 8}, {"iterations": 5}, {}, None),
        ({"prompts_per_iteration": 8}, {"iterations": 2}, {}, None),
        ({"prompts_per_iteration": 8}, {"iterations": 1}, {}, "loop.iterations: 1, but the run has 3, and 2 iterations are finished"),
        ({}, {"iterations": 5}, {}, "loop.iterations: 5, but the run has 3, and its prompts are split evenly over the iterations"),
        ({"sync_interval": 2}, {"iterations": 5}, {"span": "iteration"}, None),
        ({"sync_interval": 2}, {"iterations": 5}, {"type": "constant", "warmup_ratio": 0.0}, None),
        (
            {"sync_interval": 2},
            {"iterations": 5},
            {},
            "loop.iterations: 5, but the run has 3, and its learning rate",
        ),
        ({"sync_interval": 2}, {"iterations": 5}, {"type": "constant"}, "loop.iterations: 5, but the run has 3, and its learning rate"),
        ({"sync_interval": 2, "steps": 6}, {"steps": 10}, {"span": "iteration"}, None),
        ({"sync_interval": 2, "steps": 6}, {"steps": 2}, {"span": "iteration"}, "loop.steps: 2, but the run has 6, and 2 iterations are"),
    ],
)
def test_a_run_can_be_made_longer(
    stopped: Path, loop: dict[str, int], now: dict[str, int], schedule: dict[str, Any], message: str | None
) -> None:
    """Where nothing that was computed so far depends on its length. Two iterations are finished."""
    sections: dict[str, Any] = {"learner": {"schedule": schedule}}
    output._write_config(config_for(stopped, loop=loop, **sections))
    longer = config_for(stopped, loop=loop | now, **sections)
    if message is None:
        output.rewind(longer, output.resume(longer, DATA))
        assert RunConfig.parse(yaml.safe_load((stopped / "config.yaml").read_text())).iterations == longer.iterations
        return
    with pytest.raises(ConfigError) as error:
        output.resume(longer, DATA)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("config.yaml", "a: [", r"--resume: .*config\.yaml cannot be read: "),
        ("config.yaml", "", r"--resume: .*config\.yaml holds no config; restore it"),
        (
            "checkpoints/iteration_0002/state.json",
            "{",
            r"--resume: every checkpoint is damaged: .*state\.json cannot be read",
        ),
        ("checkpoints/iteration_0002/state.json", "{}", r"--resume: every checkpoint is damaged: .*state\.json cannot be read"),
        ("checkpoints/iteration_0002/state.json", "null", r"--resume: every checkpoint is damaged: .*state\.json cannot be read"),
        ("checkpoints/iteration_0002/data.npz", "", r"data\.npz has 0 bytes, of [\d,]+ that were written"),
        ("checkpoints/iteration_0002/data.npz", "not a zip file", r"data\.npz has 14 bytes, of [\d,]+ that were written"),
        ("checkpoints/iteration_0002/manifest.json", "{", r"manifest\.json is damaged"),
        ("checkpoints/iteration_0002/manifest.json", '{"data.npz": 1}', r"manifest\.json is damaged"),
    ],
)
def test_damaged_files_are_named(stopped: Path, path: str, text: str, message: str) -> None:
    (stopped / path).write_text(text)
    with pytest.raises(ConfigError, match=message):
        output.resume(config_for(stopped), DATA)


def test_another_run_is_left_alone(stopped: Path) -> None:
    with pytest.raises(ConfigError, match="holds another run; continue it with --resume, or choose"):
        output.begin(config_for(stopped))


def test_a_run_without_a_checkpoint_is_not_told_to_resume(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match="holds another run; choose or empty"):
        output.begin(config_for(tmp_path))


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    """Step 0 is repeated, too, and its metrics are written anew."""
    output.begin(config_for(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "sync/kl": 0.0}\n{"step": 1, "loss": 0.7}\n')
    assert output.holds_run(config_for(tmp_path))
    assert output.resume(config_for(tmp_path), DATA) is None
    output.rewind(config_for(tmp_path), None)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    with pytest.raises(ConfigError, match="seed: 4, but the run has"):
        output.resume(config_for(tmp_path, seed=4), DATA)


def test_a_checkpoint_within_an_iteration_is_gone_back_to(stopped: Path) -> None:
    """After step 3, in the second iteration: the checkpoints and the metrics behind it go; one iteration would be too short."""
    shutil.rmtree(stopped / "checkpoints")
    checkpoints = Checkpoints(stopped / "checkpoints", 9)
    for state in (RunState(1, 2, 8), RunState(1, 3, 8, 1, 4), RunState(1, 4, 8, 2, 8), RunState(2, 5, 16)):
        checkpoints.begin(state)
        checkpoints.complete_files(state)
        checkpoints.commit(state, [])
    chosen = Path("iteration_0001-step_000003")
    with pytest.raises(ConfigError, match=r"loop\.iterations: 1, but the run has \d, and iteration 2 has begun"):
        output.resume(config_for(stopped, loop={"iterations": 1}), DATA, chosen)
    output.rewind(config_for(stopped), output.resume(config_for(stopped), DATA, chosen))
    assert [path.name for path in checkpoints.complete()] == ["iteration_0001", "iteration_0001-step_000003"]
    assert [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    output.rewind(config_for(stopped), checkpoints.choose(Path("iteration_0001")))
    assert [path.name for path in checkpoints.complete()] == ["iteration_0001"]


def test_there_is_nothing_to_resume_where_no_run_was_begun(tmp_path: Path) -> None:
    assert not output.holds_run(config_for(tmp_path))
    with pytest.raises(ConfigError, match=r"--resume: .* holds no run; start one without --resume"):
        output.resume(config_for(tmp_path), DATA)


def test_an_earlier_checkpoint_can_be_chosen_and_the_later_ones_go(stopped: Path) -> None:
    checkpoints = Checkpoints(stopped / "checkpoints", 2)
    if len(checkpoints.complete()) < 2:
        checkpoints.begin(RunState(1, 1, 1))
        checkpoints.commit(RunState(1, 1, 1), [])
    (stopped / "capability").mkdir()
    for name in ("base", "iteration_0001", "iteration_0001-step_000009", "iteration_0002"):  # the last two are trained again, and measured
        (stopped / "capability" / f"{name}.json").touch()
    resumed = output.resume(config_for(stopped), DATA, Path("iteration_0001"))
    assert resumed == stopped / "checkpoints" / "iteration_0001"
    output.rewind(config_for(stopped), resumed)
    assert checkpoints.complete() == [resumed]
    assert sorted(path.name for path in (stopped / "capability").iterdir()) == ["base.json", "iteration_0001.json"]


def test_overwrite_removes_what_a_run_has_written_and_nothing_else(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once the checks have passed: where the new run reads a file of the earlier one, everything stays as it is."""
    config = config_for(stopped)
    (stopped / "notes.txt").write_text("mine")
    for name in ("trackers.json", "plan.json", "capability/iteration_0001.json"):  # read by a run, or by its report
        (stopped / name).parent.mkdir(exist_ok=True)
        (stopped / name).touch()
    reads = config.model_copy(update={"data": config.data.model_copy(update={"path": str(stopped / "metrics.jsonl")})})
    with pytest.raises(ConfigError, match="which the run reads"):
        output.begin(reads, overwrite=True)
    assert Checkpoints.of(config).complete()
    output.begin(config, overwrite=True)
    assert sorted(path.name for path in stopped.iterdir()) == ["config.yaml", "notes.txt"]
    assert "the run there is removed" in caplog.text


@pytest.mark.parametrize("removed", range(4))
def test_what_is_half_removed_is_not_resumed(stopped: Path, monkeypatch: pytest.MonkeyPatch, removed: int) -> None:
    """``raypref train --overwrite --supervise`` is killed while the earlier run is removed: its second attempt, ``--resume=auto``, does not
    continue that one. Nor does it begin among its checkpoints; ``--overwrite`` does."""
    config = config_for(stopped)
    (stopped / "evaluation").mkdir()
    removals = iter([take_away] * removed)
    monkeypatch.setattr(output, "take_away", lambda path: next(removals)(path))
    if removed < 3:
        with pytest.raises(StopIteration):
            output.begin_or_resume(config, DATA, False, overwrite=True)
        with pytest.raises(ConfigError, match="holds another run; choose or empty a directory, or replace it with --overwrite"):
            output.begin_or_resume(config, DATA, "auto")
    monkeypatch.undo()
    assert output.begin_or_resume(config, DATA, False, overwrite=True) == (False, None)
    assert [path.name for path in stopped.iterdir()] == ["config.yaml"]


def test_overwrite_and_resume_contradict_each_other(stopped: Path) -> None:
    with pytest.raises(ConfigError, match="overwrite: removes the run that resume would continue"):
        output.begin_or_resume(config_for(stopped), DATA, True, overwrite=True)
    assert Checkpoints.of(config_for(stopped)).complete()

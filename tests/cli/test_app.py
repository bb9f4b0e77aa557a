"""The command as a shell sees it."""

from __future__ import annotations

import io
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import raypref
import raypref.compose
from raypref.cli import app as cli
from raypref.cli import ending
from raypref.config import RunConfig
from raypref.errors import ConfigError, LossNotFinite, RunFailed, SyncError
from raypref.output.checkpoint import Checkpoints, RunState


def shell(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What the ``raypref`` script does; unlike ``python -m`` it does not put the current directory on the path."""
    root = str(Path(raypref.__file__).parents[1])
    command = [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path.insert(0, {root!r}); from raypref.cli.app import main; main()",
        *arguments,
    ]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_version(tmp_path: Path) -> None:
    done = shell("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, raypref.__version__)


def test_a_wrong_config_is_one_message_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("policy: {path: p}\nloss: {type: sppo, etta: 3}\n")
    done = shell("train", "run.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: loss.etta: unknown key; did you mean 'eta'?"


def test_a_model_directory_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("policy: {path: ./nowhere}\nloss: {type: sft}\ndata: {type: demonstrations}\n")
    monkeypatch.chdir(tmp_path)
    assert ending.ended_by(lambda: cli.app(["train", "run.yaml", f"output_dir={tmp_path / 'run'}"])) == 2
    assert capsys.readouterr().err.startswith("error: policy.path: no model directory at './nowhere'")
    assert not (tmp_path / "run").exists()


def test_modules_beside_the_config_are_found(tmp_path: Path) -> None:
    """The function is found in the current directory; what is wrong then is the model."""
    (tmp_path / "mine.py").write_text("def judge(prompts, responses):\n    return []\n")
    (tmp_path / "run.yaml").write_text(
        "policy: {path: ./nowhere}\nloss: {type: sppo}\nselection: {type: best_worst}\noracle: {type: callable, function: 'mine:judge'}\n"
    )
    done = shell("train", "run.yaml", cwd=tmp_path)
    assert "policy.path" in done.stderr


def test_log_lines_go_to_what_is_standard_error_at_the_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A live progress line puts another stream in its place."""
    handler = cli._Log()
    live = io.StringIO()
    monkeypatch.setattr(sys, "stderr", live)
    handler.handle(logging.makeLogRecord({"msg": "started"}))
    assert live.getvalue() == "started\n"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("saved", "message"), [(True, "stopped; --resume continues from {} (after iteration 1, step 0)"), (False, "stopped; no iteration had")]
)
def test_who_stops_a_run_is_told_how_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, saved: bool, message: str) -> None:
    def interrupted(config: RunConfig, **_: object) -> None:
        checkpoints = Checkpoints(config.output_dir / "checkpoints", 2)
        if saved:
            checkpoints.begin(RunState(iteration=1))
            checkpoints.commit(RunState(iteration=1), [])
        raise KeyboardInterrupt

    monkeypatch.setattr(raypref.compose, "run", interrupted)
    (tmp_path / "run.yaml").write_text(f"policy: {{path: p}}\nloss: {{type: sppo}}\noutput_dir: {tmp_path}\n")
    done = CliRunner().invoke(cli.app, ["train", str(tmp_path / "run.yaml")])
    assert done.exit_code == 130
    checkpoint = tmp_path / "checkpoints" / "iteration_0001"
    assert done.stderr.startswith(message.format(checkpoint))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("policy.path: it is gone"), 2),
        (RunFailed("rollout-1 died"), 3),
        (SyncError("rollout-1 does not hold the weights"), 4),
        (LossNotFinite("it is nan"), 4),
        (KeyboardInterrupt(), 130),
        (SystemExit(5), 5),
        (SystemExit("text"), 1),
        (SystemExit(None), 0),
    ],
)
def test_the_exit_code_tells_whether_a_restart_may_help(capsys: pytest.CaptureFixture[str], error: BaseException, code: int) -> None:
    def command() -> None:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert ending.ended_by(command) == code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == (f"error: {error}\n" if code in {2, 3, 4} else "")


def test_sigterm_is_told_apart_from_ctrl_c() -> None:
    def command() -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert ending.ended_by(command) == 143
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "resume", "overrides"),
    [
        (["run.yaml"], False, []),
        (["run.yaml", "--resume"], True, []),
        (["--resume", "run.yaml"], True, []),
        (["run.yaml", "--resume", "loop.steps=3"], True, ["loop.steps=3"]),
        (["run.yaml", "loop.steps=3", "--resume"], True, ["loop.steps=3"]),
        (["run.yaml", "--resume=auto", "loop.steps=3"], "auto", ["loop.steps=3"]),
        (["--resume", "auto", "run.yaml"], "auto", []),
        (["run.yaml", "--resume", "iteration_0001"], Path("iteration_0001"), []),
        (["run.yaml", "--resume", "a/checkpoints/iteration_0001/", "loop.steps=3"], Path("a/checkpoints/iteration_0001"), ["loop.steps=3"]),
        (["run.yaml", "--resume", "iteration_0001-step_000350", "loop.steps=3"], Path("iteration_0001-step_000350"), ["loop.steps=3"]),
        (["run.yaml", "--resume=somewhere"], Path("somewhere"), []),
    ],
)
def test_what_a_run_is_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], resume: object, overrides: list[str]
) -> None:
    given: list[object] = []

    def run(_: RunConfig, *, resume: object, overwrite: bool) -> None:
        given.append(resume)
        assert not overwrite
        raise KeyboardInterrupt

    monkeypatch.setattr(raypref.compose, "run", run)
    load_config = raypref.load_config
    monkeypatch.setattr("raypref.config.load_config", lambda path, given_overrides: given.append(given_overrides) or load_config(path))
    (tmp_path / "run.yaml").write_text(f"policy: {{path: p}}\nloss: {{type: sppo}}\noutput_dir: {tmp_path}\n")
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(cli.app, cli.resume_with_value(["train", *arguments]))
    assert given == [overrides, resume]


def test_sigterm_ends_a_background_job_of_a_script_too() -> None:
    """A shell without job control has its background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            ending.Termination()(signal.SIGTERM, None)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "words",
    [
        ["capability", "--tasks", "arc_easy"],
        ["generate", "--prompts", "p.jsonl", "--output", "o.jsonl"],
        ["mt-bench", "answer", "--questions", "q.jsonl", "--output", "o.jsonl"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_run_that_does_not_exist_is_what_is_said_first(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that an option is missing, nor that a config file of the name ``nope@2`` is."""
    monkeypatch.chdir(tmp_path)
    for name in ("p.jsonl", "q.jsonl"):
        Path(name).write_text('{"question_id": 1, "category": "math", "turns": ["a", "b"]}\n')
    command = words[: 2 if words[1] == "answer" else 1]
    refused = CliRunner().invoke(cli.app, [*command, "nope@2", *words[len(command) :]]).exception
    assert str(refused) == "nope@2: nope does not exist; give a run's YAML file, or the output_dir of a run before the @"
    Path("nope").mkdir()
    assert "nope holds no run" in str(CliRunner().invoke(cli.app, [*command, "nope@2", *words[len(command) :]]).exception)

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
from raypref.config import RunConfig
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


def test_a_model_directory_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("policy: {path: ./nowhere}\nloss: {type: sft}\ndata: {type: demonstrations}\n")
    done = shell("train", "run.yaml", f"output_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: policy.path: no model directory at './nowhere'")
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
    ("saved", "message"), [(True, "stopped; --resume continues from {}"), (False, "stopped before the first checkpoint")]
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
    assert done.stderr.startswith(f"stopped; --resume continues from {checkpoint}" if saved else "stopped before the first checkpoint")


def test_sigterm_ends_a_background_job_of_a_script_too() -> None:
    """A shell without job control has its background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            cli._interrupt()
    finally:
        signal.signal(signal.SIGINT, before)

"""What holds for every command: its help fits a screen, and what goes wrong is one clear paragraph, without a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from raypref.cli import ending
from raypref.cli.app import app
from raypref.cli.config import reference
from raypref.settings.reference import entries
from tests.cli.test_app import shell

WIDTH, HEIGHT = 80, 40


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))
LEAVES = [path for path, command in COMMANDS.items() if not hasattr(command, "commands")]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_fits_a_screen(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    lines = CliRunner().invoke(app, [*path, "--help"], prog_name="python -m raypref").output.splitlines()  # the longer of its names
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH


def test_the_help_of_inspect_names_what_one_looks_for() -> None:
    shown = CliRunner().invoke(app, ["inspect", "--help"]).output
    for option in ("RUN --prompt ID", "RUN --step N", "RUN --sort METRIC", "data CONFIG"):
        assert f"raypref inspect {option}" in shown


@pytest.mark.parametrize("about", [None, *(entry.name for entry in entries() if entry.name)])
def test_the_reference_of_keys_fits_the_width_of_a_screen(about: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    lines = reference(about, None).splitlines()
    assert [line for line in lines if len(line) > WIDTH and " " in line.strip()] == []


def arguments_of(command: Any, value: str) -> list[str]:
    """The command's required arguments and options, all with one value; of an option with choices the first one."""
    words: list[str] = []
    for parameter in command.params:
        if parameter.required or parameter.param_type_name == "argument":
            annotation = parameter.type_descriptor.annotation
            choices = get_args(annotation) if get_origin(annotation) is Literal else ()
            given = str(choices[0]) if choices else "seed=1" if parameter.name == "overrides" else value
            if parameter.required or parameter.name != "overrides":
                words += [given] if parameter.param_type_name == "argument" else [parameter.opts[0], given]
    return words


def ended(path: tuple[str, ...], words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and error output of a command, as ``main`` ends it."""
    code = ending.ended_by(lambda: app([*path, *words]))
    return code, capsys.readouterr().err


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_inputs_that_are_not_there_end_in_one_paragraph(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every argument names something that does not exist; of ``init``, a directory that cannot be made; a job server that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    (tmp_path / "file").write_text("")
    code, said = ended(path, arguments_of(COMMANDS[path], str(tmp_path / "file" / "nothing")), capsys)
    assert code != 0
    assert "Traceback" not in said
    assert said.startswith("error: ")
    assert said.count("error: ") == 1
    assert "\n\n" not in said.strip()


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_an_option_that_does_not_exist_is_named(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ended(path, ["--nothing-like-it"], capsys)
    assert code == 2
    assert said.strip().splitlines()[-1].startswith("Error: No such option: --nothing-like-it")


TAKES_CONFIG = [path for path in LEAVES if any(parameter.name == "config" for parameter in COMMANDS[path].params)]


@pytest.mark.parametrize("path", TAKES_CONFIG, ids=" ".join)
@pytest.mark.parametrize("content", ["policy: {path: p}\nloss: {type: sppo, etta: 3}\n", "- a list\n", "policy: {path\n", ""])
def test_a_wrong_config_is_refused_by_each_command_that_takes_one(
    path: tuple[str, ...], content: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(content)
    words = arguments_of(COMMANDS[path], "out.jsonl")
    words[[word for word in words if not word.startswith("-")].index("out.jsonl")] = "run.yaml"
    code, said = ended(path, words, capsys)
    assert code == 2
    assert said.startswith("error: ")
    assert "Traceback" not in said


def test_debug_shows_the_traceback_and_the_paragraph(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("policy: {path: p}\nloss: {type: sppo, etta: 3}\n")
    done = shell("check", "nowhere.yaml", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.strip().splitlines()[-1] == "error: nowhere.yaml: no such config file"


@pytest.mark.parametrize("debug", [True, False])
def test_a_fault_that_nobody_foresaw_is_one_paragraph_whose_traceback_is_kept(debug: bool, tmp_path: Path) -> None:
    """A command that divides by 0."""
    code = (
        "import sys, types; from raypref.cli import app; app.app.command('fault')(lambda: 1 // 0)\n"
        f"sys.argv = ['raypref', 'fault'] + ['--debug'] * {debug}; app.main()"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {"PYTHONPATH": root, "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == debug
    if not debug:
        assert done.stderr.startswith("error: ZeroDivisionError: ")
        (kept,) = tmp_path.glob("raypref-*.txt")
        assert str(kept) in done.stderr
        assert "Traceback" in kept.read_text()

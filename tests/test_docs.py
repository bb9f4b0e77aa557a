"""The documentation: every code block of README.md, CONTRIBUTING.md, docs/ and examples/ is run, and the site builds without a warning.

What is done with a block is decided by its language:

- ``python`` is executed, the blocks of a page in one namespace. A block that begins with ``# folder/module.py`` is also that file, which a
  page's configs may name (``type: folder.module:Class``). ``raypref.run`` does everything up to the start of the actors: the objects in
  place of sections, the config's checks, the data, the model's files. ``raypref.generate`` checks the config.
- ``yaml`` is a run's config, or a part of one, which is put over the config below: it loads, and passes the check. A manifest of Kubernetes
  is read.
- ``bash`` has commands: those of raypref are parsed by the real command line, their configs and overrides loaded; targets of make exist.
- ``json`` is read; with one line for each record it is JSON Lines.
- ``text`` is output, a picture or a formula, and holds no command.

``<!-- setup`` before a block, closed by ``-->``, holds Python that runs first and that readers do not see.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

import raypref
import raypref.compose
from raypref.cli import app as cli
from raypref.config import RunConfig
from raypref.output.outcome import Outcome
from raypref.output.summary import RunResult
from tests.tiny_models import make_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
LANGUAGES = {"python", "yaml", "bash", "json", "text", "math"}
BASE: dict[str, Any] = {
    "output_dir": "runs/page",
    "policy": {"path": "model", "dtype": "float32"},
    "data": {"path": "prompts.jsonl", "chat_template": False},
    "rollout": {"responses": 4, "max_tokens": 32},
    "oracle": {"type": "callable", "function": "tests.test_docs:longer"},
    "selection": {"type": "best_worst"},
    "loss": {"type": "sppo"},
    "placement": {"device": "cpu"},
}
"""What a page's partial config is put over; ``run.yaml`` in its commands."""
OTHER_COMMANDS = {
    ".",
    "cd",
    "curl",
    "docker",
    "export",
    "git",
    "kubectl",
    "mkdocs",
    "pip",
    "py-spy",
    "ray",
    "sbatch",
    "scancel",
    "squeue",
    "tensorboard",
}
"""Commands of others: their options are not checked."""


def longer(prompts: list[str], responses: list[list[str]]) -> list[Any]:
    """The longer response is better."""
    import numpy as np

    lengths = [np.array([len(text) for text in group]) for group in responses]
    return [1 / (1 + np.exp(row[None, :] - row[:, None])) for row in lengths]


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    setup: str = ""
    """Hidden code that runs before it."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass
class Sandbox:
    """A directory in which a page's blocks run, with a tiny model and a few prompts."""

    directory: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})

    def config(self, values: dict[str, Any]) -> RunConfig:
        """A page's config over the base config; a section that has a type of its own replaces that of the base."""
        merged = dict(BASE)
        for key, value in values.items():
            old = merged.get(key)
            keeps = isinstance(old, dict) and isinstance(value, dict) and value.get("type") in (None, old.get("type"))
            merged[key] = old | value if keeps and isinstance(old, dict) else value
        if "data" in values and values["data"].get("type", "prompts") != "prompts" and "loss" not in values:
            merged["loss"] = {"type": "sft"} if values["data"]["type"] == "demonstrations" else {"type": "dpo"}
        return RunConfig.parse(merged)


_BLOCK = re.compile(
    r"(?:^<!-- setup\n(?P<setup>.*?)-->\n+)?^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(content):
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = content.count("\n", 0, match.start("language")) + 1
        found.append(Block(page, line, match["language"].strip(), text, match["setup"] or ""))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [page for page in PAGES if any(block.language in ("python", "yaml", "bash") for block in blocks_of(page))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("docs") / "model", tied=True)


@pytest.fixture
def sandbox(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """The current directory of a page. What is registered or imported in it ends with the test."""
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"w{k} w{k + 1}"}) + "\n" for k in range(40)))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(raypref.compose, "_run_on_cluster", _finished)
    monkeypatch.setattr(raypref.compose, "_actors", _no_actors)
    for registry in (raypref.losses.base.losses, raypref.selection.base.selections, raypref.oracles.base.oracles):
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    before = set(sys.modules)
    yield Sandbox(tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def _finished(config: RunConfig, data: Any, callbacks: Any, restarts: Any, resume_from: Path | None, *, resumed: bool) -> RunResult:
    """In place of the run on a cluster: its oracle answers one group of the run's first prompt, as the run would ask it."""
    if config.oracle is not None and config.oracle.type == "callable":
        from raypref.oracles.base import Question

        question = Question("0", "w1 w2", ("a", "bb", "ccc"), ((0, 1), (0, 2), (1, 2)))
        (answer,) = config.oracle.compare([question])
        assert answer.values.shape == (3, 3)
    return RunResult.written(config, Outcome(), run_s=0.0)


class _Reached(Exception):
    """Everything before the actors' start has been done."""


@contextlib.contextmanager
def _no_actors(*_: Any) -> Iterator[Any]:
    raise _Reached
    yield


# ---------------------------------------------------------------------------------------------- what blocks hold


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    """Nothing escapes the tests below as a block without a language, or as text."""
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block}: {block.language!r} is none of {sorted(LANGUAGES)}"
        commands = [line for line in block.text.splitlines() if re.match(r"\s*(\$ )?(raypref|make|python -m|pip) [a-z-]", line)]
        assert block.language != "text" or not commands, f"{block}: commands belong into a bash block: {commands}"
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(fences) == 2 * len(blocks_of(page)), f"{page}: a block is not closed, or nested"


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page: Path, sandbox: Sandbox) -> None:
    for block in blocks_of(page):
        if block.setup:
            exec(compile(block.setup, str(block), "exec", dont_inherit=True), sandbox.names)
        runner = {"python": run_python, "yaml": run_yaml, "bash": run_bash, "json": read_json}.get(block.language)
        if runner is not None:
            runner(block, sandbox)


def run_python(block: Block, sandbox: Sandbox) -> None:
    """Execute it; ``_Reached`` is as far as it may go."""
    first = re.match(r"# ([\w/]+\.py)\b", block.text)
    if first:
        path = sandbox.directory / first[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        name = first[1].removesuffix(".py").replace("/", ".")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        sandbox.names |= {key: value for key, value in vars(module).items() if not key.startswith("__")}
        return
    with contextlib.suppress(_Reached):
        exec(compile(block.text, str(block), "exec", dont_inherit=True), sandbox.names)


def run_yaml(block: Block, sandbox: Sandbox) -> None:
    """Load it, and check it."""
    for values in yaml.safe_load_all(block.text):
        assert isinstance(values, dict), f"{block}: not a mapping"
        if "apiVersion" in values:
            continue
        config = sandbox.config(values)
        assert [str(problem) for problem in raypref.check(config)] == [], str(block)


def read_json(block: Block, sandbox: Sandbox) -> None:
    """One value, or one on each line."""
    try:
        json.loads(block.text)
    except json.JSONDecodeError:
        for line in block.text.splitlines():
            json.loads(line)


# ------------------------------------------------------------------------------------------------- commands


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command: continued lines joined, comments left out, ``&&`` and ``;`` taken apart, assignments before it dropped."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True, posix=True)
        command: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", ";", "|", "&"):
                while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                    command.pop(0)
                if command:
                    yield command
                command = []
            else:
                command.append(word)


def run_bash(block: Block, sandbox: Sandbox) -> None:
    for command in commands_of(block.text):
        check_command(command, block, sandbox)


def check_command(words: list[str], block: Block, sandbox: Sandbox) -> None:
    name, *arguments = words
    name = name.removeprefix(".venv/bin/")
    if name == "make":
        check_make(arguments, block)
    elif name == "raypref":
        check_raypref(arguments, block, sandbox)
    elif name in ("python", "python3.11", "python3.12"):
        check_python(arguments, block, sandbox)
    elif name == "ray" and "--" in arguments:
        check_command(arguments[arguments.index("--") + 1 :], block, sandbox)
    elif name == "pre-commit" or (ROOT / name).is_file():
        return
    else:
        assert name in OTHER_COMMANDS, f"{block}: unknown command {name!r}"


def check_make(arguments: list[str], block: Block) -> None:
    """Targets and variables are those of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for argument in arguments:
        variable, is_assignment, _ = argument.partition("=")
        pattern = rf"\$\(?{variable}\)?|^{variable}\b|\$\{{{variable}" if is_assignment else rf"^{argument}:"
        scripts = makefile + (ROOT / "scripts" / "setup.sh").read_text()
        assert re.search(pattern, scripts if is_assignment else makefile, re.MULTILINE), f"{block}: make has no {argument}"


def check_raypref(arguments: list[str], block: Block, sandbox: Sandbox) -> None:
    """The command line takes the arguments; the config and its overrides load."""
    root: Any = typer.main.get_command(cli.app)
    command, context, rest = root, click.Context(root, info_name="raypref"), cli.resume_with_value(arguments)
    try:
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            _, command, rest = command.resolve_command(context, rest)
            assert command is not None
            context = click.Context(command, info_name=command.name, parent=context)
        if isinstance(command, click.Group):
            assert rest in (["--help"], ["--version"]), f"{block}: raypref {shlex.join(arguments)}"
            return
        context = command.make_context(str(command.name), list(rest), parent=context.parent)
    except click.exceptions.Exit:
        return  # --help
    except click.UsageError as error:
        pytest.fail(f"{block}: raypref {shlex.join(arguments)}: {error.format_message()}")
    overrides = context.params.get("overrides")
    config = context.params.get("config")
    if overrides:
        check_overrides(config, overrides, block, sandbox)


def check_overrides(config: Any, overrides: list[str], block: Block, sandbox: Sandbox) -> None:
    """They load with the config that is named, where the repository has it; otherwise with the page's own."""
    path = ROOT / str(config)
    if not path.is_file():
        path = sandbox.directory / "run.yaml"
    loaded = raypref.load_config(path, overrides)
    assert [str(problem) for problem in raypref.check(loaded)] == [], str(block)


def check_python(arguments: list[str], block: Block, sandbox: Sandbox) -> None:
    """A module of this repository exists, and takes the overrides; pip's extras are there."""
    assert arguments, f"{block}: python without arguments"
    if arguments[0] != "-m":
        assert (ROOT / arguments[0]).exists() or (sandbox.directory / arguments[0]).exists(), f"{block}: no file {arguments[0]}"
        return
    module, *rest = arguments[1:]
    if module == "raypref":
        check_raypref(rest, block, sandbox)
    elif module == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in rest:
            named = re.fullmatch(r"(?:\.|raypref)\[([\w,]+)\].*", word)
            assert named is None or set(named[1].split(",")) <= set(extras), f"{block}: {word}"
    else:
        assert importlib.util.find_spec(module) is not None, f"{block}: no module {module}"
        if module == "benchmarks":
            names = [word for word in rest[:1] if not word.startswith("-") and word not in ("all", "NAME")]
            assert all((ROOT / "benchmarks" / f"{name}.py").exists() or (ROOT / "benchmarks" / name).is_dir() for name in names), str(block)
        if re.fullmatch(r"examples\.\w+\.run", module):
            folder = ROOT / "examples" / module.split(".")[1]
            named_file = [word for word in rest[:1] if "=" not in word]
            loaded = raypref.load_config(folder / (named_file or ["run.yaml"])[0], rest[len(named_file) :])
            assert [str(problem) for problem in raypref.check(loaded)] == [], str(block)


# ------------------------------------------------------------------------------------------------- the site


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """As `make docs` does it. Formulas are there as MathML, and no page asks another host for a script, a style or a picture."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > len(PAGES) / 2
    elsewhere = re.compile(r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//[^\"]*|<link[^>]+rel=\"stylesheet\"[^>]+href=\"https?:[^\"]*")
    for path, content in pages.items():
        assert elsewhere.findall(content) == [], path
        assert 'class="arithmatex"' not in content, path

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import raypref
import raypref.compose
from raypref.checks import Task, check
from raypref.cli import app as cli
from raypref.cli.sweep import runs_of
from raypref.config import RunConfig
from raypref.evaluation.capability.callback import MeasureCapability
from raypref.losses.base import losses
from raypref.metrics.table import METRICS
from raypref.oracles.base import oracles
from raypref.output.outcome import Outcome
from raypref.output.summary import RunResult
from raypref.registry import Registry, all_keys
from raypref.selection.base import selections
from tests.tiny_models import make_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
LANGUAGES = {"python", "yaml", "bash", "json", "text"}
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
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # their files are named from the repository's root
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"w{k} w{k + 1}"}) + "\n" for k in range(40)))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(raypref.compose, "_run_on_cluster", _finished)
    monkeypatch.setattr(raypref.compose, "_actors", _no_actors)
    monkeypatch.setattr(MeasureCapability, "_policies", lambda _: iter(()))  # lm-eval and its engine take 20 s
    for registry in (losses, selections, oracles):
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
        if block.language in RUNNERS:
            with named_in_errors(block):
                RUNNERS[block.language](block, sandbox)


@contextlib.contextmanager
def named_in_errors(block: Block) -> Iterator[None]:
    """An error says which block it comes from."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the block at {block}")
        raise


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


@pytest.mark.parametrize(
    ("language", "text", "error"),
    [
        ("python", "raise ValueError('x')", "x"),
        ("python", "import raypref\n\nraypref.run(raypref.load_config('run.yaml'), judge=len)\n", "unexpected keyword argument 'judge'"),
        (
            "python",
            "import raypref\n\nraypref.run(raypref.load_config('run.yaml'), oracle=lambda prompts, responses: None)\n",
            "expected one matrix per prompt",
        ),
        ("yaml", "loss: {type: sppo, beta: 0.1}", "sppo has no beta"),
        ("yaml", "selection: {type: tournament}\nloss: {type: ranking_dpo, decay: 1}", "loss.decay: unknown key"),
        ("yaml", "selection: {type: ranking}\nloss: {type: dpo}", "needs pairs"),
        ("yaml", "loop: {iterations: 2, sync_interval: 3, prompts_per_iteration: 4}", "not both"),
        ("bash", "make quickest", "make has no quickest"),
        ("bash", "make setup DEVICE=gpu", "make has no DEVICE=gpu"),
        ("bash", "raypref trian run.yaml", "No such command 'trian'"),
        ("bash", "raypref train run.yaml --resum", "No such option"),
        ("bash", "raypref train run.yaml loss.etta=3", "did you mean 'eta'"),
        ("bash", "RAY_ADDRESS=auto .venv/bin/raypref generate run.yaml \\\n    --prompts p.jsonl", "output"),
        ("bash", "cd raypref && rapref check run.yaml", "unknown command 'rapref'"),
        ("bash", "ray job submit --working-dir . -- python -m raypref trian run.yaml", "No such command 'trian'"),
        ("bash", "python -m examples.sppo_llama3_8b.run authors.yaml loss.tau=1", "sppo has no pull"),
        ("bash", "python -m benchmarks theories", "README.md:1"),
        ("bash", 'pip install -e ".[cuda]"', "cuda"),
        ("json", '{"prompt": "w1"}\n{"prompt": w2}', "Expecting value"),
    ],
)
def test_what_is_wrong_in_a_block_is_found(language: str, text: str, error: str, sandbox: Sandbox) -> None:
    with pytest.raises((Exception, pytest.fail.Exception), match=re.escape(error)):
        RUNNERS[language](Block(ROOT / "README.md", 1, language, text), sandbox)


CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:=\S+)?$")


def known_keys() -> set[str]:
    """The dotted path of every key of the config, of all losses, selections and oracles too."""
    registries: tuple[Registry[Any], ...] = (losses, selections, oracles)
    typed = {f"{axis.axis}.{key}" for axis in registries for name in axis.names() for key in axis.resolve(name).model_fields}
    return {*all_keys(), *typed}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_keys_and_metrics_that_a_page_names_exist(page: Path) -> None:
    """Code in a line that looks like a key of the config (``loss.eta``, ``loop.steps=100``), or like a metric (``oracle/cycle``)."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    keys, sections = known_keys(), set(RunConfig.model_fields) - {"name"}
    groups = {entry.name.partition("/")[0] for entry in METRICS if "/" in entry.name} - {"sync"}
    for text in CODE.findall(prose):
        match = KEY.match(text)
        if match and match[1].partition(".")[0] in sections and page.name != "config.md" and not match[1].endswith((".py", ".jsonl")):
            assert match[1] in keys, f"{page}: no key {match[1]}"
        if re.fullmatch(r"[a-z]+/[a-z_/]+", text) and text.partition("/")[0] in groups:
            assert any(entry.matches(text) for entry in METRICS), f"{page}: no metric {text}"


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


RUNNERS = {"python": run_python, "yaml": run_yaml, "bash": run_bash, "json": read_json}


def check_command(words: list[str], block: Block, sandbox: Sandbox) -> None:
    name, *arguments = words
    name = name.removeprefix(".venv/bin/")
    if name == "make":
        check_make(arguments, block)
    elif name == "raypref":
        check_raypref(arguments, block, sandbox)
    elif name in ("python", "python3.11", "python3.12"):
        check_python(arguments, block, sandbox)
    elif name == "pip":
        check_pip(arguments, block)
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


def check_pip(arguments: list[str], block: Block) -> None:
    """The extras of raypref are those of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for argument in arguments:
        named = re.fullmatch(r"(?:\.|raypref|\S*/raypref)\[([\w,]+)\].*", argument)
        assert named is None or set(named[1].split(",")) <= set(extras), f"{block}: {argument}"


def check_raypref(arguments: list[str], block: Block, sandbox: Sandbox) -> None:
    """The command line takes the arguments; the config and its overrides load.

    Typer has its own copy of click, so a group is told by what it can do.
    """
    command: Any = typer.main.get_command(cli.app)
    rest, parent = cli.resume_with_value(arguments), None
    try:
        while hasattr(command, "resolve_command"):
            parent = command.make_context(str(command.name), rest, parent=parent)
            _, command, rest = command.resolve_command(parent, [*parent._protected_args, *parent.args])
        context = command.make_context(str(command.name), rest, parent=parent)
    except typer.Exit:
        return  # --help or --version
    overrides, task = context.params.get("overrides") or [], Task("generate") if command.name == "generate" else Task()
    for each in (
        [run.overrides for run in runs_of(Path("runs/s"), overrides)] if command.name == "sweep" else [overrides] if overrides else []
    ):
        check_overrides(context.params["config"], each, block, sandbox, task)


def check_overrides(config: Any, overrides: Sequence[str], block: Block, sandbox: Sandbox, task: Task) -> None:
    """They load with the config that is named, where the repository has it; otherwise with the page's own."""
    path = ROOT / str(config)
    if not path.is_file():
        path = sandbox.directory / "run.yaml"
    loaded = raypref.load_config(path, overrides)
    assert [str(problem) for problem in check(loaded, task)] == [], str(block)


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
        check_pip(rest, block)
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

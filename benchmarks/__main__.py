"""``python -m benchmarks NAME [arguments]`` or ``python -m benchmarks all``.

A benchmark is a module of this package with ``run(arguments) -> Iterator[dict]``: each dict is printed as one JSON line as soon as it is there.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys

import benchmarks


def names() -> list[str]:
    """The modules of the package that can be run."""
    modules = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
    return [name for name in modules if hasattr(importlib.import_module(f"benchmarks.{name}"), "run")]


def main(arguments: list[str]) -> None:
    known = names()
    if not arguments or arguments[0] not in (*known, "all"):
        sys.exit(f"usage: python -m benchmarks NAME, where NAME is all or one of: {', '.join(known)}")
    for name in known if arguments[0] == "all" else arguments[:1]:
        for line in importlib.import_module(f"benchmarks.{name}").run(arguments[1:]):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What the recipes' driver scripts share: which config of the folder, with which overrides; run it; show what came of it."""

from __future__ import annotations

from pathlib import Path

import raypref
from raypref.output.summary import print_summary


def main(folder: Path, arguments: list[str]) -> None:
    """Run the folder's config that the first argument names (default: run.yaml), with the other arguments as overrides."""
    named = [argument for argument in arguments[:1] if "=" not in argument]
    config = raypref.load_config(folder / (named or ["run.yaml"])[0], arguments[len(named) :])
    print_summary(raypref.run(config).summary)

"""``python -m examples.srpo_tldr.run [sft.yaml|run.yaml] [section.key=value ...]``, from the repository's root.

Downloads the data on first use, joins the Ray cluster that is there (or uses this machine), and prints what came of it. sft.yaml first: it
trains the policy that run.yaml (the default) starts from.
"""

from __future__ import annotations

import sys
from pathlib import Path

import raypref
from examples.srpo_tldr import data
from raypref.report import print_summary

HERE = Path(__file__).parent


def main(arguments: list[str]) -> None:
    """Run the config that the first argument names (default: run.yaml), with the others as overrides."""
    named = [argument for argument in arguments[:1] if "=" not in argument]
    data.prepare(Path("runs/srpo_tldr_data"))
    config = raypref.load_config(HERE / (named or ["run.yaml"])[0], arguments[len(named) :])
    print_summary(raypref.run(config).summary)


if __name__ == "__main__":
    main(sys.argv[1:])

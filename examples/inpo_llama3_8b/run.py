"""``python -m examples.inpo_llama3_8b.run [section.key=value ...]``, from the repository's root.

Downloads the prompts on first use, joins the Ray cluster that is there (or uses this machine), and prints the win rates.
"""

from __future__ import annotations

import sys
from pathlib import Path

import raypref
from examples import rlhflow
from raypref.report import print_summary


def main(overrides: list[str]) -> None:
    """Run run.yaml with the overrides."""
    rlhflow.prepare(Path("runs/rlhflow"))
    config = raypref.load_config(Path(__file__).parent / "run.yaml", overrides)
    print_summary(raypref.run(config).summary)


if __name__ == "__main__":
    main(sys.argv[1:])

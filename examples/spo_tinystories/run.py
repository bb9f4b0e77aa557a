"""``python -m examples.spo_tinystories.run [section.key=value ...]``, from the repository's root.

Trains on ``runs/spo_tinystories_data/rankings.jsonl``; README.md says how that file is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import raypref
from raypref.report import print_summary


def main(overrides: list[str]) -> None:
    """Run run.yaml with the overrides."""
    config = raypref.load_config(Path(__file__).parent / "run.yaml", overrides)
    print_summary(raypref.run(config).summary)


if __name__ == "__main__":
    main(sys.argv[1:])

"""``python -m examples.spo_tinystories.run [section.key=value ...]``, from the repository's root.

Trains on ``runs/spo_tinystories_data/rankings.jsonl``; README.md says how that file is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

from examples import recipe

if __name__ == "__main__":
    recipe.main(Path(__file__).parent, sys.argv[1:])

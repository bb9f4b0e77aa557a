"""``python -m examples.srpo_ultrafeedback.run [sft.yaml|run.yaml] [section.key=value ...]``, from the repository's root.

Downloads the data on first use, joins the Ray cluster that is there (or uses this machine), and prints what came of it. sft.yaml first: it
trains the policy that run.yaml (the default) starts from.
"""

from __future__ import annotations

import sys
from pathlib import Path

from examples import recipe
from examples.srpo_ultrafeedback import data

if __name__ == "__main__":
    data.prepare(Path("runs/srpo_ultrafeedback_data"))
    recipe.main(Path(__file__).parent, sys.argv[1:])

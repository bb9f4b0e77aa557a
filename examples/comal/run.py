"""``python -m examples.comal.run [section.key=value ...]``, from the repository's root.

Downloads the prompts on first use, joins the Ray cluster that is there (or uses this machine), and prints the win rates.
"""

from __future__ import annotations

import sys
from pathlib import Path

from examples import recipe, ultrafeedback

if __name__ == "__main__":
    ultrafeedback.prepare(Path("runs/ultrafeedback"))
    recipe.main(Path(__file__).parent, sys.argv[1:])

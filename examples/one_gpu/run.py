"""``python -m examples.one_gpu.run [run.yaml|lora.yaml] [section.key=value ...]``, from the repository's root.

Downloads the prompts on first use, and prints the win rates.
"""

from __future__ import annotations

import sys
from pathlib import Path

from examples import recipe, ultrafeedback

if __name__ == "__main__":
    ultrafeedback.prepare(Path("runs/ultrafeedback"))
    recipe.main(Path(__file__).parent, sys.argv[1:])

"""``python -m examples.sppo_llama3_8b.run [run.yaml|authors.yaml] [section.key=value ...]``, from the repository's root.

Downloads the prompts on first use, joins the Ray cluster that is there (or uses this machine), and prints the win rates.
"""

from __future__ import annotations

import sys
from pathlib import Path

import raypref
from examples import ultrafeedback
from raypref.report import print_summary

HERE = Path(__file__).parent


def main(arguments: list[str]) -> None:
    """Run the config that the first argument names (default: run.yaml), with the others as overrides."""
    named = [argument for argument in arguments[:1] if "=" not in argument]
    ultrafeedback.prepare(Path("runs/ultrafeedback"))
    config = raypref.load_config(HERE / (named or ["run.yaml"])[0], arguments[len(named) :])
    print_summary(raypref.run(config).summary)


if __name__ == "__main__":
    main(sys.argv[1:])

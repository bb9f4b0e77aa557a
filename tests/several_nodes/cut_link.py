"""A run whose link between the two hosts of ``hosts.py`` breaks after its actors' places are reserved; on the first host, as root there.

python -m tests.several_nodes.cut_link MODEL OUTPUT LIMIT_S           # prints the seconds until the error, and the error
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import actors.run_actors
import raypref
from raypref.errors import NetworkError
from tests.integration.runs import PROMPTS, config_for, more_different_words
from tests.several_nodes.hosts import environment


def main(model: str, output_dir: str, limit_s: str, outcome: str) -> None:
    placement = {"device": "cpu", "oracle": {"gpus": 0}, "preflight_timeout_s": float(limit_s)}
    check_nodes, start = actors.run_actors.check_nodes, time.monotonic()

    def cut(*arguments: Any) -> None:
        nonlocal start
        subprocess.run(["ip", "link", "set", "first", "down"], env=environment(), check=True)
        start = time.monotonic()
        check_nodes(*arguments)

    actors.run_actors.check_nodes = cut
    try:
        raypref.run(config_for(Path(model), Path(output_dir), placement=placement), prompts=PROMPTS, oracle=more_different_words)
    except NetworkError as error:
        Path(outcome).write_text(f"{time.monotonic() - start:.1f}\n{error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

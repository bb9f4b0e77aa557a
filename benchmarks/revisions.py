"""Does a policy that was trained to revise improve its answers? The revision curves of SRPO and of DPO, on stories260K.

Needs RAYPREF_TEST_DATA. A line is a point of a curve: the win rate of the policy's answers after N revisions against the start policy's
answers, under the oracle that the policy was trained with, and its 95% bootstrap interval. Source: SRPO Figure 3.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.integration.test_methods_on_stories import DATA, run

REVISIONS = 3


def main(arguments: Sequence[str]) -> int:
    if DATA is None:
        print("revisions: left out, RAYPREF_TEST_DATA names no directory", file=sys.stderr)
        return 0
    for method in ("srpo", "dpo"):
        with tempfile.TemporaryDirectory() as folder:
            summary = run(Path(folder), method, revisions=REVISIONS)
        for number, point in enumerate(summary["evaluations"][-1]["revisions"]):
            shown = {key: round(point[key], 4) for key in ("win_rate", "low", "high")}
            print(json.dumps({"name": f"revisions/{method}/{number}"} | shown), flush=True)
    return 0

"""Have the oracle compare the responses to each prompt."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.different_words import preferences
from benchmarks.scripts import work


def main() -> None:
    _, _, own = work.stage()
    groups = json.loads((own / "responses.json").read_text())
    np.save(own / "ranking.npy", np.stack(preferences([group["prompt"] for group in groups], [group["responses"] for group in groups])))


if __name__ == "__main__":
    main()

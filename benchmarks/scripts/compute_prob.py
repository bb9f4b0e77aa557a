"""Best and worst response of each prompt, with their win rates."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.scripts import work


def main() -> None:
    _, _, own = work.stage()
    groups = json.loads((own / "responses.json").read_text())
    pairs = []
    for group, matrix in zip(groups, np.load(own / "ranking.npy"), strict=True):
        rates = matrix.mean(axis=1)
        best, worst = int(rates.argmax()), int(rates.argmin())
        chosen = [best, worst] if best != worst else [0, 1]
        responses = [group["response_ids"][k] for k in chosen]
        pairs.append({"prompt_ids": group["prompt_ids"], "response_ids": responses, "win_rates": [float(rates[k]) for k in chosen]})
    (own / "pairs.json").write_text(json.dumps(pairs))


if __name__ == "__main__":
    main()

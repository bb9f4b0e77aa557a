"""What ``raypref init`` writes beside the config: records, an oracle, a driver, stubs of a loss and of a selection."""

from __future__ import annotations

import json
from collections.abc import Iterator

from raypref.settings.starter import FILES, Kind

QUESTIONS: tuple[tuple[str, str, str], ...] = (
    ("Why is the sky blue?", "Air scatters blue light more than red light, so blue reaches us from everywhere.", "Because it is."),
    ("What is the capital of France?", "The capital of France is Paris.", "France is a country in Europe, and countries have capitals."),
    ("How do I boil an egg?", "Put it into boiling water, wait eight minutes, then cool it.", "With water."),
    ("Name three primary colours.", "Red, yellow and blue.", "Red, red and another red."),
    ("What is 12 times 12?", "12 times 12 is 144.", "It is a large number, certainly above one hundred."),
    ("Why do leaves fall in autumn?", "Trees shed them to save water while the ground is cold.", "They are tired."),
    ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet, around 1600.", "A writer whose name is not known to me."),
    ("How far away is the Moon?", "About 384,000 kilometres on average.", "Far away, further than one can walk."),
    ("What does a bee collect?", "Nectar and pollen from flowers.", "Things."),
    ("Give one tip against a cold.", "Rest, and drink enough water.", "Do not have one."),
    ("What is a prime number?", "A number above 1 that only 1 and itself divide.", "A number that is the first."),
    ("Why does ice float?", "Water expands when it freezes, so ice is lighter than water.", "Since it does not sink."),
    ("What is the opposite of hot?", "Cold.", "The opposite of hot is the thing that hot is not."),
    ("How many days has a leap year?", "A leap year has 366 days.", "More than most years."),
    ("Explain a rainbow briefly.", "Raindrops split sunlight into its colours.", "Many colours."),
    ("What is bread made of?", "Flour, water, salt and yeast.", "Bread is made of bread."),
    ("When should I water plants?", "In the morning, when the soil is dry.", "Whenever you think of it, or at another time."),
    ("What does a compass show?", "It points to magnetic north.", "It shows the way home."),
    ("Why do we sleep?", "The body repairs itself, and the brain sorts what it has learnt.", "Because of the night."),
    ("Name a large river.", "The Amazon.", "Water."),
)  # fmt: skip

ORACLE = '''\
"""The oracle of run.yaml. Replace the rule by yours: a reward model, an API, a unit test; `raypref config oracle` lists what exists."""

WORDS = 15


def prefer(prompt: str, a: str, b: str) -> float:
    """The probability that answer a is better than answer b, from 0 to 1; 0.5 is a tie.

    This toy prefers the answer whose length is closer to 15 words. To leave a pair undecided, return raypref.ABSTAIN.
    """
    return 1 / (1 + 2.0 ** (distance(a) - distance(b)))


def distance(answer: str) -> int:
    """Words too many or too few; at most 30."""
    return min(abs(len(answer.split()) - WORDS), 30)
'''

DRIVER = '''\
"""The run of run.yaml from Python: python train.py [section.key=value ...]"""

import sys

import raypref


def main() -> None:
    config = raypref.load_config("run.yaml", sys.argv[1:])
    result = raypref.run(config, resume="auto")  # prompts, oracle, selection and loss may also be objects: raypref.run(config, oracle=...)
    print("the policy:", result.policy_dir)
    for evaluation in result.summary["evaluations"]:
        print(evaluation)


if __name__ == "__main__":
    main()
'''

LOSS = '''\
"""A loss of one's own: run.yaml names it my_loss:MyLoss. `raypref config loss.my_loss:MyLoss` shows its settings."""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import PositiveFloat

import raypref
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.ratios import log_ratios


class MyLoss(raypref.Loss):
    """-log sigmoid(beta (r_w - r_l)), r = log pi_theta(y | x) - log pi_ref(y | x): DPO, to be changed.

    Shapes: B examples of S = 2 sequences, chosen first. All log-probs are sums over the response's tokens, in nats.
    """

    type: str = "my_loss:MyLoss"
    beta: PositiveFloat = 0.1
    """Strength of the pull to pi_ref; smaller is bolder."""

    needs: ClassVar[frozenset[raypref.Frozen]] = frozenset({"reference"})  # "previous": pi_t, which sampled the responses
    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    def __call__(self, batch: raypref.LossBatch) -> raypref.LossValue:
        r = log_ratios(batch, "reference")  # (B, 2)
        loss = -F.logsigmoid(self.beta * (r[:, 0] - r[:, 1]))  # (B,)
        return raypref.LossValue(loss, preference_metrics(self.beta * r, batch))
'''

SELECTION = '''\
"""A selection of one's own: run.yaml names it my_selection:MySelection."""

import numpy as np

import raypref
from raypref.selection.base import Picks, all_pairs


class MySelection(raypref.Selection):
    """The best response against the one in the middle."""

    type: str = "my_selection:MySelection"

    def choose(self, size: int):
        """Yields the comparisons that it wants, receives the matrix P[i, j] = P(y_i > y_j), returns its picks, chosen first."""
        matrix = yield all_pairs(size)
        rows = matrix.complete_rows()  # without those whose comparisons have no answer
        if len(rows) < 2:
            return []
        order: Picks = rows[np.argsort(-matrix.win_rates(rows), kind="stable")]
        return [(int(order[0]), int(order[len(order) // 2]))]
'''


def files(kind: Kind, *, loss: bool, selection: bool) -> Iterator[tuple[str, str]]:
    """Name and content of every file beside the config."""
    rows = {
        "prompts": [{"prompt": question} for question, _, _ in QUESTIONS],
        "preferences": [{"prompt": question, "chosen": good, "rejected": bad} for question, good, bad in QUESTIONS],
        "demonstrations": [{"prompt": question, "response": good} for question, good, _ in QUESTIONS],
    }[kind]
    yield FILES[kind], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    yield "train.py", DRIVER
    if kind != "demonstrations":
        yield "my_oracle.py", ORACLE
    if loss:
        yield "my_loss.py", LOSS
    if selection:
        yield "my_selection.py", SELECTION

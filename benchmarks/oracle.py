"""How fast oracles judge, compared with the usual way to ask the same model.

PairRM: comparisons per second (both orders of asking) on one core, over ``Blender.rank`` of llm-blender 0.0.2 at its default batch size,
repaired so that it runs on transformers 5. The same checkpoint on both sides: random weights, hidden 128, one layer (more layers slow both
sides alike, and at hidden 256 the ratio is the same), PairRM's limits (1,224 tokens for the prompt; for a response 412, and half of the
rest of the input). Lengths are log-normal like UltraFeedback's: a prompt's median is 100 tokens (sigma 0.9), a response's 250 (sigma 0.6).
Seconds are CPU seconds of the process.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.figure import Figure
from raypref.oracles.base import Question
from raypref.selection.base import all_pairs

PROMPTS = 8
"""In one sample: llm-blender's default batch. Each sample has other prompts."""
RESPONSES = 5
SAMPLES = 3
WORDS = ["".join(letters) for letters in itertools.product("bdgklmnprst", "aeiou", "lnrst")]
TOKENS_PER_WORD = 2
"""With the tokenizer that is trained on them."""


def main(arguments: Sequence[str]) -> int:
    import torch

    from benchmarks import oracle_pairwise_lm

    options = ArgumentParser(prog="python -m benchmarks oracle")
    options.add_argument("--samples", type=int, default=SAMPLES, help=f"of {PROMPTS} prompts each")
    samples = options.parse_args(arguments).samples
    torch.set_num_threads(1)
    pairrm(samples).show()
    for figure in oracle_pairwise_lm.figures():
        figure.show()
    return 0


def pairrm(samples: int) -> Figure:
    """The result for the ``pairrm`` oracle."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        ours, blender = _both(Path(folder))
        times = [_sample(ours, blender, [_question(draw, k) for k in range(PROMPTS)]) for _ in range(samples)]
    ours_s, blender_s = (median(side) for side in zip(*times, strict=True))
    asked = PROMPTS * len(all_pairs(RESPONSES))
    unit = f"comparisons per second ({asked / ours_s:.2f}) over those of Blender.rank ({asked / blender_s:.2f})"
    return Figure("oracle_pairrm", median(b / a for a, b in times), 2.5, unit, samples)


def _both(folder: Path) -> tuple[Any, Any]:
    """The oracle and llm-blender's ``Blender``, with the same checkpoint."""
    from raypref.oracles.pairrm import PairRM
    from tests.oracles.pairrm_checkpoint import NoServices, make_checkpoint

    draw = np.random.default_rng(1)
    corpus = [" ".join(draw.permutation(WORDS)) for _ in range(20)]
    limits = {"source_tokens": 1224, "candidate_tokens": 412, "position_buckets": 256}
    checkpoint = make_checkpoint(folder, corpus, vocabulary=600, hidden=128, layers=1, **limits)
    ours = PairRM(path=str(checkpoint.path), device="cpu")
    ours.load(NoServices())
    return ours, checkpoint.blender()


def _sample(ours: Any, blender: Any, questions: Sequence[Question]) -> tuple[float, float]:
    """CPU seconds of the oracle, and of ``Blender.rank``."""
    prompts, responses = [question.prompt for question in questions], [list(question.responses) for question in questions]
    return _seconds(lambda: ours.compare(questions)), _seconds(lambda: blender.rank(prompts, responses, return_scores=True))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _question(draw: np.random.Generator, number: int) -> Question:
    tokens = [draw.lognormal(np.log(100), 0.9), *draw.lognormal(np.log(250), 0.6, RESPONSES)]
    prompt, *responses = (" ".join(draw.choice(WORDS, max(1, round(n / TOKENS_PER_WORD)))) for n in tokens)
    return Question(str(number), prompt, tuple(responses), tuple(all_pairs(RESPONSES)))

"""PairRM, a 0.4B pairwise preference model (arXiv 2306.02561), from a checkpoint in llm-blender's format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, PrivateAttr

from raypref.oracles.base import Oracle, Question, oracles
from raypref.oracles.pairrm_model import PairRanker, load_ranker
from raypref.selection.base import all_pairs

Pair = tuple[int, int]


@oracles.register("pairrm")
class PairRM(Oracle):
    """P[i, j] = sigmoid(s[i, j]), with s[i, j] = (C[i, j] - C[j, i]) / 2 and C the model's logits.

    Source: SPPO Appendix F (P is the sigmoid of PairRM's relative reward). The model is not antisymmetric, so both orders are asked and
    averaged. Departs from llm-blender where it would let a score depend on its batch: how much of a response is read follows from its
    own prompt's length. ``preference: authors`` is what the SPPO authors' code makes of it: P[i, j] = sigmoid(g_i - g_j) with
    g = mean_j(C - C^T)[i, j], the scores of ``Blender.rank(return_scores=True)``; transitive, and twice as steep.
    """

    type: str = "pairrm"
    path: str = "llm-blender/PairRM"
    """A checkpoint directory (config.json, model.safetensors), or a hub name."""
    base: str | None = None
    """Where the encoder's config and tokenizer are: a directory or hub name; default: the checkpoint's own ``model_name``."""
    preference: Literal["pairwise", "authors"] = "pairwise"
    """Sigmoid of the pair's own score, or of the difference of two aggregated scores."""
    batch_tokens: PositiveInt = 8192
    """Tokens of one forward pass, padding included."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is one."""

    _ranker: PairRanker | None = PrivateAttr(default=None)

    def load(self) -> None:
        """Load the model in float32.

        Raises:
            ConfigError: the checkpoint is missing or is none of llm-blender's pair rankers.
        """
        self._ranker = load_ranker(self.path, self.base, self.device)

    def compare(self, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
        if self._ranker is None:
            self.load()
        assert self._ranker is not None
        # Aggregated scores take the whole group, whatever was asked.
        wanted = [q.pairs if self.preference == "pairwise" else tuple(all_pairs(len(q.responses))) for q in questions]
        logits = self._logits(self._ranker, questions, wanted)
        return [_sigmoid(self._scores(c)) for c in logits]

    def _scores(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        symmetric = (logits - logits.T) / 2.0
        if self.preference == "pairwise":
            return symmetric
        aggregated = 2.0 * symmetric.mean(axis=1)
        return aggregated[:, None] - aggregated[None, :]

    def _logits(self, ranker: PairRanker, questions: Sequence[Question], wanted: Sequence[Sequence[Pair]]) -> list[NDArray[np.float64]]:
        """C of each question, (K, K), both orders of the wanted pairs; 0 elsewhere."""
        logits = [np.zeros((len(q.responses), len(q.responses))) for q in questions]
        inputs: list[Any] = []
        places: list[tuple[int, int, int]] = []
        for number, (question, pairs) in enumerate(zip(questions, wanted, strict=True)):
            source, candidates = ranker.encode(question.prompt, question.responses)
            for i, j in [(i, j) for pair in pairs for i, j in (pair, pair[::-1])]:
                inputs.append(ranker.join(source, candidates[i], candidates[j]))
                places.append((number, i, j))
        for batch in _batches([len(tokens.ids) for tokens in inputs], self.batch_tokens):
            for k, logit in zip(batch, ranker.logits([inputs[k] for k in batch]), strict=True):
                number, i, j = places[k]
                logits[number][i, j] = logit
        return logits


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of inputs in batches of similar length, at most ``budget`` tokens each when padded, at least one input."""
    batch: list[int] = []
    for k in sorted(range(len(lengths)), key=lambda k: lengths[k]):
        if batch and lengths[k] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def _sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without overflow, and with sigmoid(s) + sigmoid(-s) = 1."""
    return np.exp(-np.logaddexp(0.0, -scores))

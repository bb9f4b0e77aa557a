"""From the picked responses of a group to an example: each response after its prompt, then revisions or mismatched responses.

pair (w, l) of prompt x     x w, x l                              w: chosen, l: rejected
revisions (SRPO)            x w, x l, xw w, xw l, xl w, xl l      xw: x with w as an earlier answer
mismatched (KTO)            x w, x l, x w', x l'                  w', l': responses to another prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from raypref.data.config import DataConfig
from raypref.data.identity import content_id
from raypref.data.policy_facts import PolicyFacts
from raypref.data.revision import Reviser
from raypref.errors import ConfigError, DataError
from raypref.losses.base import Loss
from raypref.types import Example, Rollout

Tokens = NDArray[np.int32]


class ExampleBuilder:
    """Builds the examples of one loss."""

    def __init__(self, loss: Loss, reviser: Reviser | None = None, context_tokens: int | None = None) -> None:
        """
        Args:
            loss: declares which sequences it wants.
            reviser: required by a loss that wants revisions.
            context_tokens: the longest sequence that the policy can read, in tokens; None: no limit.

        Raises:
            ConfigError: the loss wants revisions and there is no reviser, or it wants revisions and mismatched responses.
        """
        if loss.revisions and reviser is None:
            raise ConfigError(
                f"data.template: loss {loss.type!r} trains on revisions; set tldr, xsum, chat, or a text with {{prompt}} and {{answer}}"
            )
        if loss.revisions and loss.mismatched:
            raise ConfigError(f"loss.type: {loss.type!r} asks for revisions and for mismatched sequences; there is no such example")
        self._loss = loss
        self._reviser = reviser
        self._context_tokens = context_tokens

    @classmethod
    def of_run(cls, loss: Loss, data: DataConfig, facts: PolicyFacts) -> Self:
        """The builder for a run's sections.

        Raises:
            ConfigError: the loss wants revisions and there is no template for them.
        """
        reviser = Reviser(data, facts) if loss.revisions and data.template is not None else None
        return cls(loss, reviser, facts.context_tokens)

    def build(self, rollout: Rollout, pick: tuple[int, ...], targets: NDArray[np.float64], partner: Rollout | None) -> Example | None:
        """The example that some of a group's responses give.

        Args:
            rollout: the group; its policy version becomes the example's.
            pick: indices of the responses, best first.
            targets: (len(pick),) the loss's targets of the picked responses; repeated for the sequences that follow them.
            partner: another prompt's group, from which mismatched responses are taken in order.

        Returns:
            None where a sequence is longer than the context.

        Raises:
            ConfigError: the loss wants revisions, and the pick has not two responses.
            DataError: the loss wants mismatched responses, and there is no partner.
        """
        prompts, responses = self._sequences(rollout, pick, partner)
        longest = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
        if self._context_tokens is not None and longest > self._context_tokens:
            return None
        return Example(
            prompt_index=rollout.prompt.index,
            prompt_id=rollout.prompt.id,
            prompt_ids=prompts,
            response_ids=responses,
            targets=np.tile(targets, len(responses) // len(pick)),
            policy_version=rollout.policy_version,
            sampled_logps=_sampled_logps(rollout, pick, len(responses)),
            content_id=content_id(rollout.prompt.text, rollout.prompt.chat) if rollout.policy_version is None else None,
        )

    def _sequences(self, rollout: Rollout, pick: tuple[int, ...], partner: Rollout | None) -> tuple[tuple[Tokens, ...], tuple[Tokens, ...]]:
        responses = tuple(rollout.responses[k].token_ids for k in pick)
        prompts = (rollout.prompt.token_ids,) * len(responses)
        if self._loss.revisions:
            revised = self._revised(rollout, pick)
            return prompts + tuple(prompt for prompt in revised for _ in responses), responses * 3
        if self._loss.mismatched:
            return prompts * 2, responses + _mismatched(rollout, partner, len(responses))
        return prompts, responses

    def _revised(self, rollout: Rollout, pick: tuple[int, ...]) -> Sequence[Tokens]:
        """The prompts with the chosen and with the rejected response as an earlier answer."""
        assert self._reviser is not None
        if len(pick) != 2:
            raise ConfigError(
                f"loss.type: {self._loss.type!r} revises pairs, the selection gave {len(pick)} responses; set selection.type=best_worst"
            )
        given = rollout.policy_version is None
        answers = [self._reviser.text_of(rollout.responses[k]) if given else rollout.responses[k].text for k in pick]
        return [self._reviser.revise(rollout.prompt, answer).token_ids for answer in answers]


def _sampled_logps(rollout: Rollout, pick: tuple[int, ...], sequences: int) -> NDArray[np.float64] | None:
    """(sequences,) log pi_t of each picked response, then NaN: what follows the picked responses was not sampled after its prompt.

    None where no policy of the run sampled the responses: a response of given data has no log-probs.
    """
    logps = [rollout.responses[k].logprobs for k in pick]
    if any(len(logprobs) != len(rollout.responses[k].token_ids) for k, logprobs in zip(pick, logps, strict=True)):
        return None
    summed = [float(logprobs.sum(dtype=np.float64)) for logprobs in logps]
    return np.array(summed + [np.nan] * (sequences - len(pick)))


def _mismatched(rollout: Rollout, partner: Rollout | None, count: int) -> tuple[Tokens, ...]:
    """The partner's first ``count`` responses; it starts again at the first one where there are fewer."""
    if partner is None:
        raise DataError(f"prompt {rollout.prompt.id!r}: mismatched sequences need the responses of another prompt, and there is none")
    return tuple(partner.responses[k % len(partner.responses)].token_ids for k in range(count))

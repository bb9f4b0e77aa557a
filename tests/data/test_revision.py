"""Prompts for revisions, rendered and tokenised like the first ones; a loss of one's own trains on what the collation gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raypref import types
from raypref.config import RunConfig
from raypref.data.config import DataConfig
from raypref.data.policy_facts import PolicyFacts
from raypref.data.revision import Reviser
from raypref.errors import ConfigError
from raypref.training.collation import collate


def prompt(ids: list[int], chat: tuple[tuple[str, str], ...] = ()) -> types.Prompt:
    return types.Prompt(3, "p", "why", np.array(ids, dtype=np.int32), chat)


def facts(tokenizer: Any) -> PolicyFacts:
    return PolicyFacts(tokenizer, 64, (2,))


def test_plain_text(tokenizer: Any) -> None:
    """``<bos> why so how`` 1 5 7 6; id, index and what an oracle is shown stay."""
    reviser = Reviser(DataConfig(chat_template=False, template="{prompt} {answer} how"), facts(tokenizer))
    revised = reviser.revise(prompt([1, 5]), "so")
    assert revised.token_ids.tolist() == [1, 5, 7, 6]
    assert (revised.id, revised.index, revised.text) == ("p", 3, "why")


def test_a_chat_goes_on_from_its_own_turns(tokenizer: Any) -> None:
    """[USER] why [ANSWER] so [USER] (a request of unknown words) [ANSWER]; with turns given, those come first."""
    reviser = Reviser(DataConfig(template="chat"), facts(tokenizer))
    one = reviser.revise(prompt([1, 3, 5, 4]), "so").token_ids.tolist()
    assert one[:6] == [1, 3, 5, 4, 7, 3]
    assert one[-1] == 4
    turns = (("user", "how"), ("assistant", "not"), ("user", "why"))
    assert reviser.revise(prompt([1], turns), "so").token_ids.tolist()[:10] == [1, 3, 6, 4, 9, 3, 5, 4, 7, 3]


def test_room(tokenizer: Any) -> None:
    reviser = Reviser(DataConfig(chat_template=False, template="{prompt} {answer}"), facts(tokenizer))
    assert reviser.within(3)(prompt([1, 5]), "so") is not None
    assert reviser.within(3)(prompt([1, 5]), "so not") is None


def test_what_is_missing_is_named(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.template: required for revisions"):
        Reviser(DataConfig(), facts(tokenizer))
    with pytest.raises(ConfigError, match=r"'chat' needs data\.chat_template=true"):
        Reviser(DataConfig(template="chat", chat_template=False), facts(tokenizer))


OWN_LOSS = """
from raypref.losses.base import Loss, LossBatch, LossValue


class Lift(Loss):
    type: str = "own_lift_loss:Lift"
    scale: float = 1.0

    def __call__(self, batch: LossBatch) -> LossValue:
        gap = batch.logps[:, 0] - batch.logps[:, 1]
        return LossValue((self.scale * gap - 2.0).square(), {"rewards/margins": gap.detach()})
"""


def test_a_loss_in_a_file_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named ``module:Name`` in a config. (3 gap - 2)^2 is least at a gap of 2/3, where gradient descent ends."""
    (tmp_path / "own_lift_loss.py").write_text(OWN_LOSS)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = RunConfig.parse({"policy": {"path": "unused"}, "loss": {"type": "own_lift_loss:Lift", "scale": 3.0}})
    assert config.model_dump(mode="json")["loss"] == {"type": "own_lift_loss:Lift", "scale": 3.0}
    with pytest.raises(ConfigError, match=r"loss\.scael: unknown key; did you mean 'scale'"):
        RunConfig.parse({"policy": {"path": "unused"}, "loss": {"type": "own_lift_loss:Lift", "scael": 3.0}})
    ids = (np.array([4], dtype=np.int32),) * 2
    example = types.Example(0, "p", ids, ids, config.loss.targets(types.PreferenceMatrix(np.full((2, 2), 0.5), "given"), (0, 1)), None)
    logits = torch.zeros(2, requires_grad=True)
    for _ in range(60):
        value = config.loss(collate([example], logits.log_softmax(-1)[:, None], config.loss.needs))
        (gradient,) = torch.autograd.grad(value.loss.sum(), logits)
        with torch.no_grad():
            logits -= 0.02 * gradient
    assert float((logits[0] - logits[1]).detach()) == pytest.approx(2 / 3, abs=1e-3)

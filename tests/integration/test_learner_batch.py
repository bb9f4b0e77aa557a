"""What a step needs beside its examples' log-probs: statistics of the whole batch, and pi_ref's distributions. Real DeepSpeed and gloo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import ray
import torch

from actors.policy_model import load_model
from raypref import types
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue
from raypref.sections import LoraConfig, PolicyConfig
from raypref.training import collation
from raypref.training.logprobs import response_logps
from tests.learner_bench import LR, Benches, TokenNegative, make_examples, movement

pytestmark = pytest.mark.integration

COEFFICIENT = 0.7


class Centred(Loss):
    """(lp - the batch's mean lp)^2 / 100 with lp summed over an example's sequences; no gradient through the mean."""

    type: str = "tests.integration.test_learner_batch:Centred"
    needs: ClassVar[frozenset[Frozen]] = frozenset({"previous"})

    def statistics(self, batch: LossBatch) -> dict[str, torch.Tensor]:
        return {"mean": batch.logps.sum(-1), "one": torch.ones(len(batch.logps))}

    def __call__(self, batch: LossBatch) -> LossValue:
        mean = batch.statistics["mean"] * batch.statistics["one"]
        return LossValue((batch.logps.sum(-1) - mean).square() / 100, {"loss/mean": mean.expand(len(batch.logps))})


class Divergence(Loss):
    """The token-wise KL to pi_ref over the example's own sequences."""

    type: str = "tests.integration.test_learner_batch:Divergence"
    token_kl: ClassVar[bool] = True

    def __call__(self, batch: LossBatch) -> LossValue:
        assert batch.token_kl is not None
        return LossValue(batch.token_kl.sum(-1) - 0.1 * batch.logps.sum(-1), {})


def summed(model: Any, sequences: list[types.TokenSequence]) -> torch.Tensor:
    """() log-prob of the sequences together, one a pass."""
    return torch.stack([response_logps(model, [item])[0].double().sum() for item in sequences]).sum()


def divergence(model: Any, reference: Any, sequences: list[types.TokenSequence]) -> torch.Tensor:
    """() KL summed over all response positions, by whole distributions in float64, one sequence a pass."""
    found = []
    for item in sequences:
        ids = torch.tensor(np.concatenate([item.prompt_ids, item.response_ids])[None], dtype=torch.long)
        start = len(item.prompt_ids) - 1
        p, q = (other(ids).logits[0, start:-1].double().log_softmax(-1) for other in (model, reference))
        found.append((p.exp() * (p - q)).sum())
    return torch.stack(found).sum()


def plain(policy: PolicyConfig, objective: Callable[[Any], torch.Tensor], steps: int) -> dict[str, np.ndarray]:
    """Parameters after steps of AdamW on ``objective(model)``, clipped as the bench does."""
    model: Any = load_model(policy, torch.device("cpu"), trainable=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("stage", [0, 3])
def test_statistics_are_means_over_the_global_batch(benches: Benches, policy: PolicyConfig, stage: int) -> None:
    """Seven unlike examples on one and two ranks, in many micro-batches: the same mean, the same parameters, those of plain torch."""
    batch = make_examples(7, seed=3)

    def objective(model: Any) -> torch.Tensor:
        values = torch.stack([summed(model, collation.sequences([example])) for example in batch])
        return ((values - values.mean().detach()).square() / 100).mean()

    expected = plain(policy, objective, 2)
    for bench in benches.values():
        bench.become(policy, {"zero_stage": stage}, loss=Centred())
        start = bench.parameters()
        first = bench.step(*batch)
        bench.step(*batch)
        assert movement(bench.parameters(), expected, start) < 1e-4
        model: Any = load_model(policy, torch.device("cpu"))
        assert first["loss/mean"] == pytest.approx(np.mean([summed(model, collation.sequences([e])).item() for e in batch]), rel=1e-5)


def rollouts(seed: int) -> list[types.Rollout]:
    """Five prompts with a response each."""
    found = []
    for example in make_examples(5, seed=seed, most_sequences=1):
        prompt = types.Prompt(example.prompt_index, example.prompt_id, "", example.prompt_ids[0])
        response = types.Response(example.response_ids[0], np.zeros(len(example.response_ids[0]), dtype=np.float32), "", "stop")
        found.append(types.Rollout(prompt, (response,), 0))
    return found


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_regulariser_equals_the_plain_sum(benches: Benches, policy: PolicyConfig, stage: int, adapter: bool) -> None:
    """Mean loss + 0.7 * mean over five samples of SPO (15), four steps; in the first one pi_theta is pi_ref."""
    own = policy.model_copy(update={"lora": LoraConfig(rank=4)}) if adapter else policy
    batch, samples = make_examples(6, seed=4), rollouts(5)
    reference: Any = load_model(policy, torch.device("cpu"))
    sequences = [types.TokenSequence(rollout.prompt.token_ids, rollout.responses[0].token_ids) for rollout in samples]
    tokens = sum(len(response) for example in batch for response in example.response_ids)

    def objective(model: Any) -> torch.Tensor:
        loss = -summed(model, collation.sequences(batch)) / tokens
        return loss + COEFFICIENT * divergence(model, reference, sequences) / len(samples)

    torch.manual_seed(0)
    expected = plain(own, objective, 4)
    for bench in benches.values():
        bench.become(own, {"zero_stage": stage}, loss=TokenNegative(), coefficient=COEFFICIENT)
        bench.call("regularise", [ray.put(rollout) for rollout in samples])
        start = bench.parameters()
        found = [bench.step(*batch) for _ in range(4)]
        assert movement(bench.parameters(), expected, start) < 1e-3
        assert found[0]["regulariser/kl"] == pytest.approx(0.0, abs=1e-5)
        assert found[3]["regulariser/kl"] > found[1]["regulariser/kl"] > 1e-4 * (not adapter)


def test_regulariser_pulls_back(benches: Benches, policy: PolicyConfig) -> None:
    """A large coefficient keeps the policy nearer to pi_ref than none does."""
    distances = []
    for coefficient in (1e-9, 20.0):
        benches[1].become(policy, {"optimizer": {"lr": 1e-2}}, loss=TokenNegative(), coefficient=coefficient)
        benches[1].call("regularise", [ray.put(rollout) for rollout in rollouts(5)])
        distances.append([benches[1].step(*make_examples(6, seed=4)) for _ in range(8)][-1]["regulariser/kl"])
    assert distances[1] < 0.5 * distances[0]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_refreshed_reference_is_where_the_kl_is_zero(benches: Benches, policy: PolicyConfig, stage: int) -> None:
    bench = benches[2]
    for own in (policy, policy.model_copy(update={"lora": LoraConfig(rank=4)})):
        bench.become(own, {"optimizer": {"lr": 1e-2}, "zero_stage": stage}, loss=TokenNegative(), coefficient=COEFFICIENT)
        bench.call("regularise", [ray.put(rollout) for rollout in rollouts(5)])
        before = [bench.step(*make_examples(6, seed=4))["regulariser/kl"] for _ in range(3)][-1]
        directory = bench.output_dir / f"reference-{own.lora is None}"
        bench.call("export", directory)
        bench.call("refresh_reference", directory)
        assert bench.step(*make_examples(6, seed=4))["regulariser/kl"] < 1e-3 * before


def test_a_loss_that_reads_the_token_wise_kl(benches: Benches, policy: PolicyConfig) -> None:
    batch = make_examples(5, seed=6)
    reference: Any = load_model(policy, torch.device("cpu"))

    def objective(model: Any) -> torch.Tensor:
        sequences = collation.sequences(batch)
        return (divergence(model, reference, sequences) - 0.1 * summed(model, sequences)) / len(batch)

    expected = plain(policy, objective, 3)
    for bench in benches.values():
        bench.become(policy, loss=Divergence())
        start = bench.parameters()
        for _ in range(3):
            bench.step(*batch)
        assert movement(bench.parameters(), expected, start) < 1e-3


def test_samples_are_part_of_a_checkpoint(benches: Benches, policy: PolicyConfig) -> None:
    bench = benches[2]
    bench.become(policy, loss=TokenNegative(), coefficient=COEFFICIENT)
    bench.call("regularise", [ray.put(rollout) for rollout in rollouts(5)])
    bench.step(*make_examples(6, seed=1))
    bench.call("save", bench.output_dir / "checkpoint")
    expected = bench.step(*make_examples(6, seed=2))
    bench.become(policy, loss=TokenNegative(), coefficient=COEFFICIENT)
    bench.call("load", bench.output_dir / "checkpoint")
    bench.call("begin_iteration", 0, 5)
    assert bench.step(*make_examples(6, seed=2)) == expected

"""The loss on held-out examples: the learner's ranks on real DeepSpeed and gloo, against sums by hand; and a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

import raypref
from actors.policy_model import load_model
from raypref import types
from raypref.losses.base import Loss
from raypref.losses.dpo import DPO
from raypref.losses.kto import KTO
from raypref.losses.sft import SFT
from raypref.sections import LoraConfig, PolicyConfig
from raypref.training import collation
from raypref.training.logprobs import response_logps
from tests.integration.runs import given_config
from tests.integration.test_learner_batch import COEFFICIENT, Divergence, divergence, rollouts
from tests.learner_bench import Bench, Benches, TokenNegative, make_examples

pytestmark = pytest.mark.integration


def logps_of(policy: PolicyConfig, examples: list[types.Example]) -> list[np.ndarray]:
    """For each example (S,): log pi(y | x) under the policy as its directory holds it, one sequence a pass."""
    model: Any = load_model(policy, torch.device("cpu"))
    with torch.no_grad():
        return [
            np.array([response_logps(model, [sequence])[0].double().sum().item() for sequence in collation.sequences([example])])
            for example in examples
        ]


def pairs(policy: PolicyConfig, count: int, sequences: int = 2) -> list[types.Example]:
    """Examples of one pair each, or of a pair with two mismatched responses; log pi_ref is one to three nats from log pi_theta."""
    rng = np.random.default_rng(1)
    made = [example for seed in range(40) for example in make_examples(12, seed=seed, most_sequences=4)]
    chosen = [example for example in made if len(example.response_ids) == sequences][:count]
    assert len(chosen) == count
    shifts = [rng.uniform(1, 3, sequences) * rng.choice([-1, 1], sequences) for _ in chosen]
    return [
        replace(example, targets=np.tile([1.0, 0.0], sequences // 2), reference_logps=logps + shift, sampled_logps=None)
        for example, logps, shift in zip(chosen, logps_of(policy, chosen), shifts, strict=True)
    ]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def measure(bench: Bench, what: str, examples: list[types.Example]) -> dict[str, float]:
    """In two parts of unlike size, as the driver sends them."""
    parts = [part for part in (tuple(examples[:4]), tuple(examples[4:])) if part]
    return dict(bench.call(what, [types.Slice(ray.put(part), 0, len(part)) for part in parts]))


def evaluate(bench: Bench, examples: list[types.Example]) -> dict[str, float]:
    return measure(bench, "evaluate", examples)


@pytest.mark.parametrize("stage", [0, 3])
def test_the_loss_of_pairs_by_hand(benches: Benches, policy: PolicyConfig, stage: int) -> None:
    """Eleven pairs in micro-batches of at most 60 tokens on one and two ranks: DPO is the mean of log(1 + exp(-beta (r_w - r_l))), r the
    log-ratio, here minus the shift; and a pair is right where r_w > r_l. One example alone is a batch for two ranks, too."""
    held_out = pairs(policy, 11)
    ratios = np.array([logps - example.reference_logps for logps, example in zip(logps_of(policy, held_out), held_out, strict=True)])
    margins = 0.5 * (ratios[:, 0] - ratios[:, 1])
    assert 0 < (margins > 0).sum() < 11
    for bench in benches.values():
        bench.become(policy, {"zero_stage": stage}, loss=DPO(beta=0.5))
        for first in (11, 1):
            found = evaluate(bench, held_out[:first])
            assert found["loss"] == pytest.approx(np.log1p(np.exp(-margins[:first])).mean(), rel=1e-5)
            assert found["rewards/accuracies"] == pytest.approx((margins[:first] > 0).mean(), abs=1e-12)
            assert found["rewards/margins"] == pytest.approx(margins[:first].mean(), rel=1e-4)
            assert found["rewards/chosen"] == pytest.approx(0.5 * ratios[:first, 0].mean(), rel=1e-4)


def test_a_batch_statistic_is_over_all_held_out_examples(benches: Benches, policy: PolicyConfig) -> None:
    """KTO: z0 is the mean over every example of the mean log-ratio of its two mismatched responses."""
    held_out = pairs(policy, 7, sequences=4)
    ratios = np.array([logps - example.reference_logps for logps, example in zip(logps_of(policy, held_out), held_out, strict=True)])
    baseline = max(0.0, ratios[:, 2:].mean())
    values = (sigmoid(-0.2 * (ratios[:, 0] - baseline)) + sigmoid(0.2 * (ratios[:, 1] - baseline))) / 2
    for bench in benches.values():
        bench.become(policy, loss=KTO(beta=0.2))
        found = evaluate(bench, held_out)
        assert found["loss"] == pytest.approx(values.mean(), rel=1e-5)
        assert found["loss/kl_baseline"] == pytest.approx(baseline, rel=1e-4, abs=1e-9)


def test_a_loss_per_token_counts_every_token_once(benches: Benches, policy: PolicyConfig) -> None:
    """SFT: minus the sum of all log-probs over the number of all tokens, not a mean of means. The likelihood of texts is the same, under
    whatever loss."""
    held_out = list(make_examples(9, seed=2, most_sequences=1))
    tokens = [len(example.response_ids[0]) for example in held_out]
    assert len(set(tokens)) > 2
    expected = -sum(float(logps[0]) for logps in logps_of(policy, held_out)) / sum(tokens)
    for bench in benches.values():
        bench.become(policy, loss=SFT())
        assert evaluate(bench, held_out)["loss"] == pytest.approx(expected, rel=1e-6)
        bench.become(policy, loss=DPO())
        assert measure(bench, "likelihood", held_out) == {"text_nll": pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize(
    ("loss", "stage"),
    [(TokenNegative(), 0), (TokenNegative(), 3), (Divergence(), 2)],
    ids=["stage_0", "stage_3", "token_kl"],
)
def test_training_is_the_same_to_the_bit(benches: Benches, policy: PolicyConfig, loss: Loss, stage: int) -> None:
    """Two steps with dropout in the adapter and a regulariser, on two ranks: with an evaluation before, between and after them, parameters
    and metrics are those without. The evaluation itself has no dropout: twice the same value, whatever the random state."""
    adapter = policy.model_copy(update={"lora": LoraConfig(rank=4, dropout=0.5)})
    bench, held_out = benches[2], list(make_examples(5, seed=9))
    found = []
    for evaluated in (False, True):
        bench.become(adapter, {"zero_stage": stage}, loss=loss, coefficient=COEFFICIENT)
        bench.call("regularise", [ray.put(rollout) for rollout in rollouts(5)])
        metrics, values = [], []
        for seed in (1, 2):
            values += [evaluate(bench, held_out) for _ in range(2 * evaluated)]
            metrics.append(bench.step(*make_examples(6, seed=seed)))
        values += [evaluate(bench, held_out) for _ in range(2 * evaluated)]
        found.append((metrics, bench.parameters()))
    (metrics, parameters), (others, again) = found
    assert metrics == others
    for name, value in parameters.items():
        np.testing.assert_array_equal(again[name], value)
    assert values[0::2] == values[1::2]
    assert len({value["loss"] for value in values}) == 3


def test_the_token_wise_kl_of_held_out_examples(benches: Benches, policy: PolicyConfig) -> None:
    """With an adapter whose dropout is off while it evaluates: at the start pi_theta is pi_ref, and the KL is 0, so that the loss is minus
    a tenth of the summed log-probs."""
    adapter = policy.model_copy(update={"lora": LoraConfig(rank=4, dropout=0.5)})
    held_out = list(make_examples(5, seed=6))
    expected = -0.1 * np.mean([logps.sum() for logps in logps_of(policy, held_out)])
    reference: Any = load_model(policy, torch.device("cpu"))
    assert divergence(reference, reference, collation.sequences(held_out)).item() == pytest.approx(0.0, abs=1e-6)
    for bench in benches.values():
        bench.become(adapter, loss=Divergence())
        assert evaluate(bench, held_out)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("cluster")
def test_a_run_on_given_pairs_measures_its_held_out_pairs(tied_model: Path, tmp_path: Path) -> None:
    """DPO without an oracle: no engines. At the start the policy is pi_ref, so the loss is log 2 and every pair a tie; then it learns."""
    config = given_config(
        tied_model,
        tmp_path,
        loss={"type": "dpo"},
        oracle=None,
        evaluation={"loss_every_steps": 2},
        learner={"global_batch": 4, "optimizer": {"lr": 1e-3}, "timeout_s": 120},
    )
    result = raypref.run(config, callbacks=[])
    points = result.summary["held_out"]
    assert [(point["iteration"], point["step"], point["examples"]) for point in points] == [(1, 0, 4), (1, 2, 4), (1, 4, 4), (1, 6, 4)]
    assert points[0]["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert abs(points[0]["rewards/margins"]) < 1e-4
    assert points[-1]["loss"] < points[0]["loss"]
    assert points[-1]["rewards/accuracies"] > 0.5
    assert not (result.output_dir / "logs" / "rollout-0.log").exists()
    lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["eval/loss"] for line in lines if "eval/loss" in line] == [point["loss"] for point in points]

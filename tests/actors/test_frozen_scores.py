"""Frozen log-probs are read back where the same policies have scored the same sequences, and only there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy_model import load_model
from actors.reference.actor import ReferenceActor
from actors.weights.received_policy import ReceivedPolicy
from raypref.output.frozen_scores import FrozenScores, key_of
from raypref.roles import Audience
from raypref.sections import PolicyConfig
from raypref.types import Example
from tests.learner_bench import make_examples, make_policy

GROUPS = [tuple(replace(example, policy_version=3, previous_logps=None) for example in make_examples(3, seed=seed)) for seed in range(4)]


class Counting(ReferenceActor):
    """Counts the groups that it computes."""

    computed = 0

    def _computed(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        self.computed += 1
        return super()._computed(examples)


@pytest.fixture
def policy(tmp_path: Path) -> PolicyConfig:
    return make_policy(tmp_path / "policy")


def replica(policy: PolicyConfig, rollouts: Path, name: str = "reference-0") -> Counting:
    return Counting(policy, {"reference"}, 64, scores=(rollouts, name))


def equal(first: Sequence[Example], second: Sequence[Example]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        np.array_equal(a.reference_logps, b.reference_logps) and a.previous_logps is b.previous_logps is None  # type: ignore[arg-type]
        for a, b in pairs
    )


def test_a_group_that_was_scored_before_a_restart_is_not_scored_again(policy: PolicyConfig, tmp_path: Path) -> None:
    """By two replicas, which are as if they had been killed; a third knows what both wrote, to the bit, and goes on with the file of the
    first."""
    first, second = replica(policy, tmp_path), replica(policy, tmp_path, "reference-1")
    expected = [first.score(GROUPS[0]), second.score(GROUPS[1]), first.score(GROUPS[2])]
    again = replica(policy, tmp_path)
    assert all(equal(again.score(group), scored) for group, scored in zip(GROUPS, expected, strict=False))
    assert again.computed == 0
    again.score(GROUPS[3])
    last = replica(policy, tmp_path, "reference-2")
    for group in GROUPS:
        last.score(group)
    assert (again.computed, last.computed) == (1, 0)
    for actor in (first, second, again, last):
        actor.shutdown()


def test_other_policies_sequences_or_given_data_are_scored(policy: PolicyConfig, tmp_path: Path) -> None:
    """The content of pi_ref's files counts, not where they are."""
    first = replica(policy, tmp_path)
    first.score(GROUPS[0])
    first.shutdown()
    other = make_policy(tmp_path / "other")
    again = replica(policy, tmp_path)
    again.refresh(Path(other.path))
    again.score(GROUPS[0])
    assert again.computed == 1
    shutil.copytree(other.path, tmp_path / "moved")
    third = replica(policy, tmp_path)
    third.refresh(tmp_path / "moved")
    third.score(GROUPS[0])
    assert third.computed == 0
    third.score((replace(GROUPS[0][0], response_ids=GROUPS[1][0].response_ids, prompt_ids=GROUPS[1][0].prompt_ids), *GROUPS[0][1:]))
    given = [replace(example, policy_version=None) for example in GROUPS[0]]
    third.score(given)
    third.score(given)
    assert third.computed == 3
    assert key_of(given, "") is None
    again.shutdown()
    third.shutdown()


def test_the_weights_of_pi_t_are_part_of_the_key(policy: PolicyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are for the engines alone do not change it, and the weights that come next do."""
    received = ReceivedPolicy(load_model(policy, torch.device("cpu")), torch.device("cpu"), "shm")
    weights = {name: tensor.clone() for name, tensor in received._tensors.tensors.items()}

    def sync(version: int, audience: Audience, change: float) -> None:
        received.begin(audience, complete=True)
        received._tensors.load_weights((name, tensor + change) for name, tensor in weights.items())
        sums.update({name: hash((tensor + change).sum().item()) for name, tensor in weights.items()})
        received.take_version(version)

    sums: dict[str, int] = {}
    monkeypatch.setattr(received.checksums, "values", lambda: dict(sums))
    sync(0, "all", 0.0)
    first = received.identity()
    sync(1, "engines", 1.0)
    assert received.identity() == first
    sync(1, "all", 1.0)
    second = received.identity()
    assert second != first
    sync(2, "all", 0.0)
    assert received.identity() == first
    received.receiver.close()


def test_scores_stay_until_two_further_checkpoints(policy: PolicyConfig, tmp_path: Path) -> None:
    actor = replica(policy, tmp_path)
    for iteration, group in enumerate(GROUPS, start=1):
        actor.score(group)
        actor.seal(iteration)
    assert sorted(path.name for path in (tmp_path / ".open").iterdir()) == [
        "iteration_0003-reference-0.scores",
        "iteration_0004-reference-0.scores",
    ]
    again = replica(policy, tmp_path)
    for group in GROUPS:
        again.score(group)
    assert again.computed == 2
    again.shutdown()


def test_scores_outlive_two_interruptions(tmp_path: Path) -> None:
    """Iterations 1 and 2 are scored and sealed, and some of 3 is scored, when the run is killed before the checkpoint of iteration 1 is
    complete. It repeats iteration 1, and is killed again: what was read back is still there, and so is what comes after it."""
    scored = [[replace(item, reference_logps=np.arange(3.0), previous_logps=None) for item in group] for group in GROUPS]

    def run(*sealed: Sequence[str], opened: str = "") -> int:
        """Score the groups of iterations, and those of one that is not sealed; how many are computed."""
        scores, computed = FrozenScores(tmp_path, "reference-0"), 0
        for iteration, keys in enumerate([*sealed, opened], start=1):
            for key in keys:
                if scores.find(key, GROUPS[0]) is None:
                    scores.add(key, scored[0])
                    computed += 1
            if iteration <= len(sealed):
                scores.seal(iteration)
        scores.close()
        return computed

    assert run("ab", "cd", opened="e") == 5
    assert run("ab", opened="c") == 0
    assert run("ab", "cd", opened="ef") == 1
    assert run("ab", "cd", "ef", "gh") == 2


def test_a_score_that_was_cut_off_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both slots, and a group whose examples have other numbers of sequences."""
    scored = [
        tuple(replace(item, reference_logps=np.arange(k + 2.0), previous_logps=-np.arange(k + 2.0)) for k, item in enumerate(group))
        for group in GROUPS[:2]
    ]
    scores = FrozenScores(tmp_path, "reference-0")
    for key, group in zip("ab", scored, strict=True):
        scores.add(key, group)
    scores.close()
    path = tmp_path / ".open" / "reference-0.scores"
    path.write_bytes(path.read_bytes()[:-200])
    again = FrozenScores(tmp_path, "reference-0")
    assert "cut off" in caplog.text
    assert again.find("b", GROUPS[1]) is None
    found = again.find("a", GROUPS[0])
    assert found is not None
    for item, expected in zip(found, scored[0], strict=True):
        np.testing.assert_array_equal(item.reference_logps, expected.reference_logps)  # type: ignore[arg-type]
        np.testing.assert_array_equal(item.previous_logps, expected.previous_logps)  # type: ignore[arg-type]

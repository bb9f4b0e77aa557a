"""What engines are asked: sampling settings by default from the config, and seeds that must not change from version to version."""

from __future__ import annotations

from typing import Any

import pytest

from raypref.loop.requests import RequestBuilder
from raypref.sections import RolloutConfig
from raypref.seeds import seed_for
from tests.fakes import prompt

BUILDER = RequestBuilder(7, RolloutConfig(temperature=0.7, top_p=0.9, max_tokens=30))


def test_the_config_says_how_to_sample_unless_the_request_does() -> None:
    by_config = BUILDER.build(prompt(0), 4, purpose="train", iteration=2, policy_version=2)
    assert (by_config.count, by_config.temperature, by_config.top_p, by_config.max_tokens, by_config.policy_version) == (4, 0.7, 0.9, 30, 2)
    settings: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 5}
    probe = BUILDER.build(prompt(0), 1, purpose="probe", iteration=0, policy_version=2, **settings)
    assert (probe.temperature, probe.top_p, probe.max_tokens) == (1.0, 1.0, 5)


def test_seeds_depend_on_purpose_iteration_and_prompt() -> None:
    seeds = [
        BUILDER.build(prompt(index), 1, purpose=purpose, iteration=iteration, policy_version=0).seed
        for index in (0, 1)
        for purpose in ("train", "evaluation")
        for iteration in (0, 1)
    ]
    assert len(set(seeds)) == 8
    assert BUILDER.build(prompt(0), 5, purpose="train", iteration=0, policy_version=3).seed == seeds[0], "count and version do not matter"


@pytest.mark.parametrize(
    ("purpose", "iteration", "name", "seed"),
    [
        ("train", 0, "p0", 3468957649),
        ("evaluation", 3, "a/b", 3804202850),
        ("group", -1, "0", 2226784478),
        ("group", None, "0", 2226784478),
    ],
)
def test_stored_seeds(purpose: str, iteration: int | None, name: str, seed: int) -> None:
    """The first four bytes of BLAKE2b (digest of 4 bytes) of "7/purpose/iteration/name"; given data counts as iteration -1."""
    assert seed_for(7, purpose, iteration, name) == seed

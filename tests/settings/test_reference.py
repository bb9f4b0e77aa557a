"""The reference of config keys: complete, true to what pydantic checks, and the same in the terminal and in docs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypref.errors import ConfigError
from raypref.losses.base import Loss
from raypref.registry import all_keys
from raypref.settings import reference
from raypref.settings.overrides import AXES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "config.md"


class Mine(Loss):
    """A loss of one's own."""

    strength: float = 2.0
    """How strong it is, in nats."""


def test_the_committed_page_is_what_the_docstrings_give() -> None:
    assert PAGE.read_text() == reference.page(), "run `make docs-tables`"


def test_every_key_is_there_and_has_a_docstring() -> None:
    keys = [key for entry in reference.entries() for key in entry.keys]
    assert [key.path for key in keys if not key.meaning and not key.path.endswith(".type")] == []
    named = {key.path for key in keys} | {entry.name for entry in reference.entries()}
    assert [key for key in all_keys() if key not in named and key not in AXES] == []
    for axis, registry in AXES.items():
        assert {f"{axis}.{name}" for name in registry.names()} <= named
    assert [entry.name for entry in reference.entries() if not entry.meaning] == []


@pytest.mark.parametrize(
    ("path", "kind", "default"),
    [
        ("learner.optimizer.lr", "number above 0", "5e-07"),
        ("learner.zero_stage", "0 | 1 | 2 | 3", "2"),
        ("rollout.top_p", "number above 0 to 1", "1.0"),
        ("evaluation.every", "integer from 0 or null", "1"),
        ("loss.sppo.baseline", "number or half | ordered | estimate", "half"),
        ("policy.path", "text", None),
        ("data.shuffle", "true or false", "true"),
        ("policy.lora", "section or null", "null"),
    ],
)
def test_type_bounds_and_default_of_a_key(path: str, kind: str, default: str | None) -> None:
    """As the annotations have them; ``policy.lora`` may be null, so it is a key and a section."""
    found = [
        key for entry in reference.find(path.rpartition(".")[0]) for key in entry.keys if key.path.endswith(f".{path.rpartition('.')[2]}")
    ]
    assert (found[0].kind, found[0].default) == (kind, default)


def test_a_section_comes_with_those_inside_it_and_a_key_alone() -> None:
    assert [entry.name for entry in reference.find("learner")] == ["learner", "learner.optimizer", "learner.schedule"]
    (entry,) = reference.find("learner.optimizer.lr")
    assert [key.path for key in entry.keys] == ["learner.optimizer.lr"]
    (entry,) = reference.find("loss.inpo.tau")
    assert [key.path for key in entry.keys] == ["loss.tau"]
    assert [entry.name for entry in reference.find("selection")] == [f"selection.{name}" for name in AXES["selection"].names()]


def test_an_extension_of_ones_own() -> None:
    (entry,) = reference.find("loss.tests.settings.test_reference:Mine")
    assert entry.meaning == "A loss of one's own."
    assert [(key.path, key.default, key.meaning) for key in entry.keys] == [("loss.strength", "2.0", "How strong it is, in nats.")]


def test_search_looks_at_names_before_descriptions() -> None:
    assert [key.path for entry in reference.search("lr") for key in entry.keys] == ["learner.optimizer.lr"]
    assert "placement.sleep" in [key.path for entry in reference.search("take turns") for key in entry.keys]
    with pytest.raises(ConfigError, match="--search zzz: no key"):
        reference.search("zzz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lerner", "there is no such section or key"),
        ("loss.inpoo", "did you mean 'inpo'"),
        ("learner.lrr", "there is no such section"),
    ],
)
def test_what_does_not_exist_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reference.find(name)


def test_text_keeps_within_the_width() -> None:
    long = [line for entry in reference.entries() for line in reference.text_of(entry, 80).splitlines() if len(line) > 80]
    assert [line for line in long if not line.startswith("  ") or " " in line.strip()] == []

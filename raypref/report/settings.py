"""The settings of a run that are not the defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raypref.config import RunConfig
from raypref.registry import Section, TypedSection

PLACES = ("name", "output_dir", "seed", "policy.path", "policy.tokenizer", "data.path", "data.held_out")
"""What a run is and where; the header of a report has them."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One setting."""

    path: str
    value: Any
    default: Any
    """None where there is none: the key must be given."""


def changed_settings(config: RunConfig) -> list[Changed]:
    """Every setting that differs from its default, in the order of the config; also which loss, selection and oracle it is."""
    return [changed for changed in _changed(config, "") if changed.path not in PLACES]


def _changed(section: Section, path: str) -> Iterator[Changed]:
    written = section.model_dump(mode="json")  # as in config.yaml: a function by its name
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(value, TypedSection):
            yield Changed(f"{path}{name}.type", value.type, None)
            yield from (changed for changed in _changed(value, f"{path}{name}.") if changed.path != f"{path}{name}.type")
        elif isinstance(value, Section):
            if default is None and not field.is_required():
                yield Changed(f"{path}{name}", "given", None)
            yield from _changed(value, f"{path}{name}.")
        elif value != default:
            yield Changed(f"{path}{name}", written[name], default)


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted path -> value, of a config that cannot be validated; what is null is left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{path}{name}.")
        elif value is not None and f"{path}{name}" not in PLACES:
            found[f"{path}{name}"] = value
    return found

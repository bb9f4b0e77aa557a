"""Base of every config section: frozen, unknown keys refused with the nearest known one named."""

from __future__ import annotations

import difflib
from typing import Any, Self

import pydantic
from pydantic import BaseModel, ConfigDict

from raypref.errors import ConfigError


class Section(BaseModel):
    """A frozen section of the config. The docstring under a field is its documentation: meaning, unit, range."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    @classmethod
    def parse(cls, values: dict[str, Any], path: str = "") -> Self:
        """Validate ``values``; every problem is reported with its dotted path, the value and what would be right.

        Raises:
            ConfigError: on an unknown key, a missing one, or a value that is out of range.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, item, path) for item in error.errors())) from error


class TypedSection(Section):
    """A section that is chosen by its ``type`` (a loss, a selection, an oracle)."""

    type: str = ""
    """The registered name, or ``module:Class``."""


def _explain(cls: type[BaseModel], item: Any, path: str) -> str:
    where = ".".join([*([path] if path else []), *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        known = _fields_at(cls, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{where}: required, but not given"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    return f"{where}: {item['msg']} (got {item['input']!r})"


def _fields_at(cls: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        field = cls.model_fields.get(str(part))
        annotation = field.annotation if field else None
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not inner:
            return []
        cls = inner[0]
    return sorted(cls.model_fields)

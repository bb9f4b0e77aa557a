"""Config sections, and the three extension points that are chosen by ``type``: losses, selections, oracles.

An extension is one file: a ``TypedSection`` subclass (its settings and its code) under a name. A third party's is named ``module:Class``
in the config and needs no registration.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Generic, Self, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from raypref.errors import ConfigError

RENAMED: Mapping[str, str] = {
    "rollout.truncated": "judging.truncated",
    "rollout.truncation_penalty": "judging.truncation_penalty",
}
"""Dotted config key of an earlier version -> its name now."""


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


T = TypeVar("T", bound=Section)


class Registry(Generic[T]):
    """Names of one extension point, and the classes behind them."""

    def __init__(self, axis: str, base: type[T], package: str) -> None:
        self.axis = axis
        self.base = base
        self.package = package
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make the class known as ``type: name``."""

        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.axis} {name!r} is registered twice: {self._classes[name]} and {cls}")
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """The registered names, after importing every module of the axis' package."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if module.ispkg:
                continue  # helpers: ``terms``, ``rules``, ``support``
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._classes)

    def resolve(self, name: str) -> type[T]:
        """The class behind ``name``, or behind ``module:Class``."""
        if ":" in name:
            return self._import(name)
        if name not in self.names():
            near = difflib.get_close_matches(name, self._classes, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{self.axis}.type: no {self.axis} is called {name!r}; {hint}known: {', '.join(self.names())}; "
                f"your own is named as 'module:Class'"
            )
        return self._classes[name]

    def build(self, value: Any) -> T:
        """A section from what a config holds: an instance as it is, or a mapping with a ``type``."""
        if isinstance(value, self.base):
            return value
        if not isinstance(value, dict) or "type" not in value:
            raise ConfigError(f"{self.axis}: expected a section with a 'type' (one of {', '.join(self.names())}), got {value!r}")
        return self.resolve(str(value["type"])).parse(value, path=self.axis)

    def _import(self, name: str) -> type[T]:
        module_name, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.axis}.type: cannot import {name!r}: {error}") from error
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ConfigError(f"{self.axis}.type: {name!r} is not a subclass of {self.base.__module__}.{self.base.__name__}")
        return found


def _explain(cls: type[BaseModel], item: Any, path: str) -> str:
    where = ".".join([*([path] if path else []), *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        if where in RENAMED:
            return f"{where}: is now called {RENAMED[where]}"
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

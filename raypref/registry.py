"""The three extension points: losses, selections, oracles.

An extension is one file: a ``Section`` subclass (its settings, its code) under a name. A third party's is named ``module:Class`` in the
config and needs no registration.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from raypref.errors import ConfigError
from raypref.section import Section

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

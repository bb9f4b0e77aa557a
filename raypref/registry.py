"""Config sections, and the three extension points that are chosen by ``type``: losses, selections, oracles.

An extension is one file: a ``TypedSection`` subclass (its settings and its code) under a name. A third party's is named ``module:Class``
in the config and needs no registration.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Self, TypeVar, get_args

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from raypref.errors import ConfigError
from raypref.metric_info import MetricInfo

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

UserPath = Annotated[
    str, BeforeValidator(lambda path: os.fspath(path) if isinstance(path, os.PathLike) else path), AfterValidator(os.path.expanduser)
]
"""A path or a hub name; ``~`` is the home directory."""
UserDirectory = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
"""A directory; ``~`` is the home directory."""

RENAMED: dict[str, str] = {
    "rollout.truncated": "judging.truncated",
    "rollout.truncation_penalty": "judging.truncation_penalty",
    "selection.winner": "selection.chosen",
}
"""Old key -> new key, both as dotted paths. An old key is refused, and the new one named."""


class _SectionType(ModelMetaclass):
    """What a constructor call refuses is worded as in a config file. Nested sections are validated without a call, so it happens once."""

    def __call__(cls: Any, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except pydantic.ValidationError as error:
            raise _refusal(cls, error, "") from error


class Section(BaseModel, metaclass=_SectionType):
    """A frozen section of the config. The docstring under a field is its documentation: meaning, unit, range."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _nested_keys(cls, values: Any) -> Any:
        return nested(values, cls.model_fields) if isinstance(values, dict) else values

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Refuse true and false where a number is meant: pydantic would read 1 and 0."""
        if (isinstance(value, bool) or _holds_truth(value)) and _wants_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("true and false are no numbers; give a number")
        return value

    @classmethod
    def parse(cls, values: dict[str, Any], path: str = "") -> Self:
        """Validate ``values``; every problem is reported with its dotted path, the value and what would be right.

        Raises:
            ConfigError: on an unknown key, a missing one, or a value that is out of range.
        """
        try:
            return super().model_validate(values)
        except pydantic.ValidationError as error:
            raise _refusal(cls, error, path) from error

    @classmethod
    def model_validate(cls, obj: Any, **how: Any) -> Self:
        """pydantic's, with the errors of ``parse``.

        Raises:
            ConfigError: as ``parse``.
        """
        try:
            return super().model_validate(obj, **how)
        except pydantic.ValidationError as error:
            raise _refusal(cls, error, "") from error


class TypedSection(Section):
    """A section that is chosen by its ``type`` (a loss, a selection, an oracle)."""

    type: str = ""
    """The registered name, or ``module:Class``."""

    def extra_metrics(self) -> tuple[MetricInfo, ...]:
        """The metrics that this section reports and that ``docs/metrics.md`` does not list; override it to declare yours.

        A run refuses a metric that is in neither place.
        """
        return ()


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
            near = difflib.get_close_matches(name.lower().replace("-", "_"), self._classes, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{self.axis}.type: no {self.axis} is called {name!r}; {hint}known: {', '.join(self.names())}; "
                f"a class of yours is named 'module:Class'"
            )
        return self._classes[name]

    def build(self, value: Any) -> T:
        """A section from what a config holds: an instance as it is, a mapping with a ``type``, or the type alone."""
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, dict) or "type" not in value:
            raise ConfigError(f"{self.axis}: expected a section with a 'type' (one of {', '.join(self.names())}), got {value!r}")
        return self.resolve(str(value["type"])).parse(value, path=self.axis)

    def _import(self, name: str) -> type[T]:
        module_name, _, attribute = name.partition(":")
        importlib.invalidate_caches()  # the file may be younger than this process
        try:
            named = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.axis}.type: cannot import {name!r}: {error}") from error
        if not (isinstance(named, type) and issubclass(named, self.base)):
            raise ConfigError(f"{self.axis}.type: {name!r} is not a subclass of {self.base.__module__}.{self.base.__name__}")
        return named


def nested(values: dict[Any, Any], fields: Iterable[str]) -> dict[Any, Any]:
    """``policy.lora: true`` as ``policy: {lora: true}``. A dotted key that does not begin with one of the ``fields`` stays as it is.

    Raises:
        ConfigError: a key is given in both ways.
    """
    dotted = [key for key in values if isinstance(key, str) and key.partition(".")[0] in fields and "." in key]
    if not dotted:
        return values
    result = {key: value for key, value in values.items() if key not in dotted}
    for key in dotted:
        head, _, rest = key.partition(".")
        section = result.get(head, {})
        if not isinstance(section, dict) or rest in section:
            raise ConfigError(f"{key}: {values[key]!r}, but {head} is given as well: {section!r}; write the key once, inside of {head}")
        result[head] = nested(section | {rest: values[key]}, [rest.partition(".")[0]])
    return result


def _holds_truth(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, bool) for item in value)


def _wants_number(annotation: Any) -> bool:
    """Whether a field of this annotation (``int | None``, ``tuple[float, ...]``) holds numbers, and no truth value."""
    kinds, todo = set[Any](), [annotation]
    while todo:
        kinds.add(kind := todo.pop())
        todo += get_args(kind)
    return bool not in kinds and not kinds.isdisjoint((int, float))


def _refusal(cls: type[BaseModel], error: pydantic.ValidationError, path: str) -> ConfigError:
    return ConfigError("\n".join(_explain(cls, item, path) for item in error.errors()))


def _explain(cls: type[BaseModel], item: Any, path: str) -> str:
    where = ".".join([*([path] if path else []), *(str(part) for part in item["loc"])]) or "the config"
    if item["type"] == "extra_forbidden":
        from raypref.settings.unknown_keys import unknown_key  # it knows every section, and this module is their base

        return f"{where}: {unknown_key(where, _section_at(cls, item['loc'][:-1]), RENAMED)}"
    if item["type"] == "missing":
        return f"{where}: required, but not given"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    section = _section_at(cls, item["loc"])
    if item["type"] in ("model_type", "model_attributes_type", "dict_type") and section is not None:
        keys = ", ".join([*section.model_fields][:3]) + (", ..." if len(section.model_fields) > 3 else "")
        return f"{where}: expected a section (a mapping with the keys {keys}), got {item['input']!r}"
    if cls.model_config.get("hide_input_in_errors"):  # a secret may stand in a wrong field
        return f"{where}: {item['msg']}"
    return f"{where}: {item['msg']} (got {item['input']!r})"


def all_keys() -> list[str]:
    """The dotted path of every key of the config, those of losses, selections and oracles aside."""
    from raypref.config import RunConfig

    def below(cls: type[BaseModel], path: str) -> Iterator[str]:
        for name, field in cls.model_fields.items():
            inner = _model_in(field.annotation)
            yield f"{path}{name}"
            if inner is not None and not issubclass(inner, TypedSection):
                yield from below(inner, f"{path}{name}.")

    return list(below(RunConfig, ""))


def _section_at(cls: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The class of the section at a place inside of ``cls``; None where that is no section."""
    for part in location:
        field = cls.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return None
        cls = inner
    return cls


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this annotation holds, or may hold (``LoraConfig | None``)."""
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)

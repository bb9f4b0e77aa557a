"""What is said about a key that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from pydantic import BaseModel

from raypref.registry import TypedSection, all_keys
from raypref.settings.foreign_keys import FOREIGN, OF_METHOD
from raypref.settings.overrides import AXES

_MOST_HINTS = 3
"""With more places than this, a hint at all of them would not help."""

_NEAR = 0.9
"""How similar the name of a key in another section must be."""


def unknown_key(where: str, section: type[BaseModel] | None, renamed: Mapping[str, str]) -> str:
    """What to do about an unknown key.

    The first of these that there is: its new name; what another tool's key is called here; the place of a key of that name, in the whole
    config; the nearest key of its own section; losses, selections and oracles with such a key; the nearest key of another section; all
    keys of its section.

    Args:
        where: its dotted path.
        section: the class of its section, where that is known.
        renamed: old key -> new key, as dotted paths.
    """
    new = next((new for old, new in renamed.items() if f".{old}".endswith(f".{where}")), None)
    if new is not None:
        return f"is now called {new}"
    path, _, written = where.rpartition(".")
    key = written.lower().replace("-", "_")
    known = sorted(section.model_fields) if section is not None else []
    method = _type_of(section)
    if method is not None and (method, key) in OF_METHOD:
        return f"unknown key; {OF_METHOD[method, key]}"
    places = all_keys()
    if hint := _hint([place for place in places if place.rpartition(".")[2] == key], path):
        return f"unknown key; did you mean {hint}?"
    if key in known:
        return f"unknown key; did you mean {key!r}?"
    if key in FOREIGN:
        return f"unknown key; {FOREIGN[key]}"
    if near := difflib.get_close_matches(key, known, n=1):
        return f"unknown key; did you mean {near[0]!r}?"
    of_methods = _keys_of_methods(key)
    if method is None and of_methods:
        return f"unknown key; did you mean {of_methods}?"
    if hint := _hint([place for place in places if difflib.SequenceMatcher(None, key, place.rpartition(".")[2]).ratio() >= _NEAR], path):
        return f"unknown key; did you mean {hint}?"
    return f"unknown key{f', but there is {of_methods}' if of_methods else ''}; known keys: {', '.join(known)}"


def _hint(places: list[str], path: str) -> str:
    """The places, those below ``path`` if there are any; empty if there are none or too many."""
    places = [place for place in places if path and place.startswith(f"{path}.")] or places
    return " or ".join(map(repr, places)) if len(places) <= _MOST_HINTS else ""


def _type_of(section: type[BaseModel] | None) -> str | None:
    """The name of a method whose settings a section holds."""
    if section is None or not issubclass(section, TypedSection):
        return None
    return str(section.model_fields["type"].default)


def _keys_of_methods(key: str) -> str:
    """Where losses, selections and oracles have such a key: ``'loss.tau' (of inpo, ipo)``."""
    places = []
    for axis, registry in AXES.items():
        methods = [name for name in registry.names() if key in registry.resolve(name).model_fields]
        if methods:
            places.append(f"'{axis}.{key}' (of {', '.join(methods)})")
    return " or ".join(places)

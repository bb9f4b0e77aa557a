"""A config file and the overrides on top of it, as plain values that are not validated yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from raypref.errors import ConfigError, reason_of
from raypref.losses.base import losses
from raypref.oracles.base import oracles
from raypref.registry import Registry
from raypref.selection.base import selections

logger = logging.getLogger(__name__)

AXES: dict[str, Registry[Any]] = {"loss": losses, "selection": selections, "oracle": oracles}
"""The sections that are chosen by ``type``."""


def apply(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A file's values with dotted overrides.

    An override that changes the ``type`` of a loss, a selection, an oracle or an ensemble's member drops the file's other keys of that
    section: a key means what its own method says, also where the other method has a key of the same name. A warning names them.

    Args:
        values: of the file; sections in full, not in their short form.
        overrides: ``section.key=value``, values in YAML syntax; ``loss=dpo`` is ``loss.type=dpo``, and ``policy.lora=true`` keeps what the
            file says of the adapters.

    Raises:
        ConfigError: an override is malformed, or names no place.
    """
    from omegaconf import OmegaConf

    in_full = [_override_in_full(override) for override in overrides]
    given = _container(OmegaConf.create({}), in_full, resolve=False)
    for axis, registry in AXES.items():
        _drop_keys_of_another_method(values.get(axis), given.get(axis), registry, axis)
    return _container(OmegaConf.create(values), in_full, resolve=True)


def in_full(values: dict[str, Any]) -> dict[str, Any]:
    """Sections that are written in short: ``loss: dpo`` becomes ``loss: {type: dpo}``, ``lora: true`` becomes ``lora: {}``."""
    expanded = {key: _typed_in_full(value) if key in AXES else value for key, value in values.items()}
    policy = expanded.get("policy")
    if isinstance(policy, dict) and isinstance(policy.get("lora"), bool):
        expanded["policy"] = policy | {"lora": {} if policy["lora"] else None}
    return expanded


def _typed_in_full(value: Any) -> Any:
    if isinstance(value, str) and "${" not in value:
        return {"type": value}
    if isinstance(value, dict) and isinstance(value.get("members"), list):
        return value | {"members": [_typed_in_full(member) for member in value["members"]]}
    return value


def _override_in_full(override: str) -> str:
    import yaml

    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or "" in key.split("."):
        raise ConfigError(f"override {override!r}: expected section.key=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of more digits than Python reads
        raise ConfigError(f"override {override!r}: the value is not YAML: {reason_of(error)}") from error
    if key in AXES and isinstance(value, str) and "${" not in value:
        return f"{key}.type={text}"
    if key == "policy.lora" and isinstance(value, bool):
        return f"{key}={'{}' if value else 'null'}"
    return f"{key}={text}"


def _container(tree: Any, overrides: Sequence[str], *, resolve: bool) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for override in overrides:
        try:
            tree.merge_with_dotlist([override])
        except (OmegaConfBaseException, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"override {override!r}: there is no such place in the file: {str(error).splitlines()[0]}") from error
    try:
        values: Any = OmegaConf.to_container(tree, resolve=resolve)
    except OmegaConfBaseException as error:
        where, said = f"{error.full_key}: " if error.full_key else "", str(error).splitlines()[0]
        raise ConfigError(f"{where}the config cannot be resolved: {said}; write the value itself, or a ${{key}} that is there") from error
    return dict(values)


def _drop_keys_of_another_method(section: Any, given: Any, registry: Registry[Any], path: str, kept: tuple[str, ...] = ("type",)) -> None:
    """Drop the file's keys of a typed section whose ``type`` the overrides change; likewise in the members of an ensemble.

    Args:
        section: what the file has there; changed in place.
        given: what the overrides have there.
        registry: of the types.
        path: dotted, of the section.
        kept: keys that do not depend on the type.
    """
    if not isinstance(section, dict) or not isinstance(given, Mapping):
        return
    before, now = section.get("type"), given.get("type")
    if isinstance(before, str) and isinstance(now, str) and not _same(registry, before, now):
        dropped = [key for key in section if key not in kept]
        for key in dropped:
            del section[key]
        if told := [key for key in dropped if key not in given]:
            logger.warning(
                "%s.type=%s replaces %s, so that %s of the file %s not used: a key means what its own method says. "
                "Give as overrides what %s should have; the rest has its defaults",
                *(path, now, before, ", ".join(f"{path}.{key}" for key in told), "is" if len(told) == 1 else "are", now),
            )
        return
    members, given_members = section.get("members"), given.get("members")
    if isinstance(members, list) and isinstance(given_members, Mapping):
        for number, member in enumerate(members):
            of_member = given_members.get(str(number), given_members.get(number))
            _drop_keys_of_another_method(member, of_member, registry, f"{path}.members.{number}", ("type", "weight"))


def _same(registry: Registry[Any], before: str, now: str) -> bool:
    """Whether two names mean the same class. A name that means none is refused later."""
    try:
        return before == now or registry.resolve(before) is registry.resolve(now)
    except ConfigError:
        return False

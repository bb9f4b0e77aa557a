"""Settings as a model card may show them: it is published, and local paths say who works where on which machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://\S+$", re.IGNORECASE)
_BEGINNINGS = ("/", "~", "./", "../", "file:")


def published(value: Any) -> Any:
    """A setting with names in place of local paths, also within lists and mappings: ``prompts.jsonl`` for a file and its last part for
    anything else. Of an address only the protocol is left, for nothing tells a public host from one behind a firewall. Names of the hub,
    of classes and of packages stay as they are."""
    if isinstance(value, Mapping):
        return {published(key): published(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [published(inner) for inner in value]
    if isinstance(value, str) and not _is_local(value) and (address := _ADDRESS.match(value)):
        return f"{address[1]} address"
    return Path(str(value)).name or "a local directory" if _is_local(value) else value


def source(value: Any) -> str:
    """Where a policy or its data is from, in Markdown: a name, and whether it is that of something local."""
    if not _is_local(value):
        return f"`{published(value)}`"
    return f"`{published(value)}`, a local {'file' if Path(str(value)).suffix else 'directory'}"


def on_the_hub(name: str) -> bool:
    """Whether a name is that of a repository: ``owner/name``, and no path on this machine."""
    return name.count("/") == 1 and not _is_local(name) and "." not in name.split("/")[0]


def _is_local(value: Any) -> bool:
    """Whether it is a path: by its form, or because something is there."""
    if isinstance(value, Path):
        return True
    if not isinstance(value, str) or "\n" in value:
        return False
    return value.startswith(_BEGINNINGS) or ("/" in value and "://" not in value and _is_there(value))


def _is_there(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # longer than a name may be
        return False

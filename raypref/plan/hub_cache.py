"""Where the hub's cache on this machine has a model."""

from __future__ import annotations

from pathlib import Path


def cached_model(name: str) -> Path | None:
    """The directory of a model's copy; None: there is none, or the name is none that a repository of the hub can have."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path of this machine that does not exist
        return None
    return Path(found).parent if isinstance(found, str) else None


def may_be_on_the_hub(name: str) -> bool:
    """Whether a repository of the hub can have this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True

"""Uploads a run's policy with its model card to the Hugging Face hub, as one commit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raypref.errors import ConfigError
from raypref.report.published import published
from raypref.report.run_directory import RunDirectory

CARD = "README.md"


def policy_to_push(run: RunDirectory, iteration: int | None) -> Path:
    """The directory of the policy after so many iterations; None: of the final policy.

    Raises:
        ConfigError: it is not on disk.
    """
    path = run.exported.get(iteration)
    if path is None:
        there = ", ".join(str(number) for number in run.exported if number is not None) or "none"
        if iteration is None:
            raise ConfigError(f"{run.path}: there is no final policy (policy/): the run is {run.state}; --iteration takes one of: {there}")
        raise ConfigError(f"--iteration {iteration}: {run.path / 'policies'} has no such policy; there are: {there} (checkpoint.policies)")
    return path


def check_name(repo: str) -> None:
    """Refuse what cannot be the name of a repository.

    Raises:
        ConfigError: it has more than one slash, or letters that the hub does not allow.
    """
    from huggingface_hub.utils import validate_repo_id

    with _refusals(repo):
        validate_repo_id(repo)


def push(directory: Path, card: str, repo: str, *, private: bool) -> str:
    """Make the repository if it does not exist, and upload the files of a model directory and the card.

    Args:
        directory: the policy's.
        card: the content of README.md.
        repo: ``owner/name``.
        private: whether a new repository is private, in place of the account's default; one that exists stays as it is.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.relative_to(directory).as_posix() != CARD)
    operations: list[Any] = [CommitOperationAdd(path.relative_to(directory).as_posix(), _content(path)) for path in files]
    operations.append(CommitOperationAdd(CARD, card.encode()))
    with _refusals(repo):
        api = HfApi(library_name="raypref")
        name = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
        return str(api.create_commit(name, operations, commit_message="Policy and model card, by raypref push").commit_url)


def _content(path: Path) -> Path | bytes:
    """What is uploaded of a file: an adapter's config names its base policy without the local path."""
    if path.name != "adapter_config.json":
        return path
    return json.dumps(published(json.loads(path.read_text(encoding="utf-8"))), indent=2).encode()


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """What the hub refuses, as an error that names the remedy."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConfigError("push: HF_HUB_OFFLINE is set, so that the hub is not asked; unset it") from error
    except LocalTokenNotFoundError as error:
        raise ConfigError("push: there is no token for the hub; run `hf auth login`, or set HF_TOKEN") from error
    except HFValidationError as error:
        raise ConfigError(f"push: {repo!r} is no name of a repository: {error}; give OWNER/NAME") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        login = "; run `hf auth login` with a token that may write there, or set HF_TOKEN" if status in (401, 403) else ""
        raise ConfigError(f"push: the hub refuses {repo}: {str(error).strip().splitlines()[0]}{login}") from error
    except (HTTPError, OSError) as error:
        raise ConfigError(f"push: the hub cannot be reached: {error}; HF_ENDPOINT names another one") from error

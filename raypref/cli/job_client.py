"""Ray's client of a cluster's job server: where it is, what it refuses, and a job's log until its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from raypref.cli.cluster import TOKEN
from raypref.errors import ConfigError, NetworkError
from raypref.output.terminal import visible

DASHBOARD = "http://127.0.0.1:8265"
_CONNECT_S = 5.0
POLL_S = 1.0
"""Seconds between two questions to the server."""
_STOPPED = 130
"""Exit code of a command that follows a job which somebody stops."""

Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help=f"The cluster's dashboard; default: RAY_API_SERVER_ADDRESS, or {DASHBOARD}."),
]


def client_at(address: str | None) -> Any:
    """Ray's client of the job server.

    Raises:
        NetworkError: nothing answers there.
        ConfigError: it wants a token, or is no job server.
    """
    from ray.job_submission import JobSubmissionClient

    url = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DASHBOARD
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise ConfigError(f"--address {url}: expected the address of Ray's dashboard, such as http://HEAD:8265")
    try:
        socket.create_connection((parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]), timeout=_CONNECT_S).close()
    except OSError as error:
        raise NetworkError(
            f"--address {url}: nothing answers ({error}); is the cluster up (`ray start --head`), and its dashboard's port reachable? "
            f"From outside, forward it: ssh -L 8265:127.0.0.1:8265 HEAD, or kubectl port-forward service/NAME-head-svc 8265"
        ) from error
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # which the client prefers to its argument
    with refusing(url):
        return JobSubmissionClient(url)


@contextlib.contextmanager
def refusing(client: Any) -> Iterator[None]:
    """What the job server refuses, as one paragraph with a remedy."""
    from ray.exceptions import AuthenticationError

    url = client if isinstance(client, str) else client.get_address()
    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(f"--address {url}: {error.message}; {TOKEN}; in a browser, the dashboard asks for the same token") from error
    except (ConnectionError, RuntimeError, ValueError) as error:  # ValueError: the working directory is too large
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"--address {url}: {first}; `raypref jobs status` lists the jobs there") from error


def followed(client: Any, job: str) -> int:
    """Print a job's log until it ends; its exit code."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            typer.echo(visible(text), nl=False)

    with refusing(client):
        asyncio.run(tail())
        while not (info := client.get_job_info(job)).status.is_terminal():
            time.sleep(POLL_S)
    typer.echo(visible(f"job {job}: {info.status.value}"), err=True)
    if info.status.value == "STOPPED":
        return _STOPPED
    return int(info.driver_exit_code if info.driver_exit_code is not None else info.status.value != "SUCCEEDED")

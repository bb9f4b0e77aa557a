"""``raypref submit`` and ``raypref jobs``: a run as a job of a Ray cluster, through Ray's own job server.

The working directory travels to the cluster (without what ``.gitignore`` names), and raypref with it, so that nothing is installed there
but raypref's dependencies. The job is ``python -m raypref train``; its exit code is that of the run (``raypref.cli.ending``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

import raypref
from raypref.cli.machine import TOKEN
from raypref.cli.options import Overrides, RunFile
from raypref.errors import ConfigError, NetworkError
from raypref.output.terminal import visible

DASHBOARD = "http://127.0.0.1:8265"
_AGENT_WAIT_S = 60.0
"""Longest wait for a head node that has only just started: it takes jobs a little later than requests."""
_POLL_S = 1.0
_CONNECT_S = 5.0
_STOPPED = 130
"""Exit code of a command that follows a job which somebody stops."""

Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help=f"The cluster's dashboard; default: RAY_API_SERVER_ADDRESS, or {DASHBOARD}."),
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="The name that `raypref submit` printed.")]


def submit(
    config: RunFile,
    overrides: Overrides = None,
    address: Address = None,
    working_dir: Annotated[Path, typer.Option(help="What travels to the cluster: the config, your modules, small data.")] = Path("."),
    resume: Annotated[
        str | None, typer.Option(metavar="[auto|CHECKPOINT]", help="As for `raypref train`; auto: also begins, if there is no run yet.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print the job's log until it ends, and exit with its exit code.")] = False,
) -> None:
    """Submit a run to a Ray cluster. output_dir must be a path that every node shares."""
    from raypref.config import load_config

    settings = load_config(config, overrides or [])
    check_output(settings.output_dir, working_dir)
    command = command_of(config, overrides or [], working_dir, resume)
    client = _client(address)
    with _refusing(client):
        job = _submitted(client, settings.name, command, working_dir)
    typer.echo(visible(f"job {job}: {shlex.join(command)}"))
    if follow:
        raise typer.Exit(_followed(client, job))
    at = "" if address is None else f" --address {address}"
    typer.echo(visible(f"raypref jobs logs{at} --follow {job}\nraypref jobs stop{at} {job}\n{client.get_address()} shows its actors"))


jobs = typer.Typer(no_args_is_help=True, help="Status, logs and end of submitted jobs.")


@jobs.command()
def status(job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Default: all jobs.")] = None, address: Address = None) -> None:
    """Print whether a job runs, or that of every job."""
    client = _client(address)
    with _refusing(client):
        found = [client.get_job_info(job)] if job is not None else client.list_jobs()
    for info in sorted((info for info in found if info.submission_id), key=lambda info: info.start_time or 0):
        started = datetime.fromtimestamp((info.start_time or 0) / 1000).strftime("%Y-%m-%d %H:%M:%S")
        code = "" if info.driver_exit_code is None else f", exit code {info.driver_exit_code}"
        typer.echo(visible(f"{info.submission_id}  {info.status.value}{code}  {started}  {info.entrypoint}"))


@jobs.command()
def logs(
    job: Job,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends; exit with its code.")] = False,
) -> None:
    """Print a job's log: progress lines, warnings, the tables at its end."""
    client = _client(address)
    if follow:
        raise typer.Exit(_followed(client, job))
    with _refusing(client):
        typer.echo(visible(client.get_job_logs(job)), nl=False)


@jobs.command()
def stop(job: Job, address: Address = None) -> None:
    """Stop a job. A run saves what it has; `raypref submit --resume=auto` continues it."""
    client = _client(address)
    with _refusing(client):
        stopped = client.stop_job(job)
    typer.echo(visible(f"{job}: stopping" if stopped else f"{job}: had ended before"))


def check_output(output_dir: Path, working_dir: Path) -> None:
    """Refuse an ``output_dir`` that would be lost with the job's copy of the working directory.

    Raises:
        ConfigError: it is relative.
    """
    if not output_dir.is_absolute():
        raise ConfigError(
            f"output_dir: {output_dir} is relative, and a job works in a copy of {working_dir.absolute()} that goes with it; "
            f"set output_dir=/a/path/that/all/nodes/share"
        )


def command_of(config: Path, overrides: Sequence[str], working_dir: Path, resume: str | None) -> list[str]:
    """The job's command, which runs in a copy of the working directory.

    Raises:
        ConfigError: the config lies outside of the working directory.
    """
    file, folder = config.absolute(), working_dir.absolute()
    if not file.is_relative_to(folder):
        raise ConfigError(f"{config}: lies outside of {folder}, which is what travels to the cluster; give another --working-dir")
    resumed = [] if resume is None else ["--resume" if resume == "newest" else f"--resume={resume}"]
    return ["python", "-m", "raypref", "train", str(file.relative_to(folder)), *overrides, *resumed]


def _runtime_env(working_dir: Path) -> dict[str, Any]:
    """What the job brings along: raypref, too, where it is not in the working directory anyway.

    The run itself sends raypref to its actors; ``RAY_OVERRIDE_JOB_RUNTIME_ENV`` lets it do so although the job has sent it.
    """
    root = Path(raypref.__file__).resolve().parents[1]
    environment: dict[str, Any] = {"working_dir": str(working_dir)}
    if root != working_dir.resolve():
        environment |= {
            "py_modules": [str(root / name) for name in ("raypref", "actors")],
            "env_vars": {"RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"},
        }
    return environment


def _client(address: str | None) -> Any:
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
    with _refusing(url):
        return JobSubmissionClient(url)


@contextlib.contextmanager
def _refusing(client: Any) -> Iterator[None]:
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


def _submitted(client: Any, name: str, command: Sequence[str], working_dir: Path) -> str:
    """Submit the job under the run's name and the time; wait for a head node that does not take jobs yet."""
    job = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{datetime.now():%Y%m%d-%H%M%S}"
    what = {"entrypoint": shlex.join(command), "runtime_env": _runtime_env(working_dir), "metadata": {"raypref": raypref.__version__}}
    deadline = time.monotonic() + _AGENT_WAIT_S
    while True:
        try:
            return str(client.submit_job(submission_id=job, **what))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def _followed(client: Any, job: str) -> int:
    """Print a job's log until it ends; its exit code."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            typer.echo(visible(text), nl=False)

    with _refusing(client):
        asyncio.run(tail())
        while not (info := client.get_job_info(job)).status.is_terminal():
            time.sleep(_POLL_S)
    typer.echo(visible(f"job {job}: {info.status.value}"), err=True)
    if info.status.value == "STOPPED":
        return _STOPPED
    return int(info.driver_exit_code if info.driver_exit_code is not None else info.status.value != "SUCCEEDED")

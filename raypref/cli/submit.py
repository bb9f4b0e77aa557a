"""``raypref submit``: a run as a job of a Ray cluster, through Ray's own job server.

The working directory travels to the cluster (without what ``.gitignore`` names), and raypref with it, so that nothing is installed there
but raypref's dependencies. The job is ``python -m raypref train``; its exit code is that of the run (``raypref.cli.ending``).
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

import raypref
from raypref.cli.job_client import POLL_S, Address, client_at, followed, refusing
from raypref.cli.options import Overrides, RunFile
from raypref.errors import ConfigError
from raypref.output.terminal import visible

_AGENT_WAIT_S = 60.0
"""Longest wait for a head node that has only just started: it takes jobs a little later than requests."""


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
    client = client_at(address)
    with refusing(client):
        job = _submitted(client, settings.name, command, working_dir)
    typer.echo(visible(f"job {job}: {shlex.join(command)}"))
    if follow:
        raise typer.Exit(followed(client, job))
    at = "" if address is None else f" --address {address}"
    typer.echo(visible(f"raypref jobs logs{at} --follow {job}\nraypref jobs stop{at} {job}\n{client.get_address()} shows its actors"))


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
            time.sleep(POLL_S)

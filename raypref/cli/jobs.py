"""``raypref jobs``: status, logs and end of the jobs that ``raypref submit`` has submitted."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from raypref.cli.job_client import Address, client_at, followed, refusing
from raypref.output.terminal import visible

Job = Annotated[str, typer.Argument(metavar="JOB", help="The name that `raypref submit` printed.")]

jobs = typer.Typer(no_args_is_help=True, help="Status, logs and end of submitted jobs.")


@jobs.command()
def status(job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Default: all jobs.")] = None, address: Address = None) -> None:
    """Print whether a job runs, or that of every job."""
    client = client_at(address)
    with refusing(client):
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
    client = client_at(address)
    if follow:
        raise typer.Exit(followed(client, job))
    with refusing(client):
        typer.echo(visible(client.get_job_logs(job)), nl=False)


@jobs.command()
def stop(job: Job, address: Address = None) -> None:
    """Stop a job. A run saves what it has; `raypref submit --resume=auto` continues it."""
    client = client_at(address)
    with refusing(client):
        stopped = client.stop_job(job)
    typer.echo(visible(f"{job}: stopping" if stopped else f"{job}: had ended before"))

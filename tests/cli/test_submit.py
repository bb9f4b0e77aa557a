"""``raypref submit`` and ``raypref jobs`` against a stand-in of Ray's job server; a real one is in tests/integration/test_quickstart.py."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from raypref.cli.app import app
from raypref.cli.submit import command_of
from raypref.errors import ConfigError, NetworkError

JOB = {"type": "SUBMISSION", "submission_id": "mine-1", "entrypoint": "python -m raypref train run.yaml", "start_time": 1_700_000_000_000}


class Server(ThreadingHTTPServer):
    """Answers as the job server does, and keeps what is submitted."""

    token: str | None = None
    refusals: int = 0
    """Submissions that are refused first, as by a head node that has only just started."""
    submitted: list[dict[str, Any]]


class Answers(BaseHTTPRequestHandler):
    server: Server

    def _answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.token is not None and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, "Unauthorized: Missing authentication token")
        elif self.path == "/api/version":
            self._answer(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})
        elif self.path.startswith("/api/packages/"):
            self._answer(200, {})
        elif self.path == "/api/jobs/" and self.command == "POST":
            if self.server.refusals:
                self.server.refusals -= 1
                self._answer(500, "No available agent to submit job, please try again later.")
                return
            self.server.submitted.append(json.loads(content))
            self._answer(200, {"job_id": "", "submission_id": self.server.submitted[-1]["submission_id"]})
        elif self.path == "/api/jobs/":
            self._answer(200, [JOB | {"status": "RUNNING"}])
        elif self.path == "/api/jobs/mine-1":
            self._answer(200, JOB | {"status": "FAILED", "driver_exit_code": 3})
        elif self.path == "/api/jobs/mine-1/logs":
            self._answer(200, {"logs": "step 1\n\x1b]0;title\n"})
        elif self.path == "/api/jobs/mine-1/stop":
            self._answer(200, {"stopped": True})
        else:
            self._answer(404, f"Job {self.path.rsplit('/', 1)[-1]} does not exist")

    do_GET = do_POST = do_PUT = _handle

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # restored after the test: the command sets it
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with Server(("127.0.0.1", 0), Answers) as running:
        running.submitted = []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def write_config(folder: Path, output_dir: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(f"name: my run\npolicy: {{path: p}}\nloss: {{type: sppo}}\noutput_dir: {output_dir}\n")
    return path


def raypref(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_job_is_the_run_in_a_copy_of_the_working_directory(tmp_path: Path, server: Server) -> None:
    """raypref travels too, since it is not in the working directory; overrides are quoted for the job's shell."""
    server.refusals = 1
    config = write_config(tmp_path, "/shared/run")
    done = raypref(
        "submit", str(config), "data.prompt_field=my field", "--working-dir", str(tmp_path), "--address", url(server), "--resume=auto"
    )
    assert done.exit_code == 0, done.output
    (job,) = server.submitted
    assert job["entrypoint"] == "python -m raypref train run.yaml 'data.prompt_field=my field' --resume=auto"
    assert job["submission_id"].startswith("my_run-")
    environment = job["runtime_env"]
    assert environment["env_vars"] == {"RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
    assert [where.startswith("gcs://") for where in (environment["working_dir"], *environment["py_modules"])] == [True] * 3
    assert f"raypref jobs logs --address {url(server)} --follow {job['submission_id']}" in done.output


def test_an_output_directory_that_goes_with_the_job_is_refused(tmp_path: Path) -> None:
    done = raypref("submit", str(write_config(tmp_path, "runs/mine")), "--working-dir", str(tmp_path))
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("output_dir: runs/mine is relative")


def test_a_config_outside_of_the_working_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lies outside of"):
        command_of(tmp_path / "run.yaml", [], tmp_path / "project", None)


def test_status_logs_and_stop(server: Server) -> None:
    at = ("--address", url(server))
    assert raypref("jobs", "status", *at).output.startswith("mine-1  RUNNING  20")
    assert raypref("jobs", "status", "mine-1", *at).output.startswith("mine-1  FAILED, exit code 3  20")
    assert raypref("jobs", "logs", "mine-1", *at).output == "step 1\n\\x1b]0;title\n"
    assert raypref("jobs", "stop", "mine-1", *at).output == "mine-1: stopping\n"
    missing = raypref("jobs", "logs", "other", *at)
    assert isinstance(missing.exception, ConfigError)
    assert "Job logs does not exist" in str(missing.exception)


def test_a_token_that_is_wanted_is_explained(server: Server) -> None:
    server.token = "secret"
    done = raypref("jobs", "status", "--address", url(server))
    assert isinstance(done.exception, ConfigError)
    said = str(done.exception)
    assert all(name in said for name in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"))
    assert "secret" not in said


def test_an_address_at_which_nothing_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    done = raypref("jobs", "status", "--address", f"127.0.0.1:{port}")
    assert isinstance(done.exception, NetworkError)
    assert "ray start --head" in str(done.exception)
    done = raypref("jobs", "status", "--address", "ray://127.0.0.1:10001")
    assert isinstance(done.exception, ConfigError)

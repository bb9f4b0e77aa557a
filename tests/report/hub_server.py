"""A stand-in of the Hugging Face hub: the endpoints that an upload asks, on a port of this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_stand_in"


@dataclass
class Hub:
    """What was uploaded."""

    address: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    """Of each commit: ``repo``, ``summary``, ``files`` (path -> content)."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Content of large files by their hash, as they were put there."""
    asked: list[str] = field(default_factory=list)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that takes uploads with ``TOKEN`` and refuses others."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            hub.asked.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer({"error": "Invalid username or password."}, 401)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                hub.created.append(asked)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                self._answer({"url": f"{hub.address}/{name}", "id": "1", "name": name})
            elif self.path == "/api/validate-yaml":
                yaml.safe_load(json.loads(body)["content"].split("---")[1])
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
                self._answer({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]})
            elif self.path.endswith(".git/info/lfs/objects/batch"):
                wanted = json.loads(body)["objects"]
                actions = [{**entry, "actions": {"upload": {"href": f"{hub.address}/large/{entry['oid']}"}}} for entry in wanted]
                self._answer({"transfer": "basic", "objects": actions})
            elif "/commit/" in self.path:
                self._commit(body)
            else:
                self._answer({"error": f"not known to the stand-in: {self.path}"}, 404)

        def do_PUT(self) -> None:
            hub.asked.append(self.path)
            hub.large[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({})

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            self._answer({"error": f"not known to the stand-in: {self.path}"}, 404)

        def _commit(self, body: bytes) -> None:
            commit: dict[str, Any] = {"repo": self.path.removeprefix("/api/models/").partition("/commit/")[0], "files": {}}
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "header":
                    commit["summary"] = entry["value"]["summary"]
                elif entry["key"] == "file":
                    commit["files"][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    commit["files"][entry["value"]["path"]] = hub.large[entry["value"]["oid"]]
            hub.commits.append(commit)
            oid = f"{len(hub.commits):040x}"
            self._answer({"success": True, "commitOid": oid, "commitUrl": f"{hub.address}/{commit['repo']}/commit/{oid}", "hookOutput": ""})

        def _answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the hub remembers what it was asked."""

    return Handler

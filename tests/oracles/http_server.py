"""A chat endpoint of the tests' own on this machine: it answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    """Names in small letters."""
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The user's message, the only one of its kind."""
        (message,) = [message for message in self.body["messages"] if message["role"] == "user"]
        text: str = message["content"]
        return text

    @property
    def is_probe(self) -> bool:
        return self.text == "Reply with the word yes."


@dataclass(frozen=True)
class Response:
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Before the first byte."""
    drip_s: float = 0.0
    """Before each byte of the body."""


def completion(text: str | None, finish_reason: str = "stop", usage: tuple[int, int] | None = (100, 10), **how: Any) -> Response:
    """A chat completion; ``usage``: prompt and completion tokens."""
    body: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Response(json.dumps(body).encode(), **how)


def refusal(status: int, message: str = "no", **headers: str) -> Response:
    """An error in the API's form."""
    return Response(json.dumps({"error": {"message": message}}).encode(), status, headers)


class ChatServer:
    """``answer`` gives the response to a request; what the oracle asks first, when it is loaded, is answered and not remembered."""

    def __init__(self, url: str, answer: Callable[[Request], Response]) -> None:
        self.url = url
        self.answer = answer
        self.requests: list[Request] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    def respond(self, request: Request) -> Response:
        if request.is_probe:
            return completion("yes")
        with self._lock:
            self.requests.append(request)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        response = self.answer(request)
        time.sleep(response.delay_s)
        with self._lock:
            self._in_flight -= 1
        return response


@contextlib.contextmanager
def serving(answer: Callable[[Request], Response]) -> Iterator[ChatServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # 40 ms a reply otherwise

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = chat.respond(Request(self.path, headers, body))
            with contextlib.suppress(ConnectionError):  # the client has given up
                self.send_response(response.status)
                for name, value in {"Content-Type": "application/json", "Content-Length": len(response.body), **response.headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()
                for part in [response.body] if not response.drip_s else [bytes([byte]) for byte in response.body]:
                    time.sleep(response.drip_s)
                    self.wfile.write(part)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # with 5 of them a burst of connections waits for a second

    server = Server(("127.0.0.1", 0), Handler)
    chat = ChatServer(f"http://127.0.0.1:{server.server_address[1]}/v1", answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""An HTTP server on loopback that gives prepared answers and records the requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One prepared answer.

    Attributes:
        status: HTTP status.
        document: Body; bytes are sent as they are, anything else as JSON.
        headers: Further headers.
        is_lost: Whether the connection ends in place of the answer.
        cut_bytes: Bytes after which the connection ends; None sends all.
        pause_seconds: Pause after each byte of the body.
    """

    status: int = 200
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    is_lost: bool = False
    cut_bytes: int | None = None
    pause_seconds: float = 0.0


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


LOST = Answer(is_lost=True)


def problem(status: int, code: str, retry_after: str = "", **fields: Any) -> Answer:
    """A problem document as a node sends it."""
    headers = {"Content-Type": "application/problem+json", "SR-Node": "n1", "X-Request-Id": "r1"}
    if retry_after:
        headers["Retry-After"] = retry_after
    document = {"status": status, "code": code, "detail": f"about {code}", **fields}
    return Answer(status, document, headers)


class ScriptedServer:
    """The answers still to give, the last of them for ever, and what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[Asked] = []
        self.url = ""
        self._lock = threading.Lock()

    def take(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def _endpoint(script: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Endpoint(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = script.take(Asked(self.command, self.path, headers, self._body()))
            if answer.is_lost:  # as a node that dies does
                self.close_connection = True
                return
            is_raw = isinstance(answer.document, bytes)
            content = answer.document if is_raw else json.dumps(answer.document).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if answer.pause_seconds:
                self._drip(content, answer.pause_seconds)
            else:
                self.wfile.write(content[: answer.cut_bytes])
            if answer.cut_bytes is not None:
                self.close_connection = True

        def _drip(self, content: bytes, pause_seconds: float) -> None:
            with suppress(OSError):
                for at in range(len(content)):
                    self.wfile.write(content[at : at + 1])
                    time.sleep(pause_seconds)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            pass

    return Endpoint


@contextmanager
def scripted_server(*answers: Answer) -> Iterator[ScriptedServer]:
    """A server that runs while the block does."""
    script = ScriptedServer()
    script.answers = list(answers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _endpoint(script))
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

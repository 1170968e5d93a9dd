"""What a stop signal does to requests in flight, on nodes and coordinators."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from processes import CoordinatorProcess, NodeProcess
from servers import Server

pytestmark = pytest.mark.integration

SHUTDOWN_SECONDS = 2
MARGIN_SECONDS = 4.0  # of a loaded machine
UPLOADS = 4
HEAD = (
    b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def upload(address: tuple[str, int], path: bytes) -> bytes:
    """Send a body without end until the server ends the connection; give the response."""
    received = bytearray()
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(HEAD % path)
        connection.settimeout(0.05)
        for number in range(10_000):
            line = json.dumps({"name": f"r{number}", "utterances": [f"text {number}"]}).encode()
            with suppress(OSError):
                connection.sendall(b"%x\r\n%b\n\r\n" % (len(line) + 1, line))
            try:
                if not (piece := connection.recv(65_536)):
                    break
                received += piece
            except TimeoutError:
                continue
            except ConnectionError:
                break
    return bytes(received)


def stopped(process: NodeProcess | CoordinatorProcess, path: bytes) -> tuple[list[bytes], float]:
    """Stop a process while uploads go on; give their responses and the seconds it took."""
    host, port = process.url.removeprefix("http://").split(":")
    with ThreadPoolExecutor(UPLOADS) as threads:
        uploads = [threads.submit(upload, (host, int(port)), path) for _ in range(UPLOADS)]
        time.sleep(1)
        began_at = time.monotonic()
        process.signal(signal.SIGTERM)
        assert 0 == process.wait()
        seconds = time.monotonic() - began_at
        return [each.result() for each in uploads], seconds


def assert_refused(answers: list[bytes], seconds: float) -> None:
    assert seconds < SHUTDOWN_SECONDS + MARGIN_SECONDS
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 "), answer
        assert b"application/problem+json" in head
        assert ("shutting_down", "unknown") == (
            json.loads(body)["code"],
            json.loads(body)["outcome"],
        )


def test_imports_are_refused_when_the_node_stops(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node", {"shutdown_seconds": str(SHUTDOWN_SECONDS)}).start()
    try:
        assert_refused(*stopped(node, b"/v1/import"))
        assert "stopped" in [line["message"] for line in node.log()]
        assert not [line for line in node.log() if line["level"] == "error"]
    finally:
        node.end()


@pytest.fixture
def coordinator(tmp_path: Path, valkey_server: Server) -> Iterator[CoordinatorProcess]:
    settings = {"shutdown_seconds": str(SHUTDOWN_SECONDS)}
    started = CoordinatorProcess(tmp_path / "coordinator", valkey_server.url, settings).start()
    yield started
    started.end()


def test_uploads_are_refused_when_the_coordinator_stops(coordinator: CoordinatorProcess) -> None:
    assert_refused(*stopped(coordinator, b"/v1/actions/trim"))

"""The client retries only where it is safe, and waits as long as the node asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from synaptoroute.cli.client import ATTEMPTS_MAX, NodeClient, route_path
from synaptoroute.cli.exit_codes import BadUsage, NodeRefused, NodeUnreachable

pytestmark = pytest.mark.unit

Answer = tuple[int, dict[str, str], bytes]
PROBLEM = b'{"code": "overloaded", "detail": "the queue is full"}'


class ScriptedServer:
    """A server that gives prepared answers and records the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer | None] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.pause_seconds = 0.0  # before each answer


def _endpoint(script: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Endpoint(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, dict(self.headers), body))
            time.sleep(script.pause_seconds)
            answer = script.answers.pop(0)
            if answer is None:  # lose the connection as a node that dies does
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            pass

    return Endpoint


@pytest.fixture
def script() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
def client(script: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeClient]:
    """A client of the prepared server that waits without sleeping."""
    monkeypatch.setattr("synaptoroute.client.http_sync.sleep", lambda _: None)
    server = HTTPServer(("127.0.0.1", 0), _endpoint(script))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with NodeClient(f"http://127.0.0.1:{server.server_port}/", "sr_key") as made:
            yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_overloaded_node_is_retried(client: NodeClient, script: ScriptedServer) -> None:
    """A 429 with Retry-After is retried."""
    script.answers = [(429, {"Retry-After": "1"}, PROBLEM), (200, {}, b'{"route": "a"}')]

    assert client.post("/v1/query", {"text": "x"}) == {"route": "a"}
    assert len(script.asked) == 2


def test_retried_write_keeps_its_idempotency_key(
    client: NodeClient, script: ScriptedServer
) -> None:
    """A broken connection leaves the outcome open; the same key makes the retry safe."""
    script.answers = [None, (200, {}, b"{}")]
    client.write("PUT", route_path("a b/c"), {"utterances": ["x"]})
    keys = {headers["Idempotency-Key"] for _, _, headers, _ in script.asked}

    assert len(script.asked) == 2
    assert len(keys) == 1
    assert script.asked[0][1] == "/v1/routes/a%20b%2Fc"


def test_two_writes_have_two_idempotency_keys(client: NodeClient, script: ScriptedServer) -> None:
    script.answers = [(200, {}, b"{}"), (200, {}, b"{}")]
    client.write("DELETE", "/v1/routes/a")
    client.write("DELETE", "/v1/routes/a")

    assert len({headers["Idempotency-Key"] for _, _, headers, _ in script.asked}) == 2


def test_stream_is_made_again_for_each_attempt(client: NodeClient, script: ScriptedServer) -> None:
    """The second attempt of an import sends all of it."""
    script.answers = [(503, {}, PROBLEM), (200, {}, b"{}")]
    client.upload("/v1/import", b"one\ntwo\n", "application/x-ndjson", {"replace": "true"})

    assert [body for _, _, _, body in script.asked] == [b"one\ntwo\n"] * 2
    assert script.asked[0][1] == "/v1/import?replace=true"


def test_upload_waits_longer_than_other_requests(
    client: NodeClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node answers when all texts are encoded; a second attempt would begin again."""
    monkeypatch.setattr("synaptoroute.cli.client.READ_SECONDS", 0.1)
    script.pause_seconds = 0.5
    script.answers = [(200, {}, b"{}")] * 9
    with NodeClient(client.url) as hasty:
        hasty.upload("/v1/apply", b"{}\n", "application/x-ndjson")

    assert 1 == len(script.asked)


def test_refusal_is_not_retried(client: NodeClient, script: ScriptedServer) -> None:
    script.answers = [(404, {}, b'{"code": "route_not_found", "detail": "none"}')]
    with pytest.raises(NodeRefused) as caught:
        client.get("/v1/routes/x")

    assert (caught.value.refused_code, caught.value.status) == ("route_not_found", 404)
    assert len(script.asked) == 1


def test_retries_are_limited(client: NodeClient, script: ScriptedServer) -> None:
    script.answers = [(429, {"Retry-After": "1"}, PROBLEM)] * (ATTEMPTS_MAX + 1)
    with pytest.raises(NodeRefused):
        client.get("/v1/routes")

    assert len(script.asked) == ATTEMPTS_MAX


def test_answer_of_another_server_is_recognised(client: NodeClient, script: ScriptedServer) -> None:
    """A page of HTML is not a problem document."""
    script.answers = [(500, {}, b"<html>")]
    with pytest.raises(NodeRefused) as caught:
        client.get("/")

    assert caught.value.refused_code == "not_a_node"


def test_routes_are_read_page_by_page(client: NodeClient, script: ScriptedServer) -> None:
    script.answers = [
        (200, {}, b'{"routes": [{"name": "a"}], "next_after": "a b"}'),
        (200, {}, b'{"routes": [{"name": "c"}], "next_after": null}'),
    ]

    assert [route["name"] for route in client.routes()] == ["a", "c"]
    assert script.asked[1][1].endswith("after=a%20b") or script.asked[1][1].endswith("after=a+b")


def test_api_key_is_sent_as_a_bearer_token(client: NodeClient, script: ScriptedServer) -> None:
    script.answers = [(200, {}, b"{}")]
    client.get("/-/state")

    assert script.asked[0][2]["Authorization"] == "Bearer sr_key"


def test_refused_connection_is_not_retried() -> None:
    with NodeClient("http://127.0.0.1:9") as client, pytest.raises(NodeUnreachable):
        client.get("/")


def test_another_address_is_asked_if_one_refuses_the_connection(script: ScriptedServer) -> None:
    """Several addresses are separated by commas."""
    server = HTTPServer(("127.0.0.1", 0), _endpoint(script))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.answers = [(200, {}, b"{}")] * 4
    try:
        urls = f"http://127.0.0.1:9, http://127.0.0.1:{server.server_port}"
        for _ in range(4):
            with NodeClient(urls) as client:
                assert client.get("/-/state") == {}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_address_needs_a_scheme() -> None:
    with pytest.raises(BadUsage):
        NodeClient("127.0.0.1:8080")

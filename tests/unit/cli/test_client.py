"""Goal: a write is sent again only in safety, and waits are those that the node asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from synaptoroute.cli.client import TRIES_MAX, WAIT_SECONDS_MAX, NodeClient, Waits, route_path
from synaptoroute.cli.exit_codes import BadUsage, NodeRefused, NodeUnreachable

pytestmark = pytest.mark.unit

Answer = tuple[int, dict[str, str], bytes]
PROBLEM = b'{"code": "overloaded", "detail": "the queue is full"}'


class Script:
    """A server that gives prepared answers and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer | None] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []


def _endpoint(script: Script) -> type[BaseHTTPRequestHandler]:
    class Endpoint(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, dict(self.headers), body))
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
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeClient]:
    """A client of the prepared server that waits without sleeping."""
    monkeypatch.setattr("synaptoroute.cli.client.Waits", lambda: Waits(lambda _: None))
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


def test_a_full_node_is_asked_again(client: NodeClient, script: Script) -> None:
    """429 with Retry-After is no answer yet."""
    script.answers = [(429, {"Retry-After": "1"}, PROBLEM), (200, {}, b'{"route": "a"}')]

    assert client.post("/v1/query", {"text": "x"}) == {"route": "a"}
    assert len(script.asked) == 2


def test_a_repeated_write_has_one_idempotency_key(client: NodeClient, script: Script) -> None:
    """A connection that breaks leaves the outcome open; the same key settles it."""
    script.answers = [None, (200, {}, b"{}")]
    client.write("PUT", route_path("a b/c"), {"utterances": ["x"]})
    keys = {headers["Idempotency-Key"] for _, _, headers, _ in script.asked}

    assert len(script.asked) == 2
    assert len(keys) == 1
    assert script.asked[0][1] == "/v1/routes/a%20b%2Fc"


def test_two_writes_have_two_keys(client: NodeClient, script: Script) -> None:
    """A key names one write."""
    script.answers = [(200, {}, b"{}"), (200, {}, b"{}")]
    client.write("DELETE", "/v1/routes/a")
    client.write("DELETE", "/v1/routes/a")

    assert len({headers["Idempotency-Key"] for _, _, headers, _ in script.asked}) == 2


def test_a_stream_is_made_anew_for_each_try(client: NodeClient, script: Script) -> None:
    """The second try of an import sends all of it."""
    script.answers = [(503, {}, PROBLEM), (200, {}, b"{}")]
    client.upload("/v1/import", b"one\ntwo\n", "application/x-ndjson", replace="true")

    assert [body for _, _, _, body in script.asked] == [b"one\ntwo\n"] * 2
    assert script.asked[0][1] == "/v1/import?replace=true"


def test_a_refusal_is_final(client: NodeClient, script: Script) -> None:
    """What the caller has to change is not sent again."""
    script.answers = [(404, {}, b'{"code": "route_not_found", "detail": "none"}')]
    with pytest.raises(NodeRefused) as caught:
        client.get("/v1/routes/x")

    assert (caught.value.refused_code, caught.value.status) == ("route_not_found", 404)
    assert len(script.asked) == 1


def test_a_node_that_stays_full_is_given_up(client: NodeClient, script: Script) -> None:
    """There is a last try."""
    script.answers = [(429, {"Retry-After": "1"}, PROBLEM)] * (TRIES_MAX + 1)
    with pytest.raises(NodeRefused):
        client.get("/v1/routes")

    assert len(script.asked) == TRIES_MAX


def test_another_server_is_told_from_a_node(client: NodeClient, script: Script) -> None:
    """A page of HTML is no problem document."""
    script.answers = [(500, {}, b"<html>")]
    with pytest.raises(NodeRefused) as caught:
        client.get("/")

    assert caught.value.refused_code == "not_a_node"


def test_pages_are_followed(client: NodeClient, script: Script) -> None:
    """All routes come, whatever the size of a page."""
    script.answers = [
        (200, {}, b'{"routes": [{"name": "a"}], "next_after": "a b"}'),
        (200, {}, b'{"routes": [{"name": "c"}], "next_after": null}'),
    ]

    assert [route["name"] for route in client.routes()] == ["a", "c"]
    assert script.asked[1][1].endswith("after=a%20b") or script.asked[1][1].endswith("after=a+b")


def test_the_key_is_sent_as_a_bearer(client: NodeClient, script: Script) -> None:
    """The API key goes into the header that nodes read."""
    script.answers = [(200, {}, b"{}")]
    client.get("/-/state")

    assert script.asked[0][2]["Authorization"] == "Bearer sr_key"


def test_a_refused_connection_is_not_tried_again() -> None:
    """Nobody listens: waiting would only hide it."""
    with NodeClient("http://127.0.0.1:9") as client, pytest.raises(NodeUnreachable):
        client.get("/")


def test_an_address_needs_a_scheme() -> None:
    """A host alone is not guessed at."""
    with pytest.raises(BadUsage):
        NodeClient("127.0.0.1:8080")


def _record(slept: list[float]) -> Callable[[float], None]:
    return slept.append


def test_waits_honour_the_node_and_end() -> None:
    """What the node asks for is waited, within the limit on all waits."""
    slept: list[float] = []
    waits = Waits(_record(slept))

    assert waits.take(2.0)
    assert slept == [2.0]
    assert not waits.take(WAIT_SECONDS_MAX)


def test_waits_double_where_nobody_says() -> None:
    """Each wait is longer than half of twice the one before could be."""
    slept: list[float] = []
    waits = Waits(_record(slept))
    while waits.take(None):
        pass

    assert len(slept) == TRIES_MAX - 1
    assert slept[-1] > slept[0]

"""A node as a process: start, signals, crash, limits of the connection."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from processes import NodeProcess
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = pytest.mark.integration

StartNode = Callable[..., NodeProcess]


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[StartNode]:
    """Make nodes, not started yet, that end with the test."""
    nodes: list[NodeProcess] = []

    def make(**settings: str) -> NodeProcess:
        nodes.append(NodeProcess(tmp_path / f"node-{len(nodes)}", settings))
        return nodes[-1]

    yield make
    for node in nodes:
        node.end()


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node for tests that only talk to it."""
    node = NodeProcess(tmp_path_factory.mktemp("shared")).start()
    yield node
    node.end()


def talk(node: NodeProcess, request: bytes, seconds: float = 15.0) -> bytes:
    """Send raw bytes on a connection of their own; give everything that comes back."""
    host, port = node.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(request)
        while piece := connection.recv(65_536):
            received += piece
    return received


def test_answer_leaves_in_one_piece(shared_node: NodeProcess) -> None:
    """A node that is killed leaves a whole answer or none: half of one cannot be repeated."""
    host, port = shared_node.url.removeprefix("http://").split(":")
    halves = 0
    with socket.create_connection((host, int(port)), timeout=15.0) as connection:
        for turn in range(100):
            body = json.dumps({"text": f"where is order {turn}"}).encode()
            head = (
                "POST /v1/query HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            received = connection.recv(65_536)
            answer = received.partition(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", answer[0])[1])  # type: ignore[index]
            halves += len(answer[2]) < length
            while len(received) < len(answer[0]) + 4 + length:
                received += connection.recv(65_536)

    assert 0 == halves


def test_bundled_model_routes_over_http(make_node: StartNode, tmp_path: Path) -> None:
    """From an empty folder to a routed query, with the real encoder and a route file."""
    routes = tmp_path / "routes.yaml"
    routes.write_text(
        "routes:\n"
        "  - {name: refund, utterances: [I want my money back, Can I get a refund?]}\n"
        "  - {name: parcel, utterances: [Where is my parcel?, Track my order]}\n"
    )
    node = make_node(model="all-MiniLM-L6-v2-int8", routes_file=str(routes)).start()
    body = {"text": "please give me back what I paid"}
    first = httpx.post(f"{node.url}/v1/query", json=body).json()
    httpx.delete(f"{node.url}/v1/routes/parcel")

    assert "refund" == first["route"]
    assert 0 == node.stop()
    node.start()
    names = [route["name"] for route in httpx.get(f"{node.url}/v1/routes").json()["routes"]]
    assert ["refund"] == names, "the route file is applied to an empty database only"
    again = httpx.post(f"{node.url}/v1/query", json=body).json()
    assert first["node"] == again["node"]
    assert 0 == node.stop()


def test_probes_answer_before_the_router_is_there(make_node: StartNode) -> None:
    """The socket is open first; readiness says why not and then yes."""
    node = make_node(model="all-MiniLM-L6-v2-int8").launch()
    node.wait_listening()
    live = httpx.get(f"{node.url}/livez")
    early = httpx.get(f"{node.url}/readyz")
    query = httpx.post(f"{node.url}/v1/query", json={"text": "a"})

    assert 200 == live.status_code
    if early.status_code == 503:
        assert ["starting"] == early.json()["reasons"]
    assert query.status_code in (200, 503)
    messages = [line["message"] for line in node.log()]
    assert "listening" == messages[0]
    assert 0 == node.stop()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"model": "no-such-model"}, "model_not_found"),
        ({"database": "/proc/no/such.sqlite"}, "storage_unavailable"),
        ({"routes_file": "/no/such/routes.yaml"}, "invalid_config"),
    ],
)
def test_failed_start_ends_the_process_with_code_3(
    make_node: StartNode, settings: dict[str, str], code: str
) -> None:
    """The orchestrator sees it, the log says why."""
    node = make_node(**settings).launch()

    assert 3 == node.wait()
    (line,) = [line for line in node.log() if line["message"] == "start_failed"]
    assert code == line["code"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, ["API_KEYS_FILE", "127.0.0.1", "--insecure"]),
        ({"host": "::"}, ["API_KEYS_FILE", "127.0.0.1", "--insecure"]),
        ({"host": "example.org"}, ["API_KEYS_FILE", "127.0.0.1", "--insecure"]),
        ({"api_keys_file": "/no/such/file"}, ["/no/such/file"]),
        ({"port": "x"}, ["port"]),
    ],
)
def test_unsafe_settings_are_refused_at_once(
    make_node: StartNode, settings: dict[str, str], words: list[str]
) -> None:
    """An open door on a public address needs to be asked for; the message names the choices."""
    node = make_node(**settings).launch()

    assert 2 == node.wait()
    for word in words:
        assert word in node.log_text()


def test_public_address_is_served_with_keys(make_node: StartNode, tmp_path: Path) -> None:
    """With keys it starts; SIGHUP brings a new key in force."""
    path, first, second = tmp_path / "keys", make_key(), make_key()
    path.write_text(key_line(first, ["read"], "first"))
    node = make_node(host="0.0.0.0", api_keys_file=str(path)).start()
    url = node.url.replace("0.0.0.0", "127.0.0.1") + "/v1/routes"

    def status(key: str) -> int:
        return httpx.get(url, headers={"X-API-Key": key}).status_code

    before = [status(first), status(second)]
    path.write_text(key_line(second, ["read"], "second"))
    node.signal(signal.SIGHUP)
    give_up_at = time.monotonic() + 10
    while status(second) != 200 and time.monotonic() < give_up_at:
        time.sleep(0.02)

    assert [200, 401] == before
    assert [401, 200] == [status(first), status(second)]
    assert 0 == node.stop()
    assert first not in node.log_text()
    assert second not in node.log_text()


async def test_sigterm_loses_no_answer(make_node: StartNode) -> None:
    """Clients that send all the time get an answer to everything, until they are told to go."""
    node = await asyncio.to_thread(make_node().start)
    answered = 0
    told = 0
    lost: list[Exception] = []

    async def client(number: int) -> None:
        nonlocal answered, told
        async with httpx.AsyncClient(base_url=node.url, timeout=20) as http:
            for turn in range(100_000):
                if turn % 5:
                    call = http.post("/v1/query", json={"text": f"words {number} {turn}"})
                else:
                    body = {"utterances": [f"u{turn}"]}
                    call = http.put(f"/v1/routes/r{number}", json=body)
                try:
                    answer = await call
                except httpx.TransportError as error:
                    lost.append(error)
                    return
                assert answer.status_code in (200, 201), answer.text
                answered += 1
                if answer.headers.get("connection") == "close":
                    told += 1
                    return

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    async with asyncio.timeout(30):
        while answered <= 16:  # all are under way
            await asyncio.sleep(0.05)
    node.signal(signal.SIGTERM)
    await asyncio.gather(*clients)
    code = await asyncio.to_thread(node.wait)

    assert [] == lost
    assert 8 == told
    assert answered > 16
    assert 0 == code
    assert "stopped" == node.log()[-1]["message"]


def test_second_signal_does_not_wait(make_node: StartNode) -> None:
    """A connection whose body never ends holds a stop up only until the next signal."""
    node = make_node(shutdown_seconds="60").start()
    host, port = node.url.removeprefix("http://").split(":")
    head = (
        b"POST /v1/import HTTP/1.1\r\nHost: n\r\nContent-Type: application/x-ndjson\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head)
        time.sleep(0.2)
        node.signal(signal.SIGTERM)
        while not any(line["message"] == "draining" for line in node.log()):
            time.sleep(0.02)
        assert None is node.process.poll()
        node.signal(signal.SIGINT)

        assert 0 == node.wait()


def test_kill_keeps_every_acknowledged_write(make_node: StartNode) -> None:
    """kill -9 in the middle of writes; what was answered is there after the restart."""
    node = make_node().start()
    acknowledged: dict[str, str] = {}

    def write(number: int) -> None:
        with httpx.Client(base_url=node.url) as http:
            for turn in range(10_000):
                name = f"r{number}-{turn}"
                try:
                    answer = http.put(f"/v1/routes/{name}", json={"utterances": [name]})
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    acknowledged[name] = answer.json()["revision"]

    writers = [Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    while len(acknowledged) < 40:
        time.sleep(0.01)
    node.kill()
    for writer in writers:
        writer.join()
    node.start()
    stored: dict[str, str] = {}
    with httpx.Client(base_url=node.url) as http:
        url: str | None = "/v1/routes?limit=1000"
        while url:
            page = http.get(url)
            stored |= {route["name"]: route["revision"] for route in page.json()["routes"]}
            url = page.links["next"]["url"] if "next" in page.links else None

    assert acknowledged.items() <= stored.items()
    assert 0 == node.stop()


LARGE = b"X-Large: " + b"a" * 40_000 + b"\r\n"
MANY = b"".join(b"X-%d: a\r\n" % number for number in range(200))


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: n\r\n" + LARGE + b"\r\n", 431, "too_large"),
        (b"GET / HTTP/1.1\r\nHost: n\r\n" + MANY + b"\r\n", 431, "too_large"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: n\r\n\r\n", 414, "too_large"),
        (b"nonsense\r\n\r\n", 400, "malformed_request"),
        (b"GET /\xff HTTP/1.1\r\nHost: n\r\n\r\n", 400, "malformed_request"),
        (
            b"POST /v1/query HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed_request",
        ),
        (
            b"POST /v1/query HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n",
            413,
            "too_large",
        ),
    ],
)
def test_request_beyond_a_limit_is_refused_and_closed(
    shared_node: NodeProcess, request_bytes: bytes, status: int, code: str
) -> None:
    """Every refusal is a problem document; the connection ends; the node lives on."""
    node = shared_node
    answer = talk(node, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")

    assert f"HTTP/1.1 {status} ".encode() in head
    assert f'"code":"{code}"'.encode() in body
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    assert 200 == httpx.get(f"{node.url}/livez").status_code


def test_silent_connection_is_closed(shared_node: NodeProcess) -> None:
    """Whoever connects and says half a word is sent away in time."""
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(partial(talk, shared_node), (b"", b"GET /livez HTT")))

    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_body_without_end_is_counted(make_node: StartNode) -> None:
    """A chunked body has no length to check: it is cut off when it passes the limit."""
    node = make_node(body_bytes_max="2000").start()
    chunk = b"1f4\r\n" + b" " * 500 + b"\r\n"
    answer = talk(
        node,
        b"POST /v1/query HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5,
    )

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_requests_are_traced_where_asked_for(make_node: StartNode) -> None:
    """With the extra and an endpoint, spans arrive there; probes make none."""
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to the terminal."""

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        node = make_node()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        node.variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        node.start()
        httpx.post(f"{node.url}/v1/query", json={"text": "my private words"})
        code = node.stop()
        collector.shutdown()
        thread.join()
    spans = b"".join(body for path, body in received if path == "/v1/traces")

    assert 0 == code
    assert b"/v1/query" in spans
    assert b"readyz" not in spans
    assert b"private" not in spans


def test_node_does_not_start_without_the_tracing_packages(make_node: StartNode) -> None:
    """Asked to trace without the extra, it says what to install."""
    node = make_node()
    node.without = ("opentelemetry.sdk", "opentelemetry.exporter")
    node.variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    node.launch()

    assert 0 != node.wait()
    assert "pip install 'synaptoroute-cluster[otel]'" in (node.folder / "log").read_text()

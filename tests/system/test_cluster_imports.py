"""Goal: an import is all or nothing, no matter which process dies.  Method: real nodes, kills."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
ROUTES_COUNT = 60
UTTERANCES_COUNT = 20


def lines(prefix: str, count: int = ROUTES_COUNT) -> bytes:
    """An NDJSON document."""
    return b"".join(
        json.dumps(
            {
                "name": f"{prefix}{number}",
                "utterances": [f"{prefix} {number} {each}" for each in range(UTTERANCES_COUNT)],
            }
        ).encode()
        + b"\n"
        for number in range(count)
    )


def send_half(cluster: Cluster, node: int, import_id: str, body: bytes) -> socket.socket:
    """Begin an import over a bare socket and send half of it."""
    connection = socket.create_connection(("127.0.0.1", cluster[node].process.port), timeout=10)
    connection.sendall(
        f"POST /v1/import?import_id={import_id} HTTP/1.1\r\nHost: node\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    connection.sendall(body[: len(body) // 2])
    return connection


def resume(cluster: Cluster, node: int, import_id: str, body: bytes) -> dict[str, Any]:
    """Send the whole import again, until it is accepted."""

    def attempt() -> dict[str, Any] | None:
        answer = cluster[node].http.post(
            "/v1/import",
            params={"import_id": import_id},
            content=body,
            headers={"Content-Type": "application/x-ndjson"},
        )
        found: dict[str, Any] = answer.json()
        return found if answer.status_code == 200 else None

    return until(attempt, 60)


def count_of(cluster: Cluster, node: int, prefix: str) -> int:
    """How many routes of an import a node shows."""
    text = cluster[node].http.get("/v1/export").text
    return text.count(f'"name":"{prefix}')


def staged(cluster: Cluster, node: int, since_seq: int) -> bool:
    """Whether chunks have reached a node."""
    return cluster[node].version.seq >= since_seq + 3


def test_import_whose_client_dies_is_invisible_until_it_is_sent_again(shared: Cluster) -> None:
    """Half an import shows nothing; sent to another node completely, it shows all."""
    body, before = lines("client"), shared.settle()
    connection = send_half(shared, 0, "by-client", body)
    until(lambda: staged(shared, 1, before.seq))
    half = [count_of(shared, node, "client") for node in range(3)]
    connection.close()
    told = resume(shared, 1, "by-client", body)
    again = resume(shared, 2, "by-client", body)
    shared.settle()

    assert [0, 0, 0] == half
    assert (ROUTES_COUNT, told["version"]) == (told["routes"], again["version"])
    assert [ROUTES_COUNT] * 3 == [count_of(shared, node, "client") for node in range(3)]
    shared.judge()


def test_import_whose_node_dies_is_resumed_on_another(shared: Cluster) -> None:
    """The node that took it is killed between two chunks."""
    body, before = lines("node"), shared.settle()
    connection = send_half(shared, 2, "by-node", body)
    until(lambda: staged(shared, 0, before.seq))
    shared[2].kill()
    connection.close()
    half = [count_of(shared, node, "node") for node in (0, 1)]
    told = resume(shared, 0, "by-node", body)
    shared[2].start().wait_ready()
    shared.settle()

    assert [0, 0] == half
    assert ROUTES_COUNT == told["routes"]
    assert [ROUTES_COUNT] * 3 == [count_of(shared, node, "node") for node in range(3)]
    shared.judge()


def test_import_during_a_restart_of_redis_is_resumed(shared: Cluster) -> None:
    """Redis is killed between two chunks; queries continue, the import is sent again."""
    body, before = lines("redis"), shared.settle()
    with shared.queries(0, 1, 2) as failed:
        connection = send_half(shared, 1, "by-redis", body)
        until(lambda: staged(shared, 0, before.seq))
        shared.server.kill()
        until(lambda: shared[1].log_state == "away")
        half = count_of(shared, 0, "redis")
        shared.server.start()
        connection.close()
        told = resume(shared, 1, "by-redis", body)
        shared.settle()

    assert [] == failed
    assert 0 == half
    assert ROUTES_COUNT == told["routes"]
    assert [ROUTES_COUNT] * 3 == [count_of(shared, node, "redis") for node in range(3)]
    until(lambda: {member.log_state for member in shared.members} == {"open"})
    shared.judge()


def test_import_with_a_bad_line_leaves_nothing(shared: Cluster) -> None:
    """A malformed line aborts the whole import, on every node."""
    shared.settle()
    body = lines("bad", 20) + b'{"name": "bad20"}\n'
    answer = shared[0].http.post(
        "/v1/import", content=body, headers={"Content-Type": "application/x-ndjson"}
    )
    shared.settle()

    assert 400 <= answer.status_code < 500
    assert [0, 0, 0] == [count_of(shared, node, "bad") for node in range(3)]
    shared.judge()


def test_queries_go_on_while_routes_are_imported(shared: Cluster) -> None:
    """Readers see none of an import, then all of it; no query fails or waits for it."""
    seen: set[int] = set()
    ended = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=shared[2].process.url, trust_env=False) as http:
            while not ended.is_set():
                text = http.get("/v1/export").text
                seen.add(text.count('"name":"many'))
                time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    with shared.queries(0, 1, 2) as failed:
        resume(shared, 0, "many", lines("many", 200))
        shared.settle()
    until(lambda: 200 in seen)
    ended.set()
    thread.join(20)

    assert [] == failed
    assert {0, 200} >= seen
    shared.judge()

"""Goal: nodes alone keep the log below its limit, end broken-off imports, and survive junk in it.

Method: real node processes on a real server, no coordinator; a small limit, kills, bare clients.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from node_cluster import Cluster, StartCluster, until

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]
LIMIT_BYTES = 600_000
SIZES = {"log_bytes_max": str(LIMIT_BYTES), "retain_bytes": "200000", "retain_entries": "10000"}


def put(cluster: Cluster, node: int, name: str, size_bytes: int = 15_000) -> int:
    """Put a route with a large payload; return the status."""
    document = {"utterances": [name], "payload": "x" * size_bytes}
    answer = cluster[node].http.put(f"/v1/routes/{name}", json=document)
    return int(answer.status_code)


def put_soon(cluster: Cluster, node: int, name: str) -> None:
    """Put a route as soon as the log is open; it must never be refused as full."""

    def attempt() -> bool:
        document = {"utterances": [name], "payload": "x" * 15_000}
        answer = cluster[node].http.put(f"/v1/routes/{name}", json=document)
        assert answer.status_code in (200, 201, 202, 503), answer.text
        assert answer.status_code < 300 or answer.json().get("reason") != "log_full"
        return answer.status_code < 300

    until(attempt, 60)


@pytest.mark.parametrize("is_secret", [False, True], ids=["plain", "signed"])
def test_log_stays_below_its_limit_without_a_coordinator(
    start_cluster: StartCluster, tmp_path: Path, is_secret: bool
) -> None:
    """Three times the limit is written, with restarts of Redis and a killed node in between."""
    settings = dict(SIZES)
    if is_secret:
        keys = tmp_path / "keys"
        keys.write_text(f"k1 {'s' * 64}\n")
        keys.chmod(0o600)
        settings["signing_keys_file"] = str(keys)
    cluster = start_cluster("redis", **settings)
    kept = []
    for number in range(100):
        put_soon(cluster, number % 2, f"r{number % 7}")
        if number in (30, 70):
            cluster.server.kill()
            cluster.server.start()
        if number == 50:
            cluster[2].kill()
        if number == 60:
            cluster[2].start()
        if number % 10 == 0:
            shown = cluster[0].http.get("/v1/cluster").json()
            kept.append(shown["log_bytes"])
            assert shown["log_bytes_max"] == LIMIT_BYTES
    cluster[2].wait_ready()
    cluster.settle()

    assert max(kept) <= LIMIT_BYTES
    assert cluster[0].log_state == "open"


def test_full_log_is_named(start_cluster: StartCluster) -> None:
    """Without a majority of the voters nothing may be dropped, and the state says so."""
    cluster = start_cluster("redis", **SIZES)
    put_soon(cluster, 0, "first")
    for gone in (1, 2):
        cluster[gone].kill()
    codes = []
    give_up_at = time.monotonic() + 90
    while 503 not in codes and time.monotonic() < give_up_at:
        codes.append(put(cluster, 0, "r"))
    refused = cluster[0].http.put(
        "/v1/routes/r", json={"utterances": ["r"], "payload": "y" * 15_000}
    )
    state = until(lambda: cluster[0].log_state if cluster[0].log_state == "full" else None, 10)
    for back in (1, 2):
        cluster[back].start()
    until(lambda: put(cluster, 0, "last") < 300 or None, 60)

    assert refused.status_code == 503
    assert refused.json().get("reason") == "log_full", refused.text
    assert state == "full"


def test_imports_of_killed_nodes_expire(start_cluster: StartCluster) -> None:
    """Eight imports whose clients and node died; later imports are not blocked."""
    cluster = start_cluster("redis", import_idle_seconds="3")
    lines = b"".join(
        json.dumps({"name": f"n{each}", "utterances": [f"text {each}"]}).encode() + b"\n"
        for each in range(400)
    )
    connections = []
    head = f"Content-Type: application/x-ndjson\r\nContent-Length: {len(lines) + 9}\r\n\r\n"
    for number in range(8):
        connection = socket.create_connection(("127.0.0.1", cluster[0].process.port), timeout=10)
        connection.sendall(
            f"POST /v1/import?import_id=b{number} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}".encode()
        )
        connection.sendall(lines)
        connections.append(connection)
    until(lambda: len(cluster[1].http.get("/v1/imports").json()["imports"]) == 8 or None, 30)
    cluster[0].kill()
    for connection in connections:
        connection.close()
    until(lambda: not cluster[1].http.get("/v1/imports").json()["imports"] or None, 30)
    answer = cluster[1].http.post(
        "/v1/import", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )

    assert answer.status_code == 200

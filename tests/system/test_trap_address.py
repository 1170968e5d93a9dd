"""Goal: an address in Redis gets nothing that its owner could use.

Method: a listener of the attacker, named in a row that is written to a real server; a node with
API keys and a coordinator with the admin key; with a cluster secret and without one.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import redis

from node_cluster import Cluster, StartCluster, until
from processes import CoordinatorProcess
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.requests import ProvenRequest, key_id_of, prove
from synaptoroute.trust.statements import Signer
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
NODES, HEARTBEATS = "sr:{default}:nodes", "sr:{default}:hb"
LISTEN_SECONDS = 10.0
ADMIN_KEY = make_key()


class Trap(BaseHTTPRequestHandler):
    """Records every request; relays questions for nonces to the real node, if it has one."""

    received: ClassVar[list[tuple[str, dict[str, str], bytes]]]
    relay_to = ""

    def do_any(self) -> None:
        size = int(self.headers.get("content-length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.received.append((f"{self.command} {self.path}", headers, self.rfile.read(size)))
        body, status = b"{}", 404
        if self.relay_to and "/nonce" in self.path:
            answer = httpx.get(self.relay_to + self.path, trust_env=False)
            body, status = answer.content, answer.status_code
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_any

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@contextmanager
def trap(relay_to: str) -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """A listener of the attacker: its address, and what it has received."""
    received: list[tuple[str, dict[str, str], bytes]] = []
    handler = type("Handler", (Trap,), {"received": received, "relay_to": relay_to})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def keys_file(folder: Path) -> Path:
    """The key file of the nodes."""
    path = folder / "keys"
    path.write_text(key_line(ADMIN_KEY, ["admin"], "coordinator") + "\n")
    path.chmod(0o600)
    return path


def lie(cluster: Cluster, url: str, stop: threading.Event) -> None:
    """Claim again and again that the nodes are at the attacker's address, and a further one."""
    client: Any = redis.Redis(port=cluster.server.port)
    while not stop.wait(0.05):
        rows = client.hgetall(NODES)
        for node, text in rows.items():
            row = json.loads(text)
            row.update(url=url, counter=row.get("counter", 0) + 1)
            client.hset(NODES, node, json.dumps(row))
            rogue = {name: value for name, value in row.items() if name != "signed"}
            client.hset(NODES, "rogue", json.dumps({**rogue, "node_id": "rogue"}))
        client.zadd(HEARTBEATS, {"rogue": time.time() * 1_000})


@pytest.mark.parametrize("is_signed", [False, True], ids=["trusting-redis", "authenticated"])
def test_trap_receives_no_secret_and_no_proof_that_a_node_takes(
    start_cluster: StartCluster, tmp_path: Path, is_signed: bool
) -> None:
    settings = {"api_keys_file": str(keys_file(tmp_path))}
    ours = {"node_key_file": str(tmp_path / "node.key")}
    (tmp_path / "node.key").write_text(ADMIN_KEY)
    if is_signed:
        secret = tmp_path / "secret"
        secret.write_text("k1 " + "s" * 64)
        settings["signing_keys_file"] = ours["signing_keys_file"] = str(secret)
    cluster = start_cluster(nodes=0, **settings)
    member = cluster.add(1)
    member.http.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
    member.start().wait_ready()
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, ours)
    stop = threading.Event()
    with trap(member.process.url) as (url, received):
        thread = threading.Thread(target=lie, args=(cluster, url, stop))
        try:
            coordinator.start()
            # Honest at first: the coordinator reaches the node without sending the key.
            until(lambda: coordinator.http("GET", "/v1/settings").status_code == 200)
            thread.start()
            ends_at = time.monotonic() + LISTEN_SECONDS
            while time.monotonic() < ends_at:
                for path in ("/v1/routes", "/v1/encoders", "/v1/orphans"):
                    coordinator.http("GET", path)
                coordinator.http("PUT", "/v1/routes/r", json={"utterances": ["one"]})
        finally:
            stop.set()
            thread.join()
            coordinator.end()

        everything = json.dumps([(line, headers, str(body)) for line, headers, body in received])
        assert ADMIN_KEY not in everything
        assert "authorization" not in everything
        assert not re.search("x-api-key|cookie", everything)
        proofs = [(line, headers) for line, headers, _ in received if "sr-proof" in headers]
        if is_signed:
            assert received == []  # forged rows are not in the fleet
        else:
            assert received  # nothing in Redis is verified: the trap is asked
            assert proofs
        for line, headers in proofs:
            method, _, target = line.partition(" ")
            answer = httpx.request(
                method,
                member.process.url + target,
                headers={"SR-Proof": headers["sr-proof"]},
                trust_env=False,
            )
            assert answer.status_code == 401, (line, answer.text)


def test_redirect_of_a_node_is_not_followed(start_cluster: StartCluster, tmp_path: Path) -> None:
    """An address that redirects leads nowhere."""
    cluster = start_cluster(nodes=1)
    client: Any = redis.Redis(port=cluster.server.port)
    visited: list[str] = []

    class Redirect(Trap):
        received: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []

        def do_GET(self) -> None:
            visited.append(self.path)
            self.send_response(307)
            self.send_header("Location", f"{cluster[0].process.url}/livez?followed")
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirect)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    row = json.loads(client.hvals(NODES)[0])
    row.update(node_id="zz", url=f"http://127.0.0.1:{server.server_address[1]}", boot="")
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, {})
    try:
        coordinator.start()

        def is_visited() -> bool:
            client.hset(NODES, "zz", json.dumps(row))
            client.zadd(HEARTBEATS, {"zz": time.time() * 1_000})
            return bool(visited)

        until(is_visited)
    finally:
        coordinator.end()
        server.shutdown()
        server.server_close()
    assert "followed" not in cluster[0].process.log_file.read_text()


def test_proven_write_has_the_rights_of_its_key_and_names_its_user(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    path, secret = keys_file(tmp_path), tmp_path / "secret"
    reader = make_key()
    with path.open("a") as file:
        file.write(key_line(reader, ["read"], "reader") + "\n")
    secret.write_text("k1 " + "s" * 64)
    cluster = start_cluster(nodes=0, api_keys_file=str(path), signing_keys_file=str(secret))
    member = cluster.add(1)
    member.http.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
    member.start().wait_ready()
    ring = ClusterSecret("default", {"k1": b"s" * 64})
    signer = Signer("coordinator:1", NodeIdentity.generate(), ring)
    url, target = member.process.url, "/v1/routes/r"
    body = json.dumps({"utterances": ["one"]}).encode()

    def put(key: str, sent: bytes = body, *, by: Signer = signer, has_code: bool = True) -> int:
        boot = httpx.get(f"{url}/peer/v1/nonce", trust_env=False).json()
        key_hash = hashlib.sha256(key.encode()).digest()
        request = ProvenRequest(
            "PUT",
            target,
            hashlib.sha256(body).hexdigest(),
            boot["node"],
            url,
            boot["nonce"],
            "ann",
            key_id_of(key_hash),
        )
        proof = prove(by, request, key_hash if has_code else b"")
        headers = {"SR-Proof": proof, "Content-Type": "application/json"}
        return httpx.put(url + target, content=sent, headers=headers, trust_env=False).status_code

    stranger = Signer("coordinator:1", NodeIdentity.generate(), ClusterSecret("default"))
    assert put(ADMIN_KEY, b'{"utterances": ["two"]}') == 401
    assert put(ADMIN_KEY, has_code=False) == 401
    assert put(make_key()) == 401
    assert put(reader) == 403
    assert put(ADMIN_KEY, by=stranger) == 401
    assert member.http.get(target).status_code == 404
    assert put(ADMIN_KEY) in (200, 201)
    assert "ann/coordinator" in member.http.get("/v1/history").text

"""Goal: a proof that a rogue received opens no node.

Method: a rogue that relays every request to a real node, in the place of the peers of a node
that joins; and requests made with what Redis tells everybody.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import redis

from node_cluster import Cluster, StartCluster, until
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.requests import NO_BODY, ProvenRequest, prove
from synaptoroute.trust.statements import Signer

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
PATHS = (
    "/peer/v1/snapshot",
    "/peer/v1/rows?buckets=",
    "/peer/v1/head",
    "/peer/v1/log?epoch=1&seq=1&chain=" + "a" * 40,
)


class Relay(BaseHTTPRequestHandler):
    """Passes every request on to a real node, and its answer back."""

    victim: ClassVar[str]
    answers: ClassVar[list[tuple[str, int]]]

    def do_GET(self) -> None:
        headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
        answer = httpx.get(self.victim + self.path, headers=headers, trust_env=False)
        self.answers.append((self.path.partition("?")[0], answer.status_code))
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower().startswith("sr-"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


def test_relayed_request_is_refused(start_cluster: StartCluster) -> None:
    """Without a cluster secret the joining node asks the rogue, in vain."""
    cluster = start_cluster(nodes=1)
    for number in range(3):
        cluster.put(0, f"r{number}")
    cluster.trim()
    answers: list[tuple[str, int]] = []
    handler = type("Handler", (Relay,), {"victim": cluster[0].process.url, "answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rogue = f"http://127.0.0.1:{server.server_address[1]}"
    client: Any = redis.Redis(port=cluster.server.port)
    node = client.hkeys("sr:{default}:nodes")[0]
    stop = threading.Event()

    def lie() -> None:
        while not stop.wait(0.02):
            row = json.loads(client.hget("sr:{default}:nodes", node))
            client.hset("sr:{default}:nodes", node, json.dumps({**row, "url": rogue}))

    thread = threading.Thread(target=lie)
    thread.start()
    try:
        cluster.add(1).start()
        until(lambda: [path for path, _ in answers if path != "/peer/v1/nonce"])
        time.sleep(3)
    finally:
        stop.set()
        thread.join()
        server.shutdown()
        server.server_close()
    taken = [path for path, status in answers if path != "/peer/v1/nonce" and status == 200]
    assert taken == []
    cluster[1].wait_ready()  # when nobody lies any more


@pytest.fixture
def signed(start_cluster: StartCluster, secret_file: Path) -> Cluster:
    """A node with a cluster secret."""
    cluster = start_cluster(nodes=1, signing_keys_file=str(secret_file))
    cluster.put(0, "r1")
    until(lambda: cluster.head().level >= 2)
    return cluster


def test_what_redis_tells_opens_no_node(signed: Cluster) -> None:
    """The proof of the release before, and a proof with a secret derived from Redis."""
    client: Any = redis.Redis(port=signed.server.port)
    lineage = client.hget("sr:{default}:meta", "lineage")
    derived = hashlib.sha256(b"synaptoroute peer|" + lineage).digest()
    url = signed[0].process.url
    node = client.hkeys("sr:{default}:nodes")[0].decode()
    rings = ({"peer": derived}, {}, {"k1": b"s" * 32})
    for path in PATHS:
        now = str(int(time.time() * 1_000))
        code = hmac.new(derived, f"{now}|{path}".encode(), hashlib.sha256).hexdigest()
        old = {"SR-Peer-Proof": f"{now}.{code}"}
        assert httpx.get(url + path, headers=old, trust_env=False).status_code == 401
        for ring in rings:
            signer = Signer("n9", NodeIdentity.generate(), ClusterSecret("default", ring))
            nonce = httpx.get(f"{url}/peer/v1/nonce", trust_env=False).json()["nonce"]
            proof = prove(signer, ProvenRequest("GET", path, NO_BODY, node, url, nonce))
            answer = httpx.get(url + path, headers={"SR-Proof": proof}, trust_env=False)
            assert answer.status_code == 401, (path, ring)


def test_member_is_served_once_for_a_proof(signed: Cluster) -> None:
    url = signed[0].process.url
    client: Any = redis.Redis(port=signed.server.port)
    node = client.hkeys("sr:{default}:nodes")[0].decode()
    ring = ClusterSecret("default", {"k1": b"s" * 64})
    signer = Signer("n9", NodeIdentity.generate(), ring)
    nonce = httpx.get(f"{url}/peer/v1/nonce", trust_env=False).json()["nonce"]
    path = "/peer/v1/head"
    proof = prove(signer, ProvenRequest("GET", path, NO_BODY, node, url, nonce))
    headers = {"SR-Proof": proof}
    statuses = [
        httpx.get(url + path, headers=headers, trust_env=False).status_code for _ in range(3)
    ]
    assert statuses == [200, 401, 401]

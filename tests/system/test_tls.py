"""Goal: a cluster whose nodes and coordinator know each other by certificates.

Method: real nodes and a real coordinator with mutual TLS; certificates are replaced while
clients query.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from needs import require_valkey
from node_cluster import Cluster, Member, cluster_on, until
from processes import CoordinatorProcess
from servers import Server
from tls_files import EXPIRED, TestTls

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TestTls:
    return TestTls.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def cluster(tls: TestTls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    options = {"appendonly": "yes", "appendfsync": "everysec"}
    server = Server("valkey", require_valkey(), folder / "valkey", options).start()
    try:
        with cluster_on(folder, server, tls=tls) as cluster:
            yield cluster
    finally:
        server.stop()


def test_nodes_write_converge_and_join_over_mutual_tls(
    cluster: Cluster, tls: TestTls, tmp_path: Path
) -> None:
    """A new node takes a snapshot of a peer, and the coordinator a backup."""
    for node in range(3):
        cluster.put(node, f"r{node}")
    cluster.judge()
    settings = {"backup_folder": str(tmp_path / "backups"), "audit_seconds": "1"}
    coordinator = CoordinatorProcess(tmp_path / "c", cluster.server.url, settings, tls=tls)
    try:
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active)
        cluster.trim()
        joined = cluster.add(3).start().wait_ready()
        assert 1 == joined.follower["counts"]["snapshots"]
        cluster.judge()
        coordinator.until(
            lambda: 4 == sum(bool(each["is_ready"]) for each in coordinator.cluster()["nodes"])
        )
        coordinator.order_backup()
        metrics = coordinator.http("GET", "/metrics").text
        assert "synaptoroute_fleet_tls_certificate_expiry_timestamp_seconds" in metrics
    finally:
        coordinator.end()
        for member in cluster.members[3:]:
            cluster.dismiss(member)


def test_peer_endpoints_need_a_certificate_and_public_ones_do_not(
    cluster: Cluster, tls: TestTls
) -> None:
    url = cluster[0].process.url
    with httpx.Client(verify=tls.client(), trust_env=False, base_url=url) as client:
        for path in ("/peer/v1/log", "/peer/v1/snapshot", "/peer/v1/rows", "/peer/v1/other"):
            refused = client.get(path)
            assert (403, "forbidden") == (refused.status_code, refused.json()["code"])
        for path in ("/livez", "/readyz", "/metrics", "/v1/routes", "/v1/cluster"):
            assert 200 == client.get(path).status_code
    # A certificate alone is not enough: the proof of membership is needed, too.
    assert 401 == cluster[0].http.get("/peer/v1/snapshot").status_code


def test_plain_http_and_other_authorities_get_no_answer(cluster: Cluster, tmp_path: Path) -> None:
    process = cluster[0].process
    with socket.create_connection(("127.0.0.1", process.port), timeout=5) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: n\r\n\r\n")
        connection.settimeout(5)
        assert not connection.recv(100).startswith(b"HTTP/")
    foreign = TestTls.make(tmp_path / "foreign")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{process.url}/livez", verify=foreign.client(), trust_env=False)
    until(lambda: "the client sent plain HTTP" in process.log_file.read_text())


@contextmanager
def queries(member: Member, context: ssl.SSLContext) -> Iterator[list[str]]:
    """Query on one connection that is kept, and on a new one for every request."""
    failed: list[str] = []
    ended = threading.Event()

    def run(is_kept: bool) -> None:
        kept = httpx.Client(verify=context, trust_env=False, base_url=member.process.url)
        with kept:
            while not ended.wait(0.005):
                try:
                    if is_kept:
                        answer = kept.post("/v1/query", json={"text": "r1 one"})
                    else:
                        url = f"{member.process.url}/v1/query"
                        body = {"text": "r1 one"}
                        answer = httpx.post(url, json=body, verify=context, trust_env=False)
                    if answer.status_code != 200:
                        failed.append(answer.text)
                except httpx.TransportError as error:
                    failed.append(repr(error))

    threads = [threading.Thread(target=run, args=(is_kept,)) for is_kept in (True, False)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        ended.set()
        for thread in threads:
            thread.join(10)


EXPIRY = 'synaptoroute_tls_certificate_expiry_timestamp_seconds{certificate="server"}'
REFUSED = 'synaptoroute_tls_reloads_total{certificate="server",result="refused"}'


def _value(member: Member, name: str) -> float:
    lines = member.http.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_certificates_change_under_load_without_a_failed_request(
    cluster: Cluster, tls: TestTls
) -> None:
    """Three times; a broken pair in between keeps the former one."""
    with queries(cluster[0], tls.client()) as failed:
        for days in (30, 20, 10):
            renewed = TestTls.make(tls.folder, validity=timedelta(days=days))
            until(lambda days=days: _value(cluster[0], EXPIRY) < time.time() + (days + 1) * 86_400)
            good = renewed.key.read_bytes()
            before = _value(cluster[0], REFUSED)
            renewed.key.write_bytes(b"junk")
            until(lambda before=before: _value(cluster[0], REFUSED) > before)
            renewed.key.write_bytes(good)
        cluster.put(1, "after")
        cluster.judge()
    assert [] == failed
    assert "the changed TLS files of the server are refused" in (
        cluster[0].process.log_file.read_text()
    )


@pytest.mark.parametrize("kind", ["foreign", "expired"])
def test_a_node_with_a_bad_certificate_gets_nothing_from_its_peers(
    cluster: Cluster, tls: TestTls, tmp_path: Path, kind: str
) -> None:
    """It cannot join behind a trimmed log; donors and the node itself log why."""
    if kind == "foreign":
        bad = TestTls.make(tmp_path / "bad")
    else:
        shutil.copytree(tls.folder, tmp_path / "bad")
        bad = TestTls.make(tmp_path / "bad", validity=EXPIRED)
    cluster.put(0, "again")
    cluster.trim()
    member = cluster.add(3, peer_cert_file=str(bad.cert), peer_key_file=str(bad.key)).start()
    try:
        until(lambda: "no TLS connection with" in member.process.log_file.read_text())
        assert not member.is_ready()
        donors = [each.process.log_file for each in cluster.members[:3]]
        expected = "certificate has expired" if kind == "expired" else "the client's certificate is"
        until(lambda: any(expected in log.read_text() for log in donors))
    finally:
        cluster.dismiss(member)


def test_the_command_line_verifies_nodes_and_presents_a_certificate(
    cluster: Cluster, tls: TestTls, tmp_path: Path
) -> None:
    url = cluster[0].process.url
    foreign = TestTls.make(tmp_path / "foreign")
    files = ["--ca", tls.ca, "--client-cert", tls.cert, "--client-key", tls.key]
    done = _run("status", "--url", url, *files)
    assert 0 == done.returncode, done.stderr
    done = _run("routes", "list", "--url", url, SYNAPTOROUTE_CA=tls.ca)
    assert 0 == done.returncode, done.stderr
    for options in ([], ["--ca", foreign.ca]):
        done = _run("routes", "list", "--url", url, *options)
        assert 3 == done.returncode
        assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def _run(*arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from synaptoroute.cli import main; main()", *map(str, arguments)],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_tls_is_introduced_node_by_node(tls: TestTls, tmp_path: Path) -> None:
    """Step 2 of the recipe in docs/operations.md, with a new node that joins in the middle."""
    options = {"appendonly": "yes"}
    server = Server("valkey", require_valkey(), tmp_path / "valkey", options).start()
    first = {"peer_ca_file": str(tls.ca), "allow_plain_peers": "true"}
    try:
        with cluster_on(tmp_path / "nodes", server, 3, **first) as cluster:
            cluster.put(0, "plain")
            _switch(cluster[0], tls)
            cluster.put(0, "by a node with TLS")
            cluster.put(1, "by a node without")
            cluster.trim()
            # Its only donors are two nodes without TLS and one with it.
            cluster.add(3).start().wait_ready()
            cluster.judge()
            for member in cluster.members[1:]:
                _switch(member, tls)
                cluster.judge()
            cluster.put(2, "encrypted")
            cluster.judge()
            urls = {each["url"] for each in cluster[0].http.get("/v1/cluster").json()["nodes"]}
            assert {"https"} == {url.partition(":")[0] for url in urls}
    finally:
        server.stop()


def _switch(member: Member, tls: TestTls) -> None:
    """Start a node again, with TLS."""
    member.signal(signal.SIGTERM)
    member.process.wait()
    member.http.close()
    member.process.tls = tls.client(with_certificate=True)
    settings = {**member.process.settings, **tls.settings(client_ca=False)}
    member.process.settings = {**settings, "advertise_url": member.process.url}
    member.http = httpx.Client(
        base_url=member.process.url, timeout=20, trust_env=False, verify=member.process.tls
    )
    member.start().wait_ready()

"""Goal: HAProxy with this project's file asks nodes over TLS and refuses wrong names.

Method: the file as it is shipped, with addresses in the place of names to resolve; a real
HAProxy, real nodes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from haproxies import configuration, haproxy
from needs import require, require_valkey
from node_cluster import Cluster, cluster_on, until
from ports import free_port
from servers import Server
from tls_files import TestTls

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@contextmanager
def https_door(cluster: Cluster, folder: Path, **variables: str) -> Iterator[str]:
    port = free_port()
    nodes = [member.process.port for member in cluster.members]
    with haproxy(configuration(nodes, port), folder, variables):
        yield f"https://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes whose certificate has the name of their Service, too."""
    require("haproxy")
    folder = tmp_path_factory.mktemp("cluster")
    tls = TestTls.make(folder / "tls", "router.routing.svc", "localhost", "127.0.0.1")
    server = Server("valkey", require_valkey(), folder / "valkey", {"appendonly": "yes"}).start()
    try:
        with cluster_on(folder, server, 2, tls=tls) as cluster:
            cluster.put(0, "r1")
            yield cluster
    finally:
        server.stop()


def variables(cluster: Cluster, name: str) -> dict[str, str]:
    assert cluster.tls is not None
    return {
        "BIND_CERT_FILE": str(cluster.tls.cert),
        "CLIENT_CERT_FILE": str(cluster.tls.cert),
        "NODE_CA_FILE": str(cluster.tls.ca),
        "NODE_NAME": name,
        "COORDINATOR_NAME": name,
        "NODES_MAX": "2",
    }


def ask(cluster: Cluster, url: str, path: str = "/v1/query") -> int:
    assert cluster.tls is not None
    with httpx.Client(verify=cluster.tls.client(), trust_env=False, timeout=10) as client:
        return client.post(url + path, json={"text": "r1 one"}).status_code


def test_queries_and_checks_pass_over_tls(cluster: Cluster, tmp_path: Path) -> None:
    """A node that stops is found by the health check, over TLS as well."""
    with https_door(cluster, tmp_path, **variables(cluster, "router.routing.svc")) as url:
        until(lambda: ask(cluster, url) == 200)
        assert [200] * 20 == [ask(cluster, url) for _ in range(20)]
        assert 404 == ask(cluster, url, "/peer/v1/log")
        cluster[1].kill()
        assert [200] * 20 == [ask(cluster, url) for _ in range(20)]
        cluster[1].start().wait_ready()


def test_nodes_with_another_name_are_not_asked(cluster: Cluster, tmp_path: Path) -> None:
    with https_door(cluster, tmp_path, **variables(cluster, "other.routing.svc")) as url:
        until(lambda: ask(cluster, url) == 503)
        time.sleep(2.5)
        assert 503 == ask(cluster, url)

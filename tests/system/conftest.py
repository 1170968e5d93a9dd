"""Clusters for the system tests: one that gentle tests share, and one for each rough test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from needs import require, require_valkey
from node_cluster import Cluster, StartCluster, cluster_on
from servers import Server

PERSISTENT = {"appendonly": "yes", "appendfsync": "everysec"}


def make_server(kind: str, folder: Path, **options: str) -> Server:
    """A server that keeps what it was told."""
    binary = require("redis-server") if kind == "redis" else require_valkey()
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return Server(kind, binary, folder, {**PERSISTENT, **named})


@pytest.fixture(scope="session")
def kept_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes on Debian's Redis, kept for the session."""
    folder = tmp_path_factory.mktemp("shared")
    server = make_server("redis", folder / "redis").start()
    try:
        with cluster_on(folder, server) as cluster:
            yield cluster
    finally:
        server.stop()


@pytest.fixture
def shared(kept_cluster: Cluster) -> Iterator[Cluster]:
    """The kept cluster, for all tests that leave it whole; a test that fails harms no other."""
    try:
        yield kept_cluster
    finally:
        kept_cluster.mend()


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[StartCluster]:
    """Start clusters that end with the test: ``start_cluster("valkey", nodes=3)``."""
    with ExitStack() as stack:

        def start(kind: str = "valkey", nodes: int = 3, **settings: str) -> Cluster:
            server = make_server(kind, tmp_path / kind)
            stack.callback(server.stop)
            server.start()
            return stack.enter_context(cluster_on(tmp_path / "nodes", server, nodes, **settings))

        yield start


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """A file with the cluster secret."""
    path = tmp_path / "cluster.secret"
    path.write_text("k1 " + "s" * 64 + "\n")
    path.chmod(0o600)
    return path

"""Goal: the route file of an empty cluster is applied, whatever stands in the log before it.

Method: a real coordinator audits the cluster before a node with a route file starts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from node_cluster import StartCluster, until
from processes import CoordinatorProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

ROUTES = "- name: refund\n  utterances: [I want my money back, how do I get a refund]\n"


def test_audit_before_the_first_route_does_not_keep_the_route_file_out(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """A cluster whose routes were all deleted stays empty, though."""
    cluster = start_cluster("valkey", 1)
    coordinator = CoordinatorProcess(
        tmp_path / "coordinator", cluster.server.url, {"audit_seconds": "0.5"}
    )
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES)
    try:
        coordinator.start()
        until(lambda: cluster[0].version.seq > 1)
        added = cluster.add(1, routes_file=str(file)).start().wait_ready()
        until(lambda: added.state()["routes"] == 1)
        cluster.write(0, "DELETE", "/v1/routes/refund", None)
        cluster.settle()
        third = cluster.add(1, routes_file=str(file)).start().wait_ready()
        until(lambda: third.version.seq >= cluster[0].version.seq)
        assert 0 == third.state()["routes"]
    finally:
        coordinator.end()

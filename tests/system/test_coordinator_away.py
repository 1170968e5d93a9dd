"""Goal: nothing on the way of a query or a write needs the coordinator.

Method: clients query and write through every node while the coordinator is killed and stays
away; ``SYNAPTOROUTE_AWAY_SECONDS`` says for how long.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from node_cluster import StartCluster, until
from processes import CoordinatorProcess

AWAY_SECONDS = float(os.environ.get("SYNAPTOROUTE_AWAY_SECONDS", "6"))
LOG_BYTES_MAX = 268_435_456
RETAINED_ENTRIES = 50

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(120 + AWAY_SECONDS)]


def test_queries_and_writes_go_on_without_a_coordinator(
    tmp_path: Path, start_cluster: StartCluster
) -> None:
    """No request fails, a restarted node catches up, and the log is trimmed afterwards."""
    cluster = start_cluster("valkey", 3)
    settings = {
        "retain_entries": str(RETAINED_ENTRIES),
        "audit_seconds": "2",
        "scrub_seconds": "0",
    }
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)
    try:
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active)
        coordinator.until(lambda: len(coordinator.cluster()["nodes"]) == 3)
        with cluster.queries(0, 1) as failed, cluster.writers(2, pause=0.02) as history:
            coordinator.signal(signal.SIGKILL)
            coordinator.wait()
            began = len(history.writes)
            away_until = time.monotonic() + AWAY_SECONDS
            time.sleep(AWAY_SECONDS / 2)
            written = len(history.writes) - began
            time.sleep(max(0.0, away_until - time.monotonic()))
            # On a busy machine this takes longer; fewer entries would not be trimmed.
            until(lambda: len(history.acknowledged) > 2 * RETAINED_ENTRIES)
        cluster[2].kill()
        missed = cluster.put(0, "late", "written while one node is away")
        cluster[2].start().wait_ready()
        version = cluster.settle()
        grown = cluster.head()
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active)
        coordinator.until(lambda: coordinator.cluster()["log"]["floor"] > grown.floor)
        coordinator.until(lambda: (coordinator.cluster()["audit"] or {}).get("is_sound"))
    finally:
        coordinator.end()
    refused = [write for write in history.writes if write.status >= 500 or not write.status]

    assert [] == failed
    assert [] == refused
    assert 20 < written
    assert missed.at is not None
    assert missed.at <= version
    assert LOG_BYTES_MAX > grown.kept_bytes
    cluster.judge()

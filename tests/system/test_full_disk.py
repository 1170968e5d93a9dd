"""Goal: a node that starts on a full disk answers queries, refuses writes, and gets well by itself.

Method: real processes whose databases lie on a file system of a few megabytes, which is filled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from node_cluster import StartCluster, until
from processes import NodeProcess

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a file system"
    ),
]
SIZE = "8m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing fits; return the file."""
    path = folder / "fill"
    for size_bytes in (65_536, 4_096, 1):
        try:
            with path.open("ab", buffering=0) as file:
                while True:
                    file.write(b"x" * size_bytes)
        except OSError:
            pass
    return path


def put(url: str, name: str) -> httpx.Response:
    """Put a route."""
    return httpx.put(f"{url}/v1/routes/{name}", json={"utterances": [f"{name} one"]})


@pytest.mark.parametrize("ending", ["killed", "stopped", "filled before the stop"])
def test_node_that_starts_on_a_full_disk_serves_and_gets_well(
    tmp_path: Path, small_disk: Path, ending: str
) -> None:
    """Queries are answered from the verified file; the first write after there is room is taken."""
    database = str(small_disk / "node.sqlite")
    node = NodeProcess(tmp_path / "node", {"database": database})
    try:
        node.start()
        for number in range(40):
            assert 201 == put(node.url, f"r{number}").status_code
        if ending == "killed":
            node.kill()
            filler = fill(small_disk)
        elif ending == "stopped":
            node.stop()
            filler = fill(small_disk)
        else:
            filler = fill(small_disk)
            put(node.url, "late")
            node.stop()
            fill(small_disk)
        node.start()
        query = httpx.post(f"{node.url}/v1/query", json={"text": "r7 one"})
        read = httpx.get(f"{node.url}/v1/routes/r39")
        refused = put(node.url, "new")
        metrics = httpx.get(f"{node.url}/metrics").text
        filler.unlink()
        taken = put(node.url, "new")
        node.kill()
        node.start()
        kept = [httpx.get(f"{node.url}/v1/routes/{name}").status_code for name in ("r0", "new")]
    finally:
        node.end()

    assert "r7" == query.json()["route"]
    assert 200 == read.status_code
    assert (503, "storage_unavailable") == (refused.status_code, refused.json()["code"])
    assert 'synaptoroute_storage_state{state="disk_full"} 1.0' in metrics
    assert 201 == taken.status_code
    assert [200, 200] == kept


def test_member_that_starts_on_a_full_disk_serves_and_catches_up(
    start_cluster: StartCluster, small_disk: Path
) -> None:
    """It stands at the head, so it is ready; later entries wait until there is room."""
    cluster = start_cluster("redis", nodes=0)
    for number in range(3):
        place = {"database": str(small_disk / "member.sqlite")} if number == 2 else {}
        cluster.add(3, **place).start()
    for member in cluster.members:
        member.wait_ready()
    cluster.put(0, "before")
    cluster.settle()
    full = cluster[2]
    full.signal(signal.SIGTERM)
    full.process.wait()
    filler = fill(small_disk)
    full.start().wait_ready()
    query = full.http.post("/v1/query", json={"text": "before one"})
    newest = cluster.put(0, "after").at
    behind = full.version
    filler.unlink()
    until(lambda: full.version == newest)

    assert "before" == query.json()["route"]
    assert newest is not None
    assert behind < newest
    cluster.judge()


def test_sole_member_that_cannot_apply_the_next_entry_serves(
    start_cluster: StartCluster, small_disk: Path
) -> None:
    """It stays ready, also through a restart: no other node has more to offer."""
    short = {"staleness_seconds_max": "2", "alone_seconds": "2"}
    cluster = start_cluster("redis", nodes=0, **short)
    sole = cluster.add(1, database=str(small_disk / "sole.sqlite")).start().wait_ready()
    cluster.put(0, "kept")
    until(lambda: sole.follower["readiness"] == "following")
    filler = fill(small_disk)
    stuck = sole.http.put(
        "/v1/routes/late?ack_timeout=1", json={"utterances": [f"late {n}" for n in range(50)]}
    )
    until(lambda: sole.follower["replica_state"] == "halted")
    time.sleep(3)
    before = sole.is_ready()
    sole.kill()
    fill(small_disk)
    sole.start().wait_ready()
    query = sole.http.post("/v1/query", json={"text": "kept one"})
    filler.unlink()
    until(lambda: sole.http.get("/v1/routes/late").status_code == 200)

    assert 202 == stuck.status_code
    assert before
    assert "kept" == query.json()["route"]

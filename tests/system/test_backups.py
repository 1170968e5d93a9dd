"""Goal: a backup outlives everything: nodes, databases and Redis are wiped, and all is back.

Method: real nodes, a real coordinator, a folder and a real S3-compatible server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucket_server import KEY_ID, SECRET, BucketServer
from node_cluster import Cluster, StartCluster, cluster_on
from processes import CoordinatorProcess
from servers import Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]


SAID = "what somebody said about an answer"


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[BucketServer]:
    """A server with a bucket."""
    server = BucketServer(tmp_path / "s3")
    try:
        yield server.start()
    finally:
        server.stop()


def backed_up(coordinator: CoordinatorProcess) -> dict[str, Any]:
    """Take a backup; its manifest."""
    coordinator.order_backup()

    def newest() -> dict[str, Any]:
        found: dict[str, Any] = coordinator.http("GET", "/v1/backups").json()["backups"][0]
        return found

    coordinator.until(newest)
    return newest()


def command(module: str, *words: str, **settings: str) -> str:
    """Run a command line."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SYNAPTOROUTE_")}
    environment |= {f"SYNAPTOROUTE_COORDINATOR_{k.upper()}": v for k, v in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def restore(manifest: Path, database: Path, *options: str) -> dict[str, Any]:
    """Make a database of a backup; what the command says."""
    words = (str(os.getpid()), "restore", str(manifest), "--database", str(database), "--json")
    shown: dict[str, Any] = json.loads(command("synaptoroute.cli.child", *words, *options))
    return shown


def fill(cluster: Cluster) -> dict[str, str]:
    """Routes, some of them changed; the digest that they have."""
    for number in range(12):
        assert "applied" == cluster.put(number % 3, f"r{number}").outcome
    cluster.put(0, "r3", "another text")
    cluster.write(1, "DELETE", "/v1/routes/r5", None)
    settings = cluster[0].http.get("/v1/settings").json()
    cluster[0].http.put("/v1/settings?ack=all", json={**settings, "feedback": {}})
    said = cluster[0].http.post("/v1/feedback", json={"text": SAID, "route": "r1"})
    assert 200 == said.status_code, said.text
    cluster.settle()
    found: dict[str, str] = cluster[0].http.get("/-/digest").json()
    return found


@pytest.mark.parametrize("is_signed", [False, True])
def test_wiped_cluster_is_restored_from_the_bucket(
    tmp_path: Path, start_cluster: StartCluster, bucket: BucketServer, is_signed: bool
) -> None:
    """Same digest on every node of a new cluster on an empty Redis, and it takes writes."""
    keys_file = tmp_path / "keys"
    keys_file.write_text("a " + "s" * 32 + "\n")
    signing = {"signing_keys_file": str(keys_file)} if is_signed else {}
    cluster = start_cluster("valkey", 3, **signing)
    before = fill(cluster)
    key = tmp_path / "key"
    key.write_text(f"{KEY_ID}\n{SECRET}\n")
    settings = {
        "backup_bucket": "backups/fleet-1",
        "backup_endpoint": bucket.url,
        "backup_key_file": str(key),
        "audit_seconds": "0",
        "scrub_seconds": "0",
        **signing,
    }
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)
    try:
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active)
        coordinator.until(lambda: len(coordinator.cluster()["nodes"]) == 3)
        manifest = backed_up(coordinator)
    finally:
        coordinator.end()
    cluster.close()
    cluster.server.stop()
    shutil.rmtree(tmp_path / "nodes")
    shutil.rmtree(tmp_path / "valkey")
    shutil.rmtree(tmp_path / "coordinator")

    folder = tmp_path / "brought"
    words = ("fetch-backup", manifest["name"], "--into", str(folder))
    command("synaptoroute_coordinator", *words, **settings)
    fresh = Server("valkey", cluster.server.binary, tmp_path / "fresh").start()
    try:
        with cluster_on(tmp_path / "again", fresh, 0, **signing) as again:
            members = [again.add(3) for _ in range(3)]
            options = ("--signing-keys-file", str(keys_file)) if is_signed else ()
            shown = restore(folder / f"{manifest['name']}.json", members[0].database, *options)
            for member in members:
                member.start()
            for member in members:
                member.wait_ready()
            again.settle()
            after = [member.http.get("/-/digest").json() for member in members]
            queues = [member.http.get("/v1/feedback").json()["items"] for member in members]
            written = again.put(1, "new", "written after the restore")
            again.settle()
    finally:
        fresh.stop()

    assert is_signed is shown["is_verified"] is manifest["is_certified"]
    assert manifest["version"] == shown["version"]
    assert {before["digest"]} == {each["digest"] for each in after}
    assert {before["tensor_sha256"]} == {each["tensor_sha256"] for each in after}
    assert "applied" == written.outcome
    assert [[SAID]] * 3 == [[item["text"] for item in items] for items in queues]


def test_bucket_keeps_the_configured_number_of_backups(
    tmp_path: Path, start_cluster: StartCluster, bucket: BucketServer
) -> None:
    """The oldest goes with its manifest; a wrong key is an alarm, not a crash."""
    cluster = start_cluster("valkey", 1)
    cluster.put(0, "r")
    key = tmp_path / "key"
    key.write_text(f"nobody\n{SECRET}\n")
    settings = {
        "backup_bucket": "backups",
        "backup_endpoint": bucket.url,
        "backup_key_file": str(key),
        "backups_kept": "1",
    }
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)

    def alarms() -> set[str]:
        return {alarm["code"] for alarm in coordinator.cluster()["alarms"]}

    try:
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active and coordinator.cluster()["nodes"])
        coordinator.order_backup()
        coordinator.until(lambda: "backup_failed" in alarms())
        refused = coordinator.http("GET", "/v1/backups").status_code
        coordinator.stop()
        key.write_text(f"{KEY_ID}\n{SECRET}\n")
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active and coordinator.cluster()["nodes"])
        first = backed_up(coordinator)
        cluster.put(0, "r2")
        coordinator.order_backup()

        def kept() -> list[str]:
            found = coordinator.http("GET", "/v1/backups").json()["backups"]
            return [backup["name"] for backup in found]

        coordinator.until(lambda: kept() and first["name"] not in kept())
        names = kept()
        objects = {
            path.name for path in (tmp_path / "s3").rglob("synaptoroute-*") if path.is_file()
        }
    finally:
        coordinator.end()

    assert 503 == refused
    assert 1 == len(names)
    assert not any(first["name"] in name for name in objects)

"""Goal: two tenants in one cluster see their own route sets, on every node, through a crash.

Method: three real nodes with keys for some sets; writes and queries go to different nodes.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, StartCluster, until
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SCOPES = {
    "root": ["admin"],
    "a": ["read@a", "write@a", "read@a-*", "write@a-*"],
    "b": ["read@b", "write@b"],
}
TEXTS = {"a": "I want my money back", "b": "where is my parcel"}


class Tenants:
    """Clients of every node by tenant."""

    def __init__(self, folder: Path) -> None:
        self.keys = {name: make_key() for name in SCOPES}
        self.file = folder / "keys"
        lines = [key_line(key, SCOPES[name], name) for name, key in self.keys.items()]
        self.file.write_text("\n".join(lines))

    def asker(self, cluster: Cluster) -> Any:
        """A function that asks a node with the key of a tenant."""

        def ask(node: int, name: str, method: str, path: str, **more: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {self.keys[name]}", **more.pop("headers", {})}
            return cluster[node].http.request(method, path, headers=headers, **more)

        return ask


def test_tenants_of_a_cluster(tmp_path: Path, start_cluster: StartCluster) -> None:
    tenants = Tenants(tmp_path)
    cluster = start_cluster(nodes=3, api_keys_file=str(tenants.file), api_key=tenants.keys["root"])

    ask = tenants.asker(cluster)

    for name, text in TEXTS.items():
        made = ask(0, "root", "PUT", f"/v1/sets/{name}", headers={"SR-Note": "a team"})
        assert 201 == made.status_code, made.text
        # Another node takes the write, wherever it stands: the log decides it.
        put = ask(1, name, "PUT", f"/v1/sets/{name}/routes/r-{name}", json={"utterances": [text]})
        assert 201 == put.status_code, put.text
        for node in range(3):
            seen = {"SR-Min-Version": put.headers["sr-version"]}
            query = f"/v1/sets/{name}/query"
            found = ask(node, name, "POST", query, json={"text": text}, headers=seen)
            assert f"r-{name}" == found.json()["route"], found.text

    for node in range(3):
        hidden = ask(node, "a", "GET", "/v1/sets/b/routes")
        missing = ask(node, "a", "GET", "/v1/sets/c/routes")
        for each in (hidden, missing):
            assert (404, "set_not_found") == (each.status_code, each.json()["code"])
        assert ["a"] == [s["name"] for s in ask(node, "a", "GET", "/v1/sets").json()["sets"]]
        entries = ask(node, "b", "GET", "/v1/sets/b/history").json()["entries"]
        assert {"b"} == {entry["route_set"] for entry in entries}
    assert 403 == ask(0, "a", "GET", "/v1/cluster").status_code


def test_one_identity_in_two_sets_and_through_a_crash(
    tmp_path: Path, start_cluster: StartCluster
) -> None:
    """A repeated write has one effect in its set, whichever node gets it after a kill -9."""
    tenants = Tenants(tmp_path)
    cluster = start_cluster(nodes=3, api_keys_file=str(tenants.file), api_key=tenants.keys["root"])

    ask = tenants.asker(cluster)

    for name in TEXTS:
        assert 201 == ask(0, "root", "PUT", f"/v1/sets/{name}").status_code
    sent = [
        (node, name, {"Idempotency-Key": f"key-{number}"}, number)
        for number in range(8)
        for name in TEXTS
        for node in (0, 1, 1)
    ]

    def write(each: tuple[int, str, dict[str, str], int]) -> tuple[str, int, Any]:
        node, name, headers, number = each
        path, body = f"/v1/sets/{name}/routes/r{number}", {"utterances": [f"{name} {number}"]}
        answer = ask(node, name, "PUT", path, json=body, headers=headers)
        return name, number, (answer.status_code, answer.headers.get("sr-version"))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(write, sent))
    cluster[2].kill()
    forked = ask(0, "a", "POST", "/v1/sets/a/fork", json={"as": "a-2"})
    removed = ask(0, "b", "DELETE", "/v1/sets/b")
    cluster[2].start().wait_ready()
    until(lambda: cluster[2].version >= cluster[0].version)
    views = []
    for node in range(3):
        lines = ask(node, "a", "GET", "/v1/sets/a-2/export").text.splitlines()
        gone = ask(node, "b", "GET", "/v1/sets/b").status_code
        views.append(([json.loads(line)["name"] for line in lines], gone))

    by_write: dict[tuple[str, int], set[Any]] = {}
    for name, number, (status, version) in answers:
        assert status in (200, 201), (name, number, status)
        by_write.setdefault((name, number), set()).add(version)
    assert {1} == {len(versions) for versions in by_write.values()}
    assert 16 == len({version for versions in by_write.values() for version in versions})
    assert (201, 200) == (forked.status_code, removed.status_code)
    assert [([f"r{number}" for number in range(8)], 404)] * 3 == views
    assert 1 == len({each.state()["digest"] for each in cluster.members})

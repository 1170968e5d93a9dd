"""Goal: the history of a cluster names who wrote what, and keys change without a failed request.

Method: two real nodes and a coordinator with key files; writes through all of them, by people
whose keys the coordinator and the nodes know; forged headers; a change of every key while
clients write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, StartCluster, until
from processes import CoordinatorProcess
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
IN_FORCE_SECONDS = 1.0
REFUND = {"utterances": ["I want my money back"]}
PARCEL = {"utterances": ["Where is my parcel?"]}
FORGED = {"SR-Author": "root", "SR-Actor": "root", "X-Forwarded-User": "root"}


class People:
    """The keys of a cluster, and the two files that hold them."""

    def __init__(self, folder: Path) -> None:
        self.keys = {name: make_key() for name in ("coordinator", "bob", "alice")}
        self.node_file, self.own_file = folder / "node-keys", folder / "own-keys"
        self.node_key_file = folder / "node.key"
        self.write()
        self.node_key_file.write_text(self.keys["coordinator"])
        for path in (self.node_file, self.own_file, self.node_key_file):
            path.chmod(0o600)

    def write(self, *more: str) -> None:
        """Write both files: the nodes know bob and the coordinator, the coordinator knows alice."""
        lines = [key_line(self.keys[name], ["admin"], name) for name in ("coordinator", "bob")]
        self.node_file.write_text("\n".join([*lines, *more]))
        self.own_file.write_text(key_line(self.keys["alice"], ["admin"], "alice"))


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path)


@pytest.fixture
def cluster(start_cluster: StartCluster, people: People) -> Cluster:
    """Two nodes with a key file."""
    cluster = start_cluster(nodes=0, api_keys_file=str(people.node_file))
    members = [cluster.add(2) for _ in range(2)]
    for member in members:
        member.http.headers["Authorization"] = f"Bearer {people.keys['bob']}"
        member.start()
    for member in members:
        member.wait_ready()
    return cluster


@pytest.fixture
def coordinator(tmp_path: Path, cluster: Cluster, people: People) -> Iterator[CoordinatorProcess]:
    settings = {"api_keys_file": str(people.own_file), "node_key_file": str(people.node_key_file)}
    process = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)
    process.start()
    yield process
    process.end()


def test_history_names_the_author_of_every_way_of_writing(
    cluster: Cluster, coordinator: CoordinatorProcess, people: People
) -> None:
    """Directly, through the coordinator with a key, and from the dashboard; on every node alike."""
    by_alice = {"X-API-Key": people.keys["alice"]}
    until(lambda: coordinator.http("GET", "/v1/settings", headers=by_alice).status_code == 200)
    first, second = (member.http for member in cluster.members)
    first.put("/v1/routes/refund", json=REFUND, headers=FORGED)
    until(lambda: second.get("/v1/routes/refund").status_code == 200)
    put = coordinator.http("PUT", "/v1/routes/parcel", json=PARCEL, headers={**by_alice, **FORGED})
    session = coordinator.http("POST", "/v1/session", json={"key": people.keys["alice"]})
    cookie = {"Cookie": session.headers["set-cookie"].partition(";")[0]}
    deleted = coordinator.http("DELETE", "/v1/routes/refund", headers={**cookie, **FORGED})

    def shown(http: httpx.Client) -> list[tuple[str, str | None, str | None]]:
        entries = http.get("/v1/history").json()["entries"]
        return [
            (each["action"], each["author"], each["route"]) for each in entries if each["route"]
        ]

    expected = [
        ("delete_route", "alice/coordinator", "refund"),
        ("put_route", "alice/coordinator", "parcel"),
        ("put_route", "bob", "refund"),
    ]
    until(lambda: shown(first) == shown(second) == expected)
    through = coordinator.http("GET", "/v1/history?route=parcel", headers=by_alice).json()
    record = coordinator.http("GET", "/v1/actions", headers=by_alice).json()["actions"]

    assert (201, 200) == (put.status_code, deleted.status_code)
    assert ["alice/coordinator"] == [each["author"] for each in through["entries"]]
    assert [
        ("alice", "DELETE /v1/routes/refund", "done"),
        ("alice", "open a session", "done"),
        ("alice", "PUT /v1/routes/parcel", "done"),
    ] == [(each["actor"], each["action"], each["outcome"]) for each in record]


def test_keys_of_clients_and_of_the_coordinator_are_changed_without_a_failed_request(
    cluster: Cluster, coordinator: CoordinatorProcess, people: People
) -> None:
    """Add the new lines, switch client by client, remove the old lines."""
    by_alice = {"X-API-Key": people.keys["alice"]}
    until(lambda: coordinator.http("GET", "/v1/settings", headers=by_alice).status_code == 200)
    first, second = (member.process.url for member in cluster.members)
    present = {"key": people.keys["bob"]}
    stop, failed, counts = threading.Event(), [], [0, 0]

    def work(number: int, ask: Callable[[httpx.Client], httpx.Response]) -> None:
        with httpx.Client(timeout=20) as http:
            while not stop.is_set():
                answer = ask(http)
                counts[number] += 1
                if answer.status_code >= 400:
                    failed.append((answer.status_code, answer.text))
                time.sleep(0.01)

    def write(http: httpx.Client) -> httpx.Response:
        headers: Any = {"X-API-Key": present["key"]}
        return http.put(f"{first}/v1/routes/refund", json=REFUND, headers=headers)

    def read(http: httpx.Client) -> httpx.Response:
        headers: Any = {"X-API-Key": present["key"]}
        return http.get(f"{second}/v1/routes", headers=headers)

    threads = [threading.Thread(target=work, args=each) for each in enumerate((write, read))]
    for thread in threads:
        thread.start()
    old, new = dict(people.keys), {name: make_key() for name in people.keys}
    fresh = [key_line(new[name], ["admin"], name) for name in ("coordinator", "bob")]
    people.write(*fresh)
    time.sleep(IN_FORCE_SECONDS)
    present["key"] = new["bob"]
    people.node_key_file.write_text(new["coordinator"])
    coordinator.stop()
    coordinator.start()
    until(lambda: coordinator.http("GET", "/v1/settings", headers=by_alice).status_code == 200)
    people.keys = new
    people.write()
    time.sleep(IN_FORCE_SECONDS)
    refused = httpx.get(f"{first}/v1/routes", headers={"X-API-Key": old["bob"]})
    through = coordinator.http(
        "PUT", "/v1/routes/parcel", json=PARCEL, headers={"X-API-Key": new["alice"]}
    )
    stop.set()
    for thread in threads:
        thread.join()

    assert [] == failed
    assert min(counts) > 10
    assert (401, 201) == (refused.status_code, through.status_code)

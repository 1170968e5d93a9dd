"""Goal: promotions and erasures reach every node at one position, and lose nothing.

Method: three real nodes on a real Redis.  Clients query an alias on every node while it is
promoted and rolled back; the history of the alias says which set must have answered at each
version.  A text is erased, and the files of all nodes and the stream are searched for it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import redis

from checkers import Version
from node_cluster import Cluster, StartCluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

TEXTS = ["I want my money back", "where is my parcel", "a refund, please"]
SECRET = "my name is Ann Smith"
CHANGES = 12
PAUSE_SECONDS = 0.15


@dataclass
class Client:
    """Queries an alias on one node, and keeps what it was told."""

    http: httpx.Client
    answers: list[tuple[Version, str | None, str | None]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, path: str, seen: list[str], is_over: threading.Event) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            newest = seen[-1]
            body = {"text": TEXTS[number % len(TEXTS)]}
            try:
                answer = self.http.post(path, json=body, headers={"SR-Min-Version": newest})
            except httpx.TransportError as error:
                self.failures.append(repr(error))
                continue
            if answer.status_code != 200:
                self.failures.append(answer.text)
                continue
            found = answer.json()
            version = Version.of(found["version"])
            if version < Version.of(newest):
                self.failures.append(f"{found} is older than {newest}")
            self.answers.append((version, found["route_set"], found["route"]))


@contextmanager
def queries(cluster: Cluster, path: str, seen: list[str]) -> Iterator[list[Client]]:
    """Two clients of each node that query until the end."""
    is_over = threading.Event()
    clients = [
        Client(httpx.Client(base_url=member.http.base_url, timeout=20.0))
        for member in cluster.members
        for _ in range(2)
    ]
    threads = [
        threading.Thread(target=client.run, args=(path, seen, is_over)) for client in clients
    ]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.http.close()


def fill(http: httpx.Client, route_set: str, route: str, **fields: Any) -> None:
    """Give a set one route that all texts belong to, named for the set, and its tests."""
    base = f"/v1/sets/{route_set}"
    assert http.put(base).status_code in (200, 201)
    done = http.put(f"{base}/routes/{route}", json={"utterances": TEXTS, **fields})
    assert done.status_code in (200, 201), done.text
    tests = [{"text": text, "route": route} for text in TEXTS]
    assert 200 == http.put(f"{base}/tests", json={"tests": tests}).status_code


def applied_everywhere(cluster: Cluster, version: str) -> None:
    wanted = Version.of(version)
    until(lambda: all(member.version >= wanted for member in cluster.members))


def test_promotions_under_load_switch_every_node_at_one_position(
    start_cluster: StartCluster,
) -> None:
    """No query fails, and each answer is of the set that the alias named at its version."""
    cluster = start_cluster()
    http = cluster[0].http
    fill(http, "v1", "old")
    fill(http, "v2", "new")
    first = http.put("/v1/aliases/support", json={"set": "v1"})
    assert 201 == first.status_code, first.text
    seen = [first.json()["version"]]
    changes = [(Version.of(seen[0]), "v1")]
    with queries(cluster, "/v1/sets/support/query", seen) as clients:
        for number in range(CHANGES):
            time.sleep(PAUSE_SECONDS)
            via = cluster[number % 3].http
            wanted = "v1" if number % 2 else "v2"
            if number % 3 == 2:
                answer = via.post(
                    "/v1/aliases/support/rollback", headers={"SR-Min-Version": seen[-1]}
                )
            else:
                body = {"set": wanted, "gate": {"min_tests": 3}}
                answer = via.put("/v1/aliases/support", json=body)
            assert 200 == answer.status_code, answer.text
            changes.append((Version.of(answer.json()["version"]), wanted))
            seen.append(answer.json()["version"])
        time.sleep(PAUSE_SECONDS)

    places = [place for place, _ in changes]
    route_of = {"v1": "old", "v2": "new"}
    assert [] == [failure for client in clients for failure in client.failures]
    answered = 0
    for client in clients:
        for version, route_set, route in client.answers:
            named = changes[bisect_right(places, version) - 1][1]
            assert (named, route_of[named]) == (route_set, route), version
            answered += 1
    assert {"v1", "v2"} == {each[1] for client in clients for each in client.answers}
    assert answered > 10 * CHANGES
    history = http.get("/v1/aliases/support").json()["history"]
    assert [each["version"] for each in history] == list(reversed(seen))


def test_gate_refuses_a_worse_draft_and_names_its_failures(start_cluster: StartCluster) -> None:
    """The draft is a fork; another node takes the promotion than took the change."""
    cluster = start_cluster()
    first, second = cluster[0].http, cluster[1].http
    fill(first, "v1", "refund")
    first.put("/v1/aliases/support", json={"set": "v1"})
    assert 201 == first.post("/v1/sets/v1/fork", json={"as": "v2"}).status_code
    wrong = {"utterances": [TEXTS[1]]}
    moved = first.put("/v1/sets/v2/routes/parcel", json=wrong, params={"ack": "all"})
    body = {"set": "v2", "gate": {"min_accuracy": 0.9, "max_regressions": 0}}
    refused = second.put("/v1/aliases/support", json=body)
    diff = second.post("/v1/diff", json={"from": "support", "to": "v2"}).json()
    fixed = second.delete("/v1/sets/v2/routes/parcel", params={"ack": "all"})
    passed = second.put("/v1/aliases/support", json=body)
    answer = first.post(
        "/v1/sets/support/query",
        json={"text": TEXTS[1]},
        headers={"SR-Min-Version": passed.json()["version"]},
    ).json()

    assert (201, 200) == (moved.status_code, fixed.status_code)
    assert (409, "gate_failed") == (refused.status_code, refused.json()["code"]), refused.text
    failures = refused.json()["evidence"]["failures"]
    assert [TEXTS[1]] == [each["text"] for each in failures]
    assert 2 == len(refused.json()["evidence"]["unmet"])
    assert (1, [TEXTS[1]]) == (diff["broken"], [each["text"] for each in diff["changed"]])
    assert 200 == passed.status_code, passed.text
    assert ("v2", "refund") == (answer["route_set"], answer["route"])


def test_evidence_and_history_survive_a_crash(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    http = cluster[0].http
    fill(http, "v1", "refund")
    promoted = http.put(
        "/v1/aliases/support",
        json={"set": "v1", "gate": {"min_accuracy": 1.0}},
        headers={"SR-Note": "first"},
        params={"ack": "all"},
    )
    before = http.get("/v1/aliases/support").json()
    cluster[0].kill()
    cluster[0].start().wait_ready()
    after = http.get("/v1/aliases/support").json()
    entry = http.get("/v1/history", params={"limit": 1}).json()["entries"][0]

    assert 201 == promoted.status_code, promoted.text
    assert before == after
    assert 1.0 == after["history"][0]["evidence"]["accuracy"]
    assert ("first", "support") == (entry["note"], entry["alias"])


def holders(cluster: Cluster, text: str) -> list[str]:
    """Files of the nodes that hold a text."""
    found = []
    for member in cluster.members:
        folder = member.database.parent
        for path in folder.glob(f"{member.database.name}*"):
            if text.encode() in path.read_bytes():
                found.append(path.name)
    return found


def stream_holds(cluster: Cluster, text: str) -> bool:
    """Whether an entry of the log in Redis holds a text."""
    with redis.Redis.from_url(cluster.server.url) as client:
        streams = [key for key in client.keys("*") if client.type(key) == b"stream"]
        assert streams
        found = [fields for key in streams for _, fields in client.xrange(key)]
        return any(text.encode() in value for fields in found for value in fields.values())


def test_erased_text_is_gone_from_every_node_and_the_log(start_cluster: StartCluster) -> None:
    """From the databases, byte by byte, and from the stream; a node that was killed meanwhile
    drops it when it is back.
    """
    cluster = start_cluster()
    http = cluster[0].http
    fill(http, "v1", "refund", negatives=[SECRET])
    http.put("/v1/routes/ann", json={"utterances": [SECRET]}, params={"ack": "all"})
    http.post("/v1/sets/v1/fork", json={"as": "v2"}, params={"ack": "all"})
    assert holders(cluster, SECRET)
    assert stream_holds(cluster, SECRET)
    cluster[2].kill()
    erased = http.post("/v1/erase", json={"texts": [SECRET.upper() + "!"]})
    assert 200 == erased.status_code, erased.text
    cluster[2].start().wait_ready()
    applied_everywhere(cluster, erased.json()["version"])

    def is_clean() -> bool:
        return all(member.http.get("/v1/erase").json()["is_clean"] for member in cluster.members)

    until(is_clean)
    assert (2, 1) == (
        erased.json()["found"]["negatives"],
        erased.json()["found"]["routes_deleted"],
    )
    assert [] == holders(cluster, SECRET)
    assert not stream_holds(cluster, SECRET)
    digests = {member.http.get("/-/digest").json()["digest"] for member in cluster.members}
    assert 1 == len(digests)

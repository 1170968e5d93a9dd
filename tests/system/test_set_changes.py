"""Goal: a change of a set is whole on all nodes or nowhere.  Method: real nodes, queries, kills."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest

from node_cluster import Cluster, StartCluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
ROUTES = 12
TEXTS = 10
SET = "/v1/sets/shop"


def line(number: int, edition: int) -> dict[str, Any]:
    """A route of an edition: its texts and its payload say which one."""
    texts = [f"route {number} text {each} of edition {edition}" for each in range(TEXTS)]
    return {
        "name": f"r{number}",
        "utterances": [f"the question {number}", *texts],
        "payload": edition,
    }


def apply(http: httpx.Client, edition: int, path: str = SET) -> httpx.Response:
    """Make the set what an edition says, as the command does: read, then send all of it."""
    held = {each["name"]: each for each in http.get(f"{path}/routes").json()["routes"]}
    odd = f"only-{edition}"
    routes = [line(number, edition) for number in range(ROUTES)]
    routes.append({"name": odd, "utterances": [f"only in {edition}"], "payload": edition})
    gone = [name for name in held if name.startswith("only-") and name != odd]
    seen = {each["name"]: held.get(each["name"], {}).get("revision") for each in routes}
    change = {
        "seen": {**seen, **{name: held[name]["revision"] for name in gone}},
        "removed": gone,
        "settings": {"topk": edition},
        "tests": {"the edition": odd},
        "tests_seen": {"the edition": gone[0]} if gone else {},
    }
    body = "".join(json.dumps(each) + "\n" for each in (change, *routes))
    return http.post(
        f"{path}/apply", content=body, headers={"content-type": "application/x-ndjson"}
    )


def editions(http: httpx.Client) -> set[int]:
    """The editions that one node shows at one moment: of all routes and of the settings."""
    while True:
        before = http.get(f"{SET}/settings")
        page = http.get(f"{SET}/routes")
        after = http.get(f"{SET}/settings")
        if (
            before.headers["sr-version"]
            == page.headers["sr-version"]
            == after.headers["sr-version"]
        ):
            break
    found = {each["payload"] for each in page.json()["routes"]}
    return found | ({before.json()["topk"]} if found else set())


def test_queries_never_meet_half_of_a_change(shared: Cluster) -> None:
    """While editions are applied through all nodes, a version has one edition."""
    assert shared[0].http.put(SET).status_code in (200, 201)
    first = apply(shared[0].http, 1)
    assert 200 == first.status_code, first.text
    shared.settle()
    seen: dict[str, set[int]] = {}
    mixed: list[str] = []
    is_over = threading.Event()

    def ask(node: int) -> None:
        with httpx.Client(base_url=shared[node].process.url, timeout=20) as http:
            while not is_over.is_set():
                texts = [f"the question {number}" for number in range(ROUTES)]
                answer = http.post(f"{SET}/query/batch", json={"texts": texts}).json()
                for match in answer["matches"]:
                    seen.setdefault(match["version"], set()).add(match["payload"])
                found = editions(http)
                if len(found) != 1:
                    mixed.append(f"node {node} showed the editions {found}")

    threads = [threading.Thread(target=ask, args=(node,)) for node in range(3)]
    for thread in threads:
        thread.start()
    versions = {}
    for edition in range(2, 8):
        node = edition % 3
        http = shared[node].http
        until(lambda http=http, edition=edition: {edition - 1} == editions(http))
        answer = apply(http, edition)
        assert 200 == answer.status_code, answer.text
        versions[answer.json()["version"]] = edition
    is_over.set()
    for thread in threads:
        thread.join()
    shared.settle()

    assert [] == mixed
    assert {version: found for version, found in seen.items() if len(found) != 1} == {}
    shared.judge()


def test_change_whose_node_dies_is_whole_or_nowhere(start_cluster: StartCluster) -> None:
    """The node that takes it is killed by -9; the others show all of it or nothing."""
    cluster = start_cluster("valkey", nodes=3)
    assert 201 == cluster[0].http.put(SET).status_code
    assert 200 == apply(cluster[0].http, 1).status_code
    cluster.settle()
    for edition in (2, 3, 4):
        sender = cluster[edition % 3]
        others = [member for member in cluster.running if member is not sender]
        url, before = sender.process.url, others[0].version.seq

        def send(url: str = url, edition: int = edition) -> None:
            try:
                with httpx.Client(base_url=url, timeout=20) as http:
                    apply(http, edition)
            except httpx.HTTPError:
                return

        thread = threading.Thread(target=send)
        thread.start()
        until(lambda others=others, before=before: others[0].version.seq > before)
        sender.kill()
        thread.join()
        found = editions(others[0].http)
        assert len(found) == 1
        assert found <= {edition - 1, edition}
        sender.start().wait_ready()
        cluster.settle()
        if editions(sender.http) != {edition}:  # what the log holds of it may have come later
            answer = apply(sender.http, edition)
            assert 200 == answer.status_code, answer.text
        cluster.settle()
        assert [{edition}] * 3 == [editions(cluster[node].http) for node in range(3)]
    cluster.judge()

"""Goal: a tenant over its limits is refused, and another one notices nothing.

Method: a real node with one encoder thread and scoped keys.  One tenant sends far more than
its limit, from many clients at once, while the other queries and writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

from node_cluster import Cluster, StartCluster
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
CLIENTS = 12
REQUESTS = 12
"""Of the quiet tenant, while the other one floods."""
LOUD = {
    "requests_per_second": "requests_per_second=2",
    "texts_per_second": "texts_per_second=4",
    "concurrent_queries": "concurrent_queries=1",
}
UTTERANCES = {"loud": "I want my money back", "quiet": "where is my parcel"}


class Tenants:
    """A node with a set for each of two tenants."""

    def __init__(self, folder: Path, start_cluster: StartCluster) -> None:
        self.keys = {name: make_key() for name in ("root", "quiet", *LOUD)}
        lines = [
            key_line(self.keys["root"], ["admin"], "root"),
            key_line(self.keys["quiet"], ["read@quiet", "write@quiet"], "quiet"),
            *(
                key_line(self.keys[name], ["read@loud", "write@loud"], name, limits=[limit])
                for name, limit in LOUD.items()
            ),
        ]
        (folder / "keys").write_text("\n".join(lines))
        self.cluster: Cluster = start_cluster(
            nodes=1,
            lanes="1",
            api_keys_file=str(folder / "keys"),
            api_key=self.keys["root"],
        )
        with self.client("root") as root:
            for name, text in UTTERANCES.items():
                assert 201 == root.put(f"/v1/sets/{name}").status_code
                body = {"utterances": [text]}
                put = root.put(f"/v1/sets/{name}/routes/r-{name}", json=body)
                assert 201 == put.status_code, put.text

    def client(self, name: str) -> httpx.Client:
        """A client with the key of a tenant."""
        headers = {"X-API-Key": self.keys[name], "Cache-Control": "no-cache"}
        url = self.cluster[0].process.url
        return httpx.Client(base_url=url, headers=headers, timeout=30.0, trust_env=False)

    @contextmanager
    def flood(
        self, name: str, send: Callable[[httpx.Client, int], httpx.Response]
    ) -> Iterator[list[httpx.Response]]:
        """Send requests from many clients until the block ends; the answers are in the list."""
        answers: list[httpx.Response] = []
        numbers, stop, has_refused = count(), threading.Event(), threading.Event()

        def run() -> None:
            with self.client(name) as client:
                while not stop.is_set():
                    answers.append(send(client, next(numbers)))
                    if answers[-1].status_code == 429:
                        has_refused.set()

        with ThreadPoolExecutor(CLIENTS) as threads:
            running = [threads.submit(run) for _ in range(CLIENTS)]
            try:
                assert has_refused.wait(30.0)
                yield answers
            finally:
                stop.set()
            for each in running:
                each.result()


def query(client: httpx.Client, number: int) -> httpx.Response:
    text = f"{UTTERANCES['loud']} {number} " + "and so on " * 40
    return client.post("/v1/sets/loud/query", json={"text": text})


def batch(client: httpx.Client, number: int) -> httpx.Response:
    texts = [f"{UTTERANCES['loud']} {number} {each}" for each in range(8)]
    return client.post("/v1/sets/loud/query/batch", json={"texts": texts})


def put(client: httpx.Client, number: int) -> httpx.Response:
    path = f"/v1/sets/loud/routes/r{number % 8}"
    return client.put(path, json={"utterances": [f"written {number} {each}" for each in range(8)]})


def judge_quiet(tenants: Tenants) -> None:
    """Query and write as the quiet tenant: everything succeeds, in its own set."""
    with tenants.client("quiet") as client:
        for number in range(REQUESTS):
            text = UTTERANCES["quiet"] if number % 2 else UTTERANCES["loud"]
            found = client.post("/v1/sets/quiet/query", json={"text": text, "explain": True})
            assert 200 == found.status_code, found.text
            answer = found.json()
            assert "quiet" == answer["route_set"] == found.headers["sr-route-set"]
            assert answer["route"] == ("r-quiet" if number % 2 else None)
            assert "loud" not in found.text
            wrote = client.put("/v1/sets/quiet/routes/own", json={"utterances": [f"own {number}"]})
            assert wrote.status_code in (200, 201), wrote.text
        names = [each["name"] for each in client.get("/v1/sets/quiet/routes").json()["routes"]]
        sets = [each["name"] for each in client.get("/v1/sets").json()["sets"]]
        hidden = client.post("/v1/sets/loud/query", json={"text": UTTERANCES["loud"]})

    assert ["own", "r-quiet"] == names
    assert ["quiet"] == sets
    assert (404, "set_not_found") == (hidden.status_code, hidden.json()["code"])


def judge_loud(limit: str, answers: list[httpx.Response]) -> None:
    """Each answer is a success, or a refusal with the name of the limit and a time."""
    refused = [each for each in answers if each.status_code == 429]
    assert refused
    for each in refused:
        problem = each.json()
        assert ("limit_exceeded", limit) == (problem["code"], problem["limit"])
        assert int(each.headers["retry-after"]) >= 1
    assert {each.status_code for each in answers} <= {200, 201, 429}


def test_tenant_over_its_limits_costs_another_no_answer(
    tmp_path: Path, start_cluster: StartCluster
) -> None:
    """Whichever limit is exceeded, by queries, batches or writes."""
    tenants = Tenants(tmp_path, start_cluster)
    floods = (
        ("requests_per_second", query),
        ("requests_per_second", put),
        ("texts_per_second", query),
        ("texts_per_second", batch),
        ("texts_per_second", put),
        ("concurrent_queries", query),
        ("concurrent_queries", batch),
    )
    for limit, send in floods:
        with tenants.flood(limit, send) as answers:
            judge_quiet(tenants)
        judge_loud(limit, answers)

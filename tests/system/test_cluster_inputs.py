"""Goal: what shapes a query or a route has one effect on every node of a cluster.

Method: three real nodes; each write goes through one of them and every node is asked.  Then
one is killed, and one joins by a snapshot.
"""

from __future__ import annotations

from typing import Any

import pytest

from node_cluster import Cluster, Member, StartCluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ROUTES: dict[str, dict[str, Any]] = {
    "refund": {
        "utterances": ["I want my money back", "please refund the payment", "return the amount"],
        "negatives": ["I do not want my money back"],
    },
    "parcel": {
        "utterances": ["where is my parcel", "the package is late", "track the delivery"],
        "description": "shipments, couriers and everything that is on its way",
    },
    "invoice": {"utterances": ["send me the invoice", "a copy of the bill", "tax receipt"]},
}
NOISE = "[ticket 4711] "
QUERIES: dict[str, dict[str, Any]] = {
    "plain": {"text": "the package is very late"},
    "ignored": {"text": f"{NOISE}the package is very late"},
    "misspelled": {"text": "where is my pacrel now"},
    "negative": {"text": "I do not want my money back"},
    "described": {"text": "shipments, couriers and everything that is on its way"},
    "prior": {"text": "please send the copy back", "prior": {"refund": 8.0}},
    "against": {"text": "please send the copy back", "prior": {"refund": -8.0, "parcel": -8.0}},
    "context": {"text": "and now", "context": ["where is my parcel"]},
    "split": {"text": "where is my parcel, and send me the invoice", "split": True},
}
SHAPED = ("route", "score", "confidence", "reason", "utterance", "runner_up", "candidates")


def answer(member: Member, query: dict[str, Any]) -> Any:
    """Answer of a node, without the fields that name the node and the moment."""
    body = {**query, "explain": True, "limit": 3}
    got = member.http.post("/v1/query", json=body).raise_for_status().json()
    found = got.get("matches", [got])
    return [{name: each.get(name) for name in SHAPED} for each in found]


def answers(member: Member) -> dict[str, Any]:
    return {name: answer(member, query) for name, query in QUERIES.items()}


def routes_of(found: dict[str, Any]) -> dict[str, list[str | None]]:
    """The route that each query gets, by name."""
    return {name: [each["route"] for each in given] for name, given in found.items()}


def one_answer(cluster: Cluster) -> dict[str, Any]:
    """The answers that all nodes give; fails where two differ."""
    cluster.settle()  # ``ack=all`` says that nodes have a write on disk, not that they show it
    found = [answers(member) for member in cluster.members]
    for name in QUERIES:
        assert [found[0][name]] * len(found) == [each[name] for each in found], name
    return found[0]


def test_every_input_has_one_effect_on_all_nodes(start_cluster: StartCluster) -> None:
    cluster: Cluster = start_cluster("valkey", 3)
    for number, (name, route) in enumerate(ROUTES.items()):
        # Enough for a fit, so that answers have a confidence.
        more = [f"{text} {word}" for text in route["utterances"] for word in ("today", "again")]
        body = {**route, "utterances": [*route["utterances"], *more]}
        put = cluster[number].http.put(f"/v1/routes/{name}?ack=all", json=body)
        assert 201 == put.status_code, put.text
    settings = {
        **cluster[1].http.get("/v1/settings").json(),
        "aggregation": "blend",
        "threshold": 0.3,
        "confidence_min": None,
        "ignore": [r"\[ticket \d+\] "],
        "repair_words": True,
    }
    put = cluster[1].http.put("/v1/settings?ack=all", json=settings)
    assert 200 == put.status_code, put.text
    fitted = cluster[2].http.post("/v1/settings/calibration?ack=all", timeout=30)
    assert 200 == fitted.status_code, fitted.text

    first = one_answer(cluster)
    got = routes_of(first)
    assert ["parcel"] == got["plain"] == got["ignored"] == got["misspelled"] == got["described"]
    assert first["plain"] == first["ignored"]
    assert first["plain"][0]["confidence"] is not None
    assert ["refund"] != got["negative"]
    assert (["refund"], ["invoice"]) == (got["prior"], got["against"])
    assert (["parcel"], ["parcel", "invoice"]) == (got["context"], got["split"])

    cluster[2].http.patch("/v1/routes/refund?ack=all", json={"negatives": []}).raise_for_status()
    changed = {"description": "bills and receipts", "negatives": ["where is my parcel now"]}
    cluster[0].http.patch("/v1/routes/invoice?ack=all", json=changed).raise_for_status()
    without = {**settings, "ignore": [], "repair_words": False}
    cluster[0].http.put("/v1/settings?ack=all", json=without).raise_for_status()
    second = one_answer(cluster)
    assert ["refund"] == routes_of(second)["negative"]
    assert routes_of(second)["plain"] == ["parcel"]
    assert second["ignored"] != first["ignored"]
    assert second["misspelled"] != first["misspelled"]

    cluster[1].kill()
    cluster[1].start().wait_ready()
    cluster.trim()
    newcomer = cluster.add(3)
    newcomer.start()
    newcomer.wait_ready()
    assert second == one_answer(cluster)
    cluster[3].http.put("/v1/settings?ack=all", json=settings).raise_for_status()
    third = one_answer(cluster)
    assert third["ignored"] == third["plain"]
    until(lambda: len({member.http.get("/-/digest").text for member in cluster.members}) == 1)
    cluster.judge()

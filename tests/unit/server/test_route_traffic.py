"""Counts of answers by route: every answer once, cached or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from http_node import http_node
from synaptoroute.models import Match
from synaptoroute.server.traffic import RouteTraffic

pytestmark = pytest.mark.unit


async def test_every_answer_is_counted_once(tmp_path: Path) -> None:
    """Answers of single queries, cached ones among them, of batches, and without a route."""
    async with http_node(tmp_path) as node:
        await node.fill()
        for _ in range(3):
            await node.http.post("/v1/query", json={"text": "I want my money back"})
        await node.http.post("/v1/query", json={"text": "xyzzy"})
        texts = ["I want my money back", "xyzzy"]
        answer = await node.http.post("/v1/query/batch", json={"texts": texts})
        refused = await node.http.post("/v1/query", json={"text": ""})
        found = (await node.http.get("/-/traffic")).json()
    routes = {each["route"] for each in answer.json()["matches"]}
    counts = {each["route"]: each["answers"] for each in found["pairs"]}

    assert 400 <= refused.status_code < 500
    assert 2 == len(routes)
    assert None in routes
    assert {None: 2, (routes - {None}).pop(): 4} == counts
    assert {"default"} == {each["set"] for each in found["pairs"]}
    assert 0 == found["others"]


def test_answers_are_counted_for_the_set_that_answered() -> None:
    traffic = RouteTraffic()
    for name in (None, "support@2"):
        match = Match(route="a", reason="exact", confidence=1.0, version="1.1", route_set=name)
        traffic.count(match)

    assert ["default", "support@2"] == [each["set"] for each in traffic.document()["pairs"]]


def test_number_of_routes_is_bounded() -> None:
    """Answers of further routes are counted together."""
    traffic = RouteTraffic(pairs_max=2)
    for route in ("a", "b", "c", "d", "a"):
        traffic.count(Match(route=route, reason="matched", confidence=0.5, version="1.1"))
    document = traffic.document()

    assert [("a", 2, 1.0), ("b", 1, 0.5)] == [
        (each["route"], each["answers"], each["confidence_sum"]) for each in document["pairs"]
    ]
    assert 2 == document["others"]

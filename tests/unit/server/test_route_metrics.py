"""Metrics of sets and routes: bounded labels, and counters that never fall."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from http_node import HttpNode, http_node
from synaptoroute.models import Match
from synaptoroute.router.route_sets import SetFigures
from synaptoroute.server.metrics import Metrics
from synaptoroute.server.set_metrics import FoldedSum, Labels
from synaptoroute.server.traffic import RouteTraffic

pytestmark = pytest.mark.unit

_SAMPLE = re.compile(r"^synaptoroute_(\S+?)(\{.*\})? (\S+)$", re.MULTILINE)


def samples(text: str) -> dict[str, float]:
    """Return the value of each series of sets and routes, none of them twice."""
    found = _SAMPLE.findall(text)
    assert [] == [each for each, n in Counter(each[:2] for each in found).items() if n > 1]
    return {name + labels: float(value) for name, labels, value in found}


async def read(node: HttpNode) -> dict[str, float]:
    return samples((await node.http.get("/metrics")).text)


async def ask(node: HttpNode, text: str, route_set: str = "") -> str | None:
    path = f"/v1/sets/{route_set}/query" if route_set else "/v1/query"
    route: str | None = (await node.http.post(path, json={"text": text})).json()["route"]
    return route


async def put(node: HttpNode, name: str, text: str, route_set: str = "") -> None:
    path = f"/v1/sets/{route_set}/routes/{name}" if route_set else f"/v1/routes/{name}"
    assert 201 == (await node.http.put(path, json={"utterances": [text]})).status_code


async def test_every_answer_of_a_route_and_a_set_is_counted(tmp_path: Path) -> None:
    """Cached answers, batches, and answers without a route by their reason."""
    async with http_node(tmp_path) as node:
        await node.http.put("/v1/sets/shop")
        await put(node, "refund", "I want my money back")
        await put(node, "refund", "I want my money back", "shop")
        for _ in range(3):
            await ask(node, "I want my money back")
        await node.http.post("/v1/query/batch", json={"texts": ["I want my money back", "xyzzy"]})
        await ask(node, "I want my money back", "shop")
        await node.http.post("/v1/query", json={"text": ""})
        found = await read(node)
    outcomes = {each for each in found if each.startswith('set_answers_total{outcome="')}

    assert 4 == found['route_matches_total{route="refund",set="default"}']
    assert 4 == found['route_confidence_total{route="refund",set="default"}']
    assert 1 == found['route_matches_total{route="refund",set="shop"}']
    assert 4 == found['set_answers_total{outcome="matched",set="default"}']
    assert 6 == sum(found[each] for each in outcomes)
    assert 1 == found['set_confidence_total{set="shop"}']


async def test_answers_to_an_alias_are_those_of_its_set(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.http.put("/v1/sets/shop-2")
        await put(node, "a", "the text of a", "shop-2")
        moved = await node.http.put("/v1/aliases/shop", json={"set": "shop-2"})
        await ask(node, "the text of a", "shop")
        await ask(node, "the text of a", "shop")
        found = await read(node)

    assert moved.status_code in (200, 201)
    assert 2 == found['route_matches_total{route="a",set="shop-2"}']
    assert not any('set="shop"' in each for each in found)


async def test_routes_beyond_the_limit_are_counted_together(tmp_path: Path) -> None:
    """A removed route loses its label, a new one gets it, and the others never fall."""
    async with http_node(tmp_path, metrics_routes_max=2) as node:
        for name in ("a", "b", "c", "other"):
            await put(node, name, f"the text of {name}")
            assert name == await ask(node, f"the text of {name}")
        before = await read(node)
        await node.http.delete("/v1/routes/a")
        await node.http.delete("/v1/routes/c")
        await put(node, "d", "the text of d")
        await ask(node, "the text of d")
        after = await read(node)

    def routes(found: dict[str, float]) -> dict[str, float]:
        return {
            each.split('"')[1]: n for each, n in found.items() if each.startswith("route_matches")
        }

    assert {"a": 1, "b": 1, "other": 2} == routes(before)
    assert {"b": 1, "d": 1, "other": 2} == routes(after)
    assert 4 == before['set_answers_total{outcome="matched",set="default"}']
    assert 5 == after['set_answers_total{outcome="matched",set="default"}']


async def test_routes_are_not_shown_with_a_limit_of_zero(tmp_path: Path) -> None:
    async with http_node(tmp_path, metrics_routes_max=0) as node:
        await put(node, "a", "the text of a")
        await ask(node, "the text of a")
        found = await read(node)

    assert not any(each.startswith("route_") for each in found)
    assert 1 == found['set_answers_total{outcome="matched",set="default"}']


async def test_set_that_is_named_other_is_counted_with_the_others(tmp_path: Path) -> None:
    """So no series is there twice, which a scrape refuses."""
    async with http_node(tmp_path, metrics_sets_max=2) as node:
        for name in ("other", "shop", "last"):
            await node.http.put(f"/v1/sets/{name}")
            await put(node, "a", "the text of a", name)
            await ask(node, "the text of a", name)
        found = await read(node)

    assert 2 == found['set_routes{set="other"}']
    assert 2 == found['set_decisions_total{set="other"}']
    assert 2 == found['set_answers_total{outcome="matched",set="other"}']
    assert 2 == found['route_matches_total{route="other",set="other"}']
    assert 1 == found['route_matches_total{route="a",set="shop"}']


async def test_counter_of_other_sets_never_falls(tmp_path: Path) -> None:
    """Not if a named set is removed, whose label another could take, nor if one of them is."""
    async with http_node(tmp_path, metrics_sets_max=2) as node:
        for name in ("b", "c", "d"):
            await node.http.put(f"/v1/sets/{name}")
            await put(node, "a", "the text of a", name)
            await ask(node, "the text of a", name)
        first = await read(node)
        await node.http.delete("/v1/sets/b")
        second = await read(node)
        await node.http.delete("/v1/sets/c")
        third = await read(node)
        await node.http.put("/v1/sets/e")
        await put(node, "a", "the text of a", "e")
        await ask(node, "the text of a", "e")
        fourth = await read(node)
    names = (
        'set_decisions_total{set="other"}',
        'set_answers_total{outcome="matched",set="other"}',
        'route_matches_total{route="other",set="other"}',
    )

    for found in (first, second, third, fourth):
        assert [2, 2, 2] == [found[name] for name in names]
    assert not any('"b"' in each for each in second)
    assert 1 == fourth['route_matches_total{route="a",set="e"}']


async def test_counts_of_removed_routes_make_room(tmp_path: Path) -> None:
    """A node whose routes change all the time goes on counting them one by one."""
    async with http_node(tmp_path) as node:
        node.runtime.traffic = traffic = RouteTraffic(pairs_max=2)
        for turn in range(4):
            await put(node, f"a{turn}", f"the text of {turn}")
            await ask(node, f"the text of {turn}")
            await node.http.get("/-/traffic")
            await node.http.delete(f"/v1/routes/a{turn}")
        found = (await node.http.get("/-/traffic")).json()

    assert [] == found["pairs"]
    assert 0 == found["others"]
    assert {"default": {"matched": (4, 4.0)}} == traffic.outcomes()


def test_labels_are_kept_until_their_names_are_gone() -> None:
    labels = Labels(2)

    assert {"a", "b"} == labels.assign(["a", "b", "c"])
    assert {"a", "b"} == labels.assign(["c", "b", "a"])
    assert {"b"} == labels.assign(["b", "c"])
    assert {"b", "d"} == labels.assign(["b", "c", "d"])


def test_sum_of_vanishing_counters_never_falls() -> None:
    folded = FoldedSum()
    turns = [{"a": 3, "b": 2}, {"a": 4}, {"a": 1}, {}, {"a": 1, "b": 5}]

    assert [5, 6, 7, 7, 13] == [folded.total(dict(each)) for each in turns]


def test_render_of_many_routes_is_bounded() -> None:
    metrics, traffic = Metrics(), RouteTraffic()
    for number in range(5_000):
        name = f"s{number % 500}"
        match = Match(
            route=f"r{number}", reason="matched", confidence=0.5, version="1.1", route_set=name
        )
        traffic.count(match)
    figures = [SetFigures(f"s{number}", number, 1, 1, 1) for number in range(500)]
    metrics.watch_sets(lambda: figures, traffic, 50, 100)
    found = samples(metrics.render(has_sets=True).decode())
    matches = {each: n for each, n in found.items() if each.startswith("route_matches")}

    assert 100 + 51 == len(matches)
    assert 5_000 == sum(matches.values())
    assert 5_000 == sum(n for each, n in found.items() if each.startswith("set_answers"))

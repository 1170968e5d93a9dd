"""Weights of routes beside the text of a query."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from routers import bundled_router
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import PRIOR_ROUTES_MAX, Match, Route
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit

NAMES = ("billing", "shipping", "returns", "account")
UTTERANCES = {
    "billing": ["I have a question about my bill", "Why was I charged twice?"],
    "shipping": ["Where is my parcel?", "When does my order arrive?"],
    "returns": ["I want to send this back", "How do I return an item?"],
    "account": ["Reset my password", "Change my email address"],
}
TEXT = "I have a question about my order"


@pytest.fixture(scope="module")
def router() -> Iterator[AdaptiveRouter]:
    routes = [Route(name=name, utterances=texts) for name, texts in UTTERANCES.items()]
    with bundled_router(routes) as made:
        yield made


def ask(router: AdaptiveRouter, prior: dict[str, float] | None = None, **more: Any) -> Match:
    return router.query(TEXT, limit=4, explain=True, prior=prior, **more)


def shares(match: Match) -> dict[str, float]:
    return {each.route: each.confidence or 0.0 for each in match.candidates or ()}


def test_odds_are_multiplied(router: AdaptiveRouter) -> None:
    """Those of a route against every other outcome, no route included."""
    plain = ask(router)
    weighed = ask(router, {"returns": math.log(5), "billing": math.log(0.5)})
    before, after = shares(plain), shares(weighed)
    assert plain.p_none is not None
    assert weighed.p_none is not None
    total = plain.p_none + sum(
        share * {"returns": 5, "billing": 0.5}.get(name, 1) for name, share in before.items()
    )
    for name, factor in (("returns", 5), ("billing", 0.5), ("shipping", 1), ("account", 1)):
        assert after[name] == pytest.approx(before[name] * factor / total, rel=1e-9)
    assert weighed.p_none == pytest.approx(plain.p_none / total, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_strong_weight_leads_and_a_weak_one_trails(router: AdaptiveRouter, name: str) -> None:
    leads, trails = ask(router, {name: 20.0}), ask(router, {name: -20.0})
    assert leads.candidates is not None
    assert trails.candidates is not None
    assert leads.candidates[0].route == name
    assert leads.candidates[0].prior == 20.0
    assert leads.candidates[1].prior is None
    assert trails.candidates[-1].route == name
    scores = {each.route: each.score for each in ask(router).candidates or ()}
    assert {each.route: each.score for each in leads.candidates} == scores


@pytest.mark.parametrize("prior", [{}, {"billing": 0.0}, {"billing": 0}])
def test_no_weight_changes_nothing(router: AdaptiveRouter, prior: dict[str, float]) -> None:
    weighed, plain = ask(router, prior), ask(router)
    for each in weighed.candidates or ():
        each.prior = None
    assert weighed == plain


def test_a_prior_stays_within_the_filter(router: AdaptiveRouter) -> None:
    found = ask(router, {"billing": 20.0}, routes=["returns", "shipping"])
    assert set(shares(found)) == {"returns", "shipping"}


def test_equal_queries_get_equal_bits_in_any_batch(router: AdaptiveRouter) -> None:
    prior = {"returns": 1.5, "account": -2.25}
    assert ask(router, prior) == ask(router, prior)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"nowhere": 1.0}, "no route 'nowhere'"),
        ({"nowhere": 0.0}, "no route 'nowhere'"),
        ({"billing": 20.5}, "from -20 to 20"),
        ({"billing": math.nan}, "from -20 to 20"),
        ({"billing": math.inf}, "from -20 to 20"),
        ({"billing": True}, "numbers"),
        ({"billing": "1"}, "numbers"),
        ({"!": 1.0}, "letters"),
        ({f"r{at}": 1.0 for at in range(PRIOR_ROUTES_MAX + 1)}, "at most 100"),
        (["billing"], "prior"),
        (7, "prior"),
    ],
)
def test_malformed_prior_is_refused(router: AdaptiveRouter, prior: Any, message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        ask(router, prior)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


async def test_prior_over_http(node: HttpNode) -> None:
    async def post(path: str = "/v1/query", **body: Any) -> Any:
        answer = await node.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    text = "give me my parcel back"
    found = await post(text=text, prior={"refund": 20, "parcel": -20}, explain=True)
    other = await post(text=text, prior={"refund": -20, "parcel": 20}, explain=True)
    plain = await post(text=text, explain=True)
    batch = await post("/v1/query/batch", texts=[text], prior={"refund": 20}, explain=True)
    assert [found["candidates"][0]["route"], other["candidates"][0]["route"]] == [
        "refund",
        "parcel",
    ]
    assert found["candidates"][0]["prior"] == 20
    assert "prior" not in plain["candidates"][0]
    assert batch["matches"][0]["candidates"][0]["route"] == "refund"


@pytest.mark.parametrize(
    "prior", [{"nowhere": 1}, {"refund": 21}, {"refund": "1"}, {"refund": None}, [], "x", {"": 1}]
)
async def test_malformed_prior_is_422(node: HttpNode, prior: Any) -> None:
    answer = await node.http.post("/v1/query", json={"text": "x", "prior": prior})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_query"), answer.text
    assert "prior" in answer.json()["detail"]
    fine = await node.http.post("/v1/query", json={"text": "x", "prior": {"refund": 1}})
    assert fine.status_code == 200

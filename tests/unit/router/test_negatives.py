"""Negatives: texts that must not get a route."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from synaptoroute.encoder import Encoder
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit

NOT = "I do NOT want to cancel my order"
ROUTES = [
    Route(
        name="cancel",
        utterances=["Cancel my order", "I want to cancel my order", "Please stop my order"],
    ),
    Route(name="status", utterances=["Where is my order?", "When does my order arrive?"]),
    Route(name="refund", utterances=["I want my money back", "Give me a refund"]),
]


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    made = Encoder()
    yield made
    made.close()


@pytest.fixture
def router(encoder: Encoder) -> Iterator[AdaptiveRouter]:
    made = AdaptiveRouter(encoder)
    for each in ROUTES:
        made.add_route(each)
    yield made
    made.close()


def add_negatives(router: AdaptiveRouter, *negatives: str) -> None:
    router.add_route(ROUTES[0].model_copy(update={"negatives": list(negatives)}))


def test_negation_goes_right_once_it_is_a_negative(router: AdaptiveRouter) -> None:
    """With the real encoder; the route itself is still found."""
    assert router.query(NOT).route == "cancel"
    add_negatives(router, NOT)
    for text in (NOT, "i do not want to cancel my order", "I do not want to cancel my order!"):
        assert router.query(text).route != "cancel", text
    assert router.query("I'd like to cancel my order").route == "cancel"
    assert router.query("Where is my order?").route == "status"


@pytest.mark.parametrize("text", [NOT, "where is my parcel", "\U0001f44e", "x", "Cancel  MY order"])
def test_a_negative_never_gets_the_route(router: AdaptiveRouter, text: str) -> None:
    """Not alone, not with a prior, and not where every score passes."""
    changed = {"negatives": [text], "threshold": -1.0, "confidence_min": 0.0}
    router.add_route(ROUTES[0].model_copy(update=changed))
    options = ({}, {"routes": ["cancel"]}, {"prior": {"cancel": 20.0}})
    for each in options:
        match = router.query(text, explain=True, **each)  # type: ignore[call-overload]
        assert match.route != "cancel", each

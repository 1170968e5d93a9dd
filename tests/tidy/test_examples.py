"""The example routes and queries are valid."""

from __future__ import annotations

from collections import Counter

import pytest
import yaml

from repository import ROOT
from synaptoroute.core.mutation import AGGREGATIONS
from synaptoroute.importers import NO_ROUTE, read_labels
from synaptoroute.models import QUERY_BYTES_MAX, Route, check_text

pytestmark = pytest.mark.tidy

ROUTES_MIN = 12
UTTERANCES_PER_ROUTE_MIN = 8
QUERIES_MIN = 30


def routes() -> list[Route]:
    """Return the routes of the example file, validated as the API does."""
    document = yaml.safe_load((ROOT / "examples/routes.yaml").read_text(encoding="utf-8"))
    return [Route.model_validate(route) for route in document["routes"]]


def queries() -> list[tuple[str, str]]:
    """Return the example queries with their expected routes."""
    found = read_labels("queries.txt", (ROOT / "examples/queries.txt").read_bytes())
    return [(each.text, each.route or NO_ROUTE) for each in found]


def test_example_route_file_has_a_version_and_known_keys() -> None:
    """The file names its format."""
    document = yaml.safe_load((ROOT / "examples/routes.yaml").read_text(encoding="utf-8"))

    assert document["version"] == 1
    assert document.keys() <= {"version", "settings", "routes"}
    assert document.get("settings", {}).get("aggregation", "blend") in AGGREGATIONS


def test_example_routes_are_complete() -> None:
    """Enough routes, each with enough utterances, under distinct names."""
    names = [route.name for route in routes()]

    assert len(names) >= ROUTES_MIN
    assert len(names) == len(set(names))
    assert [] == [r.name for r in routes() if len(r.utterances) < UTTERANCES_PER_ROUTE_MIN]
    assert any(route.threshold is not None for route in routes())
    assert all(route.metadata and route.payload for route in routes())


def test_no_example_utterance_belongs_to_two_routes() -> None:
    """The same text in two routes would score the same for both."""
    counts = Counter(text.casefold() for route in routes() for text in route.utterances)

    assert [] == [text for text, count in counts.items() if count > 1]


def test_every_example_query_names_an_example_route() -> None:
    """A query names one route of the file, or none; every route has a query."""
    names = {route.name for route in routes()}
    expected = Counter(route for _, route in queries())

    assert names | {"-"} == expected.keys()
    assert sum(expected.values()) >= QUERIES_MIN
    assert expected["-"] >= 5


def test_no_example_query_is_an_utterance() -> None:
    """A query that is an utterance would show nothing."""
    known = {text.casefold() for route in routes() for text in route.utterances}
    texts = [check_text(query, QUERY_BYTES_MAX) for query, _ in queries()]

    assert len(texts) == len(set(texts))
    assert [] == [text for text in texts if text.casefold() in known]

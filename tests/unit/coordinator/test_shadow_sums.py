"""The coordinator adds up what nodes counted about the shadow of an alias."""

from __future__ import annotations

from typing import Any

import pytest

from synaptoroute_coordinator.app.promotions import summed

pytestmark = pytest.mark.unit


def report(node: str, **fields: Any) -> dict[str, Any]:
    return {
        "alias": "support",
        "node": node,
        "set": "v1",
        "shadow": "v2",
        "revision": "1.4",
        "shadow_revision": "1.5",
        "compared": 10,
        "agreed": 9,
        "disagreed": 1,
        "skipped": 1,
        "other": 0,
        "pairs": [{"answered": "a", "shadowed": None, "count": 1}],
        "sample": [],
        **fields,
    }


def test_counts_of_nodes_are_added_up() -> None:
    first = report("n1", sample=[{"text": "x", "at_ms": 1}])
    more = [{"answered": "a", "shadowed": None, "count": 2},
            {"answered": None, "shadowed": "b", "count": 5}]  # fmt: skip
    second = report("n2", compared=30, agreed=23, disagreed=7, pairs=more,
                    sample=[{"text": "y", "at_ms": 2}])  # fmt: skip
    found = summed(first, [first, second])

    assert (40, 32, 8, 2) == tuple(
        found[name] for name in ("compared", "agreed", "disagreed", "skipped")
    )
    assert (0.8, 2) == (found["agreement"], found["nodes"])
    assert [(None, "b", 5), ("a", None, 3)] == [
        (each["answered"], each["shadowed"], each["count"]) for each in found["pairs"]
    ]
    assert ["y", "x"] == [each["text"] for each in found["sample"]]


def test_counts_about_another_content_are_left_out() -> None:
    """A node that has not applied a change yet, and one that does not answer."""
    first = report("n1")
    found = summed(first, [first, report("n2", shadow_revision="1.3"), {}])

    assert (10, 1) == (found["compared"], found["nodes"])


def test_nothing_compared_has_no_agreement() -> None:
    first = report("n1", compared=0, agreed=0, disagreed=0, pairs=[])

    assert summed(first, [first])["agreement"] is None

"""A preview of a route says what queries get once it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from http_node import REFUND, HttpNode, http_node

pytestmark = pytest.mark.unit

TEXTS = ["give me my money back", "where is my parcel now", "zebra quantum violin", "Refund!"]


async def previewed(node: HttpNode, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The texts before and after a change."""
    answer = await node.http.post("/v1/preview", json={"texts": TEXTS, **body})
    assert 200 == answer.status_code, answer.text
    found: list[dict[str, Any]] = answer.json()["texts"]
    return found


async def answers(node: HttpNode) -> list[tuple[str | None, float | None, float | None]]:
    """Route, score and confidence of each text."""
    found = []
    for text in TEXTS:
        match = (await node.http.post("/v1/query", json={"text": text})).json()
        found.append((match["route"], match["score"], match["confidence"]))
    return found


def shown(texts: list[dict[str, Any]], key: str) -> list[tuple[Any, ...]]:
    """One side of a preview."""
    return [(each[key]["route"], each[key]["score"], each[key]["confidence"]) for each in texts]


async def test_preview_equals_the_answers_after_the_write(tmp_path: Path) -> None:
    """A new route, a changed one, and one that is deleted; exact texts included."""
    route = {"utterances": ["refund", "give me my money", "zebra"]}
    async with http_node(tmp_path) as node:
        await node.fill()
        before = await answers(node)
        new = await previewed(node, {"name": "new", "route": {"name": "new", **route}})
        changed = await previewed(node, {"name": "refund", "route": {"name": "refund", **route}})
        deleted = await previewed(node, {"name": "parcel", "route": None})
        await node.http.put("/v1/routes/new", json={"utterances": route["utterances"]})
        with_new = await answers(node)
        await node.http.delete("/v1/routes/new")
        await node.http.put("/v1/routes/refund", json={"utterances": route["utterances"]})
        with_changed = await answers(node)
        await node.http.put("/v1/routes/refund", json=REFUND)
        await node.http.delete("/v1/routes/parcel")
        without = await answers(node)

    for texts in (new, changed, deleted):
        assert before == shown(texts, "before")
    assert with_new == shown(new, "after")
    assert with_changed == shown(changed, "after")
    assert without == shown(deleted, "after")

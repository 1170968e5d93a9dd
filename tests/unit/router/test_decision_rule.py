"""Which route is the answer: thresholds, least confidences, and clients of earlier releases."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from synaptoroute.encoder import Encoder, HashEncoder

pytestmark = pytest.mark.unit

TEXT = "how do I get my money back"
OLD = {"aggregation": "blend", "topk": 3, "threshold": 0.49, "capacity_slots": 262_144}
"""What a client of an earlier release sends."""


@cache
def encoder() -> Encoder:
    """The bundled encoder."""
    found = Encoder(providers=["CPUExecutionProvider"])
    found.close = lambda: None  # type: ignore[method-assign]
    return found


ROUTES: dict[str, dict[str, Any]] = {
    "refund": {"utterances": ["I want a refund", "give me my money back", "refund my order"]},
    "parcel": {"utterances": ["where is my parcel", "track my order", "my package is late"]},
    "sign-in": {"utterances": ["I forgot my password", "I cannot log in", "reset my password"]},
}


async def ask(node: HttpNode, text: str = TEXT, **options: Any) -> dict[str, Any]:
    """The match of a text."""
    found: dict[str, Any] = (
        await node.http.post("/v1/query", json={"text": text, **options})
    ).json()
    return found


async def put(node: HttpNode, settings: dict[str, Any] | None = None, **route: Any) -> None:
    """Put the routes, with fields of ``refund``, and settings."""
    for name, body in ROUTES.items():
        more = route if name == "refund" else {}
        answer = await node.http.put(f"/v1/routes/{name}", json={**body, **more})
        assert answer.is_success, answer.text
    if settings is not None:
        current = (await node.http.get("/v1/settings")).json()
        answer = await node.http.put("/v1/settings", json={**current, **settings})
        assert answer.is_success, answer.text


async def test_new_database_decides_by_confidence(tmp_path: Path) -> None:
    """Every answer has one from the first write on; a least confidence refuses."""
    real: Any = await asyncio.to_thread(encoder)
    async with http_node(tmp_path, encoder=real) as node:
        await put(node)
        match = await ask(node, explain=True)
        foreign = await ask(node, "who won the football match on Sunday")
        least = (match["confidence"] + 1.0) / 2.0
        await put(node, {"confidence_min": least})
        strict = await ask(node)
        await put(node, confidence_min=0.1)
        lenient = await ask(node)

    assert ("refund", "matched", 0.5, None) == (
        match["route"],
        match["reason"],
        match["confidence_min"],
        match["threshold"],
    )
    shares = [each["confidence"] for each in match["candidates"]]
    assert sorted(shares, reverse=True) == shares
    assert 1.0 == pytest.approx(sum(shares) + match["p_none"])
    assert (None, "below_confidence") == (foreign["route"], foreign["reason"])
    assert foreign["confidence"] < 0.5
    assert (None, "below_confidence", least) == (
        strict["route"],
        strict["reason"],
        strict["confidence_min"],
    )
    assert ("refund", 0.1) == (lenient["route"], lenient["confidence_min"])
    assert strict["confidence"] == match["confidence"] == lenient["confidence"]


async def test_threshold_of_a_client_keeps_its_meaning(tmp_path: Path) -> None:
    """Settings without the new fields decide by the score alone; confidence is reported."""
    real: Any = await asyncio.to_thread(encoder)
    async with http_node(tmp_path, encoder=real) as node:
        await put(node)
        await node.http.put("/v1/settings", json=OLD)
        settings = (await node.http.get("/v1/settings")).json()
        match = await ask(node)
        far = await ask(node, "can somebody help me with this")
        await node.http.put("/v1/settings", json={**OLD, "threshold": 0.95})
        refused = await ask(node)

    assert OLD == {key: settings[key] for key in OLD}
    assert settings.get("confidence_min") is None
    assert ("matched", None, 0.49) == (match["reason"], match["confidence_min"], match["threshold"])
    assert match["score"] >= 0.49
    assert (None, "below_threshold") == (far["route"], far["reason"])
    assert far["score"] < 0.49
    assert (None, "below_threshold", 0.95) == (
        refused["route"],
        refused["reason"],
        refused["threshold"],
    )
    assert match["confidence"] == refused["confidence"]


async def test_threshold_and_confidence_both_apply(tmp_path: Path) -> None:
    """A route that has a threshold is judged by the score of ``blend`` as well."""
    real: Any = await asyncio.to_thread(encoder)
    async with http_node(tmp_path, encoder=real) as node:
        await put(node, threshold=0.99)
        match = await ask(node, limit=3)

    assert (None, "below_threshold", 0.99) == (
        match["route"],
        match["reason"],
        match["threshold"],
    )
    assert match["confidence"] >= 0.5
    assert not match["candidates"][0]["passed"]


async def test_encoder_without_numbers_is_judged_by_the_former_threshold(tmp_path: Path) -> None:
    """There is no confidence until a fit, and a new database does not match everything."""
    async with http_node(tmp_path, encoder=HashEncoder(64)) as node:
        await put(node)
        match = await ask(node, "give me my money back today")
        foreign = await ask(node, "zebra quantum violin")

    assert ("refund", None, 0.49) == (match["route"], match["confidence"], match["threshold"])
    assert (None, "below_threshold", None) == (
        foreign["route"],
        foreign["reason"],
        foreign["confidence"],
    )

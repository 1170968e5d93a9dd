"""Writes say which of their utterances do not work as one may expect."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

import pytest

from http_node import http_node
from routers import ConfusedEncoder, route, running
from synaptoroute.encoder import Encoder
from synaptoroute.router import AdaptiveRouter
from synaptoroute.router.text_warnings import WARNINGS_MAX

pytestmark = pytest.mark.unit


@cache
def encoder() -> Encoder:
    """The bundled encoder."""
    return Encoder(providers=["CPUExecutionProvider"])


async def test_write_names_utterances_that_are_not_understood(tmp_path: Path) -> None:
    """It is applied all the same; a write without any has no such field."""
    async with http_node(tmp_path, encoder=ConfusedEncoder()) as node:
        odd = await node.http.put("/v1/routes/up", json={"utterances": ["yes", "\U0001f44d"]})
        plain = await node.http.put("/v1/routes/a", json={"utterances": ["one", "two"]})
        added = await node.http.post(
            "/v1/routes/a/utterances", json={"utterances": ["\u6211\u60f3\u9000\u8d27", "YES."]}
        )

    assert (201, 201, 200) == (odd.status_code, plain.status_code, added.status_code)
    assert "warnings" not in plain.json()
    (emoji,) = odd.json()["warnings"]
    chinese, same = added.json()["warnings"]
    assert emoji.startswith("'\U0001f44d' matches only a query that equals it")
    assert "Cjk script" in chinese
    assert "multilingual" in chinese
    assert same.startswith("'YES.' is also an utterance of 'up'")


async def test_import_names_them_up_to_a_limit(tmp_path: Path) -> None:
    """A large import keeps its answer short."""
    async with http_node(tmp_path, encoder=ConfusedEncoder()) as node:
        texts = [chr(0x1F600 + n) for n in range(2 * WARNINGS_MAX)]
        body = {"routes": [{"name": "a", "utterances": texts}]}
        answer = await node.http.post("/v1/import", json=body)
    warnings = answer.json()["warnings"]

    assert WARNINGS_MAX == len(warnings)
    assert warnings[-1].startswith(f"and {WARNINGS_MAX + 1} more")


def test_router_that_is_not_started_warns_too() -> None:
    """The library's inline path."""
    router = AdaptiveRouter(ConfusedEncoder())
    router.add_route(route("a", "one"))
    result = router.add_route(route("b", "One", "\U0001f44d"))
    router.close()

    assert 2 == len(result.warnings)


async def test_bundled_encoder_warns_of_what_it_cannot_read() -> None:
    """Accents and digits give no warning."""
    real = await asyncio.to_thread(encoder)
    async with running(encoder=real) as router:  # type: ignore[arg-type]
        fine = await router.aput_route(
            route("a", "o\u00f9 est ma commande", "ORD-1234", "5 \u20ac")
        )
        odd = await router.aput_route(route("b", "a" * 110, "\U0001f44e", "\u0e04\u0e37\u0e19"))

    assert [] == fine.warnings
    assert 3 == len(odd.warnings)
    assert "Thai script" in odd.warnings[2]

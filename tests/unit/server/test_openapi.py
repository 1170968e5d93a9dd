"""The OpenAPI document and docs/api.md, against each other and against the application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from http_node import HttpNode, http_node
from metric_names import exposition, families
from synaptoroute.models import Route
from synaptoroute.server.responses import REQUEST_MODELS
from synaptoroute.web.problems import STATUS_BY_CODE

pytestmark = pytest.mark.unit

API_MD = Path(__file__).parents[3] / "docs" / "api.md"
MODELS: dict[str, Any] = {model.__name__: model for model in REQUEST_MODELS}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every (method, path, operation)."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


async def test_document_is_served_and_complete(node: HttpNode) -> None:
    """Every reference resolves, every operation is described and has its problems."""
    answer = await node.http.get("/v1/openapi.json")
    document = answer.json()
    references = set(re.findall(r'"\$ref":\s*"#/components/schemas/([^"]+)"', answer.text))

    assert references <= document["components"]["schemas"].keys()
    assert "3.1" == document["openapi"][:3]
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert operation["tags"], (method, path)
        assert any(status.startswith(("4", "5")) for status in operation["responses"])
        for status, response in operation["responses"].items():
            if status[0] in "45" and (status, path) != ("503", "/readyz"):
                kind = "json" if path == "/v1/decisions" else "problem+json"
                assert [f"application/{kind}"] == list(response["content"]), (path, status)


async def test_every_example_of_a_body_is_accepted(node: HttpNode) -> None:
    """The server accepts each example of the document."""
    document = (await node.http.get("/v1/openapi.json")).json()
    checked = 0
    for _, _, operation in operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        name = (body or {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
        if name == "RouteBody":
            Route.model_validate({"name": "x", **body["example"]}, strict=True)
            checked += 1
        elif name:
            TypeAdapter(MODELS[name]).validate_python(body["example"], strict=True)
            checked += 1

    assert 33 == checked


async def test_guide_lists_every_endpoint(node: HttpNode) -> None:
    """docs/api.md names exactly the methods and paths of the application."""
    document = (await node.http.get("/v1/openapi.json")).json()
    served = {f"{method} {path}" for method, path, _ in operations(document)}
    served.add("GET /v1/openapi.json")
    written = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`\s?]*)", API_MD.read_text()))

    assert served == written


def test_guide_lists_every_error_code() -> None:
    """docs/api.md lists each error code with its status."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", API_MD.read_text(), re.MULTILINE))

    assert {code: str(status) for code, status in STATUS_BY_CODE.items()} == rows


def test_guide_lists_every_metric() -> None:
    """docs/api.md names exactly the metrics of a cluster member."""
    written = set(re.findall(r"^\| `(synaptoroute_\w+)` \|", API_MD.read_text(), re.MULTILINE))

    assert families(exposition()) == written


async def test_standalone_node_has_no_metrics_of_the_log(node: HttpNode) -> None:
    """A standalone node leaves out metrics that it never measures."""
    await node.http.post("/v1/query", json={"text": "a"})
    found = families((await node.http.get("/metrics")).text)
    measured = families(await asyncio.to_thread(exposition))  # It reads certificates

    assert found < measured
    assert "synaptoroute_log_state" not in found

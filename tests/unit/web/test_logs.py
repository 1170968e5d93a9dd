"""The log of a node: one line a request, without texts."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from http_node import HttpNode, http_node, logged
from synaptoroute.server.middleware import NodePolicy
from synaptoroute.web.middleware import RequestContext

pytestmark = pytest.mark.unit


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """The log of the process, restored afterwards."""
    with logged() as stream:
        yield stream


async def test_query_texts_are_not_logged_at_info(node: HttpNode, log_lines: io.StringIO) -> None:
    """One line a request, with its id, status and duration, and without its text.

    Queries that were answered are counted, and have lines at debug level only.
    """
    await node.http.post("/v1/query", json={"text": "my account number is 12345678"})
    await node.http.post("/v1/query", json={"text": "xyzzy", "oops": 1})
    await node.http.put("/v1/routes/w", json={"utterances": ["plugh plover"]})
    lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    requests = [line for line in lines if line["message"] == "request"]

    assert ["/v1/query", "/v1/query", "/v1/routes/w"] == [line["path"] for line in requests]
    assert [200, 422, 201] == [line["status"] for line in requests]
    assert ["debug", "info", "info"] == [line["level"] for line in requests]
    assert all(line["request_id"] and line["duration_ms"] >= 0 for line in requests)
    for word in ("12345678", "xyzzy", "plugh"):
        assert word not in log_lines.getvalue()


async def test_query_texts_are_logged_only_if_enabled(
    tmp_path: Path, log_lines: io.StringIO
) -> None:
    """``log_queries`` writes them, at debug level."""
    async with http_node(tmp_path, log_queries=True) as node:
        await node.http.post("/v1/query", json={"text": "xyzzy"})
    (line,) = [line for line in log_lines.getvalue().splitlines() if "xyzzy" in line]

    assert "debug" == json.loads(line)["level"]


@pytest.mark.parametrize(("status", "level"), [(200, "debug"), (401, "info")])
async def test_questions_of_peers_are_logged_at_info_only_if_refused(
    node: HttpNode, log_lines: io.StringIO, status: int, level: str
) -> None:
    """Every node asks the voters every few seconds."""
    context = RequestContext(None)
    context.endpoint, context.status = "/peer/v1/head", status
    NodePolicy(node.runtime).finished("GET", "/peer/v1/head", None, context)
    (line,) = [json.loads(line) for line in log_lines.getvalue().splitlines()]

    assert level == line["level"]


async def test_probes_are_not_logged_at_info(node: HttpNode, log_lines: io.StringIO) -> None:
    """Probes are too frequent for the log."""
    await node.http.get("/livez")
    (line,) = [json.loads(line) for line in log_lines.getvalue().splitlines()]

    assert ("debug", "/livez") == (line["level"], line["path"])

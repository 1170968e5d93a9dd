"""Traces from a program through its client to the node, with the real OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider

from processes import NodeProcess
from span_collector import SpanCollector
from synaptoroute.client import AsyncClient, Client

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


@pytest.fixture
def node(tmp_path: Path, collector: SpanCollector) -> Iterator[NodeProcess]:
    """A node that sends its spans there."""
    made = NodeProcess(tmp_path, {"model": "test-hash-64"})
    made.variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_SERVICE_NAME": "router-of-the-shop",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
    }
    yield made.start()
    made.end()


@pytest.fixture
def collector() -> Iterator[SpanCollector]:
    """A collector that runs during the test."""
    started = SpanCollector()
    yield started
    started.close()


def test_trace_goes_from_the_program_to_the_node(
    node: NodeProcess, collector: SpanCollector
) -> None:
    """The span of each request has the span of the program as its parent."""
    tracer = TracerProvider().get_tracer("program")

    async def ask() -> None:
        async with AsyncClient(node.url, api_key="") as client:
            await client.query("my private words")

    with Client(node.url, api_key="") as client:
        with tracer.start_as_current_span("handle a message") as own:
            client.put_route({"name": "a", "utterances": ["one"]})
            client.query("one")
            asyncio.run(ask())
        client.query("outside of the span")
    foreign = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    httpx.get(f"{node.url}/v1/routes", headers={"traceparent": foreign})
    assert 0 == node.stop()
    context = own.get_span_context()
    spans = [span for span in collector.spans() if span.kind == 2]  # of the server
    inside = [span for span in spans if span.trace_id == context.trace_id.to_bytes(16, "big")]
    parents = {span.parent_span_id for span in inside}
    (of_header,) = [span for span in spans if span.trace_id == bytes.fromhex("ab" * 16)]
    named = {
        each.key: each.value.string_value
        for resource in collector.resources()
        for each in resource.resource.attributes
    }

    assert sorted(span.name for span in inside) == [
        "POST /v1/query",
        "POST /v1/query",
        "PUT /v1/routes/{name}",
    ]
    assert parents == {context.span_id.to_bytes(8, "big")}
    assert (of_header.name, of_header.parent_span_id) == ("GET /v1/routes", bytes.fromhex("cd" * 8))
    assert len(spans) == 5
    assert named["service.name"] == "router-of-the-shop"
    assert named["deployment.environment"] == "test"
    assert b"private" not in b"".join(collector.bodies)

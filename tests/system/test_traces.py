"""One trace from a client through nodes, Redis, peers and the coordinator, as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from needs import require_valkey
from node_cluster import Cluster, cluster_on, until
from processes import CoordinatorProcess
from servers import Server
from span_collector import SpanCollector

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ROUTE, TEXT, UTTERANCE = "plumless-name", "quixotic text", "zebrine utterance"
SERVER, CLIENT = 2, 3


@pytest.fixture(scope="module")
def collector() -> Iterator[SpanCollector]:
    started = SpanCollector()
    yield started
    started.close()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, collector: SpanCollector
) -> Iterator[Cluster]:
    """Two nodes that send their spans to the collector, and their Valkey."""
    folder = tmp_path_factory.mktemp("traces")
    server = Server("valkey", require_valkey(), folder / "valkey", {"appendonly": "yes"}).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        try:
            with cluster_on(folder / "nodes", server, 2) as started:
                yield started
        finally:
            server.stop()


def send(
    url: str, number: int, method: str, path: str, body: Any = None, *, sampled: bool = True
) -> tuple[str, httpx.Response]:
    """Send a request as a part of a trace; returns the trace and the response."""
    trace_id = f"{number:032x}"
    header = f"00-{trace_id}-{'cd' * 8}-0{int(sampled)}"
    with httpx.Client(trust_env=False, timeout=60.0) as client:
        answer = client.request(method, url + path, json=body, headers={"traceparent": header})
    return trace_id, answer


def servers_of(collector: SpanCollector, trace_id: str) -> list[Any]:
    """The spans of requests in a trace, by their begin."""
    return [span for _, span in collector.of_trace(trace_id) if span.kind == SERVER]


def finished(collector: SpanCollector, trace_id: str, *processes: str) -> list[Any]:
    """The spans of a trace once the request's own span of each process has arrived."""

    def is_whole() -> bool:
        ended = {name for name, span in collector.of_trace(trace_id) if span.kind == SERVER}
        return ended >= set(processes)

    until(is_whole, seconds=60)
    return collector.of_trace(trace_id)


def test_write_is_one_trace_down_to_redis(cluster: Cluster, collector: SpanCollector) -> None:
    """Each step of a write has a span below that of its request."""
    url = cluster.members[0].process.url
    body = {"utterances": [UTTERANCE]}
    trace_id, answer = send(url, 1, "PUT", f"/v1/routes/{ROUTE}?ack=all&ack_timeout=60", body)
    spans = finished(collector, trace_id, "n0")
    (request,) = [span for _, span in spans if span.kind == SERVER]
    below = [span for _, span in spans if span.kind != SERVER]

    assert 201 == answer.status_code
    assert ("PUT /v1/routes/{name}", "cd" * 8) == (request.name, request.parent_span_id.hex())
    assert {request.span_id} == {span.parent_span_id for span in below}
    names = {span.name for span in below}
    assert {"validate", "encode", "append", "apply", "await_acks", "EVALSHA append"} <= names


def test_query_is_one_trace_with_its_steps(cluster: Cluster, collector: SpanCollector) -> None:
    """The wait in the queue, the tokens, the encoding and the scores have a span each."""
    url = cluster.members[0].process.url
    trace_id, answer = send(url, 2, "POST", "/v1/query", {"text": TEXT})
    names = [span.name for _, span in finished(collector, trace_id, "n0")]

    assert 200 == answer.status_code
    assert "POST /v1/query" == names[0]
    assert {"parse", "queue", "tokenize", "encode", "score"} == set(names[1:])


def test_read_of_the_head_is_one_trace_with_the_peer(
    cluster: Cluster, collector: SpanCollector
) -> None:
    """The node that is asked continues the trace of the node that asks."""
    url = cluster.members[0].process.url
    trace_id, answer = send(url, 3, "GET", f"/v1/routes/{ROUTE}?consistency=head")
    spans = finished(collector, trace_id, "n0", "n1")
    asked = [span for name, span in spans if name == "n1" and span.kind == SERVER]
    calls = {
        span.span_id: span.name for name, span in spans if name == "n0" and span.kind == CLIENT
    }

    assert 200 == answer.status_code
    assert "EVALSHA head" in calls.values()
    assert all(span.parent_span_id in calls for span in asked)
    assert "/peer/v1/head" in {span.name.partition(" ")[2] for span in asked}


def test_coordinator_passes_its_span_to_the_node(
    cluster: Cluster, collector: SpanCollector, tmp_path: Path
) -> None:
    """Client, coordinator and node are three spans, each below the one before."""
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url)
    try:
        coordinator.start()
        coordinator.until(lambda: send(coordinator.url, 4, "GET", "/v1/routes")[1].is_success, 60)
        trace_id, answer = send(coordinator.url, 5, "GET", f"/v1/routes/{ROUTE}")
        until(lambda: len(servers_of(collector, trace_id)) == 2, seconds=60)
    finally:
        coordinator.end()
    first, second = servers_of(collector, trace_id)
    calls = [span for _, span in collector.of_trace(trace_id) if span.name == "GET"]

    assert 200 == answer.status_code
    assert "cd" * 8 == first.parent_span_id.hex()
    assert {first.span_id} == {call.parent_span_id for call in calls}
    assert second.parent_span_id in {call.span_id for call in calls}
    assert ["GET /v1/routes/{name}"] * 2 == [first.name, second.name]


def test_unsampled_trace_has_no_spans(cluster: Cluster, collector: SpanCollector) -> None:
    """The client's decision holds in every process."""
    url = cluster.members[0].process.url
    unsampled, _ = send(url, 6, "GET", f"/v1/routes/{ROUTE}?consistency=head", sampled=False)
    sampled, _ = send(url, 7, "GET", "/v1/routes")
    finished(collector, sampled, "n0")

    assert [] == collector.of_trace(unsampled)


def test_spans_hold_no_names_and_no_texts(cluster: Cluster, collector: SpanCollector) -> None:
    """Neither attributes nor names of spans; the tests above have sent all of them."""
    sent = b"".join(collector.bodies)

    assert b"/v1/routes/{name}" in sent
    assert [] == [word for word in (ROUTE, TEXT, UTTERANCE) if word.encode() in sent]

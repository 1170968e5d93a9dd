"""Which variables of OpenTelemetry make a server trace, and which requests have a span."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from synaptoroute.config import is_tracing_requested
from synaptoroute.errors import ConfigError
from synaptoroute.tracing import SPANS_MAX
from synaptoroute.web.tracing import RequestTracer, end_request, read_headers, start_tracing

pytestmark = pytest.mark.unit

ENDPOINT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
PARENT = {b"traceparent": b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"}


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> RequestTracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return RequestTracer(provider.get_tracer("test"))


@pytest.mark.parametrize(
    ("variables", "is_requested"),
    [
        ((), False),
        ((ENDPOINT,), True),
        ((("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces"),), True),
        ((("OTEL_TRACES_EXPORTER", "otlp"),), True),
        ((ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")), False),
        ((ENDPOINT, ("OTEL_SDK_DISABLED", "true")), False),
        ((ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")), True),
    ],
)
def test_standard_variables_ask_for_traces(
    monkeypatch: pytest.MonkeyPatch, variables: tuple[tuple[str, str], ...], is_requested: bool
) -> None:
    for name, value in variables:
        monkeypatch.setenv(name, value)

    assert is_requested == is_tracing_requested()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
def test_exporters_that_a_server_lacks_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Spans that go nowhere would be noticed when they are needed."""
    monkeypatch.setenv(*ENDPOINT)
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=value):
        start_tracing("test")


def test_headers_of_the_receiver_come_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A Secret is a file, and never a variable."""
    monkeypatch.setenv(*ENDPOINT)
    path = tmp_path / "headers"
    with pytest.raises(ConfigError, match="cannot read"):
        start_tracing("test", headers_file=path)
    path.write_text("no pair")
    with pytest.raises(ConfigError, match="name=value"):
        start_tracing("test", headers_file=path)
    path.write_text("Authorization=Bearer%20x=, tenant=a\n")
    assert {"authorization": "Bearer x=", "tenant": "a"} == read_headers(path)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*ENDPOINT)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(ConfigError, match=r"synaptoroute-cluster\[otel\]"):
        start_tracing("test")


@pytest.mark.parametrize(
    ("path", "headers", "is_traced"),
    [
        ("/v1/query", {}, True),
        ("/readyz", PARENT, False),
        ("/metrics", {}, False),
        ("/peer/v1/head", {}, False),
        ("/peer/v1/head", PARENT, True),
        ("/v1/routes", {b"sr-proof": b"p"}, False),
    ],
)
def test_members_are_traced_only_on_behalf_of_a_client(
    tracer: RequestTracer, path: str, headers: dict[bytes, bytes], is_traced: bool
) -> None:
    """Most spans would be of requests that members make by themselves."""
    assert is_traced == (tracer.begin("GET", path, headers, None) is not None)


def test_spans_below_a_request_are_bounded(
    tracer: RequestTracer, exported: InMemorySpanExporter
) -> None:
    span = tracer.begin("PUT", "/v1/routes/private-name", PARENT, ("10.0.0.1", 9))
    assert span is not None
    for _ in range(SPANS_MAX + 10):
        span.mark("append")
    end_request(span, "PUT", "/v1/routes/{name}", 503)
    spans = exported.get_finished_spans()

    assert SPANS_MAX + 1 == len(spans)
    assert "PUT /v1/routes/{name}" == spans[-1].name
    assert "private-name" not in "".join(each.to_json() for each in spans)


def test_unsampled_request_passes_its_decision_on(tracer: RequestTracer) -> None:
    parent = PARENT[b"traceparent"][:-1] + b"0"
    span = tracer.begin("GET", "/v1/routes", {b"traceparent": parent}, None)
    assert span is not None

    assert (False, None) == (span.is_recorded, span.child("GET", "CLIENT"))
    assert span.headers()["traceparent"].endswith("-00")


def test_methods_are_bounded(tracer: RequestTracer, exported: InMemorySpanExporter) -> None:
    """A client chooses the method, so it is no name of a span."""
    span = tracer.begin("SECRET", "/", {}, None)
    assert span is not None
    end_request(span, "SECRET", "unmatched", 405)

    assert ["_OTHER"] == [each.name for each in exported.get_finished_spans()]

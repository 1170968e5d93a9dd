"""OpenTelemetry, where the operator asks for it and the extra ``otel`` is installed.

Its own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and the others) are read by its
own library; this room only looks whether an endpoint is named at all.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from fastapi import FastAPI

from synaptoroute.config import is_tracing_enabled
from synaptoroute.version import __version__
from synaptoroute.web.logs import server_log

UNTRACED: Final = "livez,readyz,metrics"
SERVICE_NAME: Final = "synaptoroute"


def start_tracing(app: FastAPI) -> Callable[[], None]:
    """Trace every request but the probes; returns what ends it.

    Without the packages the node serves as well, and says so once in its log.
    """
    if not is_tracing_enabled():
        return _nothing
    try:
        trace = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        fastapi = import_module("opentelemetry.instrumentation.fastapi")
    except ImportError as error:
        server_log().warning("tracing_unavailable", missing=error.name, extra="otel")
        return _nothing
    resource = resources.Resource.create(
        {"service.name": SERVICE_NAME, "service.version": __version__}
    )
    provider: Any = trace.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    fastapi.FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls=UNTRACED
    )

    def end() -> None:
        fastapi.FastAPIInstrumentor.uninstrument_app(app)
        provider.shutdown()

    return end


def _nothing() -> None:
    """There is nothing to end."""

"""OpenTelemetry in a server: its start, and the span of each request.

The variables of OpenTelemetry (``OTEL_EXPORTER_OTLP_ENDPOINT`` and the others) are read by its own
library.  The instrumentations of the frameworks are not used: they record the path of each
request, in which names of routes stand, and keep requests from the direct handlers.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from synaptoroute.config import is_tracing_requested
from synaptoroute.errors import ConfigError
from synaptoroute.tracing import Span
from synaptoroute.trust.requests import PROOF_HEADER
from synaptoroute.version import __version__
from synaptoroute.web.http_parser import Address

TRACEPARENT_KEY: Final = b"traceparent"
_PROOF_KEY: Final = PROOF_HEADER.lower().encode()
UNTRACED_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_CONTEXT_BYTES_MAX: Final = 4_096
_HEADERS_CHARACTERS_MAX: Final = 65_536


class RequestTracer:
    """Makes the span of each request.

    Args:
        tracer: A tracer of OpenTelemetry.
    """

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._extract = import_module("opentelemetry.propagate").extract
        self._server = import_module("opentelemetry.trace").SpanKind.SERVER

    def begin(
        self, method: str, path: str, headers: Mapping[bytes, bytes], client: Address | None
    ) -> Span | None:
        """Begin the span of a request, below that of its client if it names one.

        Returns:
            None for probes, and for what members of the cluster ask each other by themselves.
        """
        if path in UNTRACED_PATHS:
            return None
        is_of_member = path.startswith("/peer/") or _PROOF_KEY in headers
        if is_of_member and TRACEPARENT_KEY not in headers:
            return None
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers.items()
            if len(value) <= _CLIENT_CONTEXT_BYTES_MAX
        }
        method = method if method in _METHODS else "_OTHER"
        attributes = {"http.request.method": method}
        if client is not None:
            attributes["client.address"] = client[0]
        own = self._tracer.start_span(
            method, context=self._extract(carrier), kind=self._server, attributes=attributes
        )
        return Span(self._tracer, own)


def end_request(span: Span, method: str, endpoint: str, status: int) -> None:
    """End the span of a request.

    Args:
        endpoint: Template of its path; ``unmatched`` if no endpoint has it.
        status: That of the response; 499 if the client went away before it.
    """
    method = method if method in _METHODS else "_OTHER"
    attributes: dict[str, str | int | bool] = {"http.response.status_code": status}
    name = method
    if endpoint != "unmatched":
        attributes["http.route"] = endpoint
        name = f"{method} {endpoint}"
    if status >= 500:
        attributes["error.type"] = str(status)
    span.end(name, attributes, is_failed=status >= 500)


class Tracing:
    """A running export of spans.

    Attributes:
        tracer: Makes the spans of requests.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.tracer = RequestTracer(provider.get_tracer("synaptoroute", __version__))

    def close(self) -> None:
        """Send what is left, and end."""
        self._provider.shutdown()


def read_headers(path: Path) -> dict[str, str]:
    """Read the headers of the requests that send spans.

    The file has the form of ``OTEL_EXPORTER_OTLP_HEADERS``, ``name=value`` separated by commas,
    so that credentials need not be in a variable.

    Raises:
        ConfigError: The file cannot be read, or is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")[:_HEADERS_CHARACTERS_MAX]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the headers of the receiver of spans: {error}") from error
    pairs = [each.partition("=") for each in text.strip().split(",") if each.strip()]
    if not pairs or not all(name.strip() and equals for name, equals, _ in pairs):
        raise ConfigError(f"{path} must hold name=value, separated by commas")
    return {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}


def start_tracing(
    service: str, instance: str = "", headers_file: Path | None = None
) -> Tracing | None:
    """Start to export spans, if OpenTelemetry's variables ask for it.

    Args:
        service: The default of ``OTEL_SERVICE_NAME``.
        instance: What tells the processes of a service apart; empty for the name of the host.
        headers_file: File of the receiver's credentials, see ``read_headers``.

    Raises:
        ConfigError: The extra ``otel`` is not installed, or a variable is malformed.
    """
    if not is_tracing_requested():
        return None
    headers = None if headers_file is None else read_headers(headers_file)
    try:
        trace = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        import_module("opentelemetry.propagate")
    except ImportError as error:
        raise ConfigError(
            f"OpenTelemetry's variables ask for traces, and {error.name} is not installed: "
            "pip install 'synaptoroute-cluster[otel]', or set OTEL_SDK_DISABLED=true"
        ) from error
    except ValueError as error:  # OTEL_PROPAGATORS names one that is not installed
        raise ConfigError(f"a variable of OpenTelemetry is malformed: {error}") from error
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before our own names.
    named = resources.OTELResourceDetector().detect().attributes
    resource = resources.Resource.create(
        {
            "service.name": service,
            "service.version": __version__,
            "service.instance.id": instance or socket.gethostname(),
            **named,
        }
    )
    try:
        provider = trace.TracerProvider(resource=resource)
        provider.add_span_processor(
            export.BatchSpanProcessor(otlp.OTLPSpanExporter(headers=headers))
        )
    except ValueError as error:
        raise ConfigError(f"a variable of OpenTelemetry is malformed: {error}") from error
    return Tracing(provider)

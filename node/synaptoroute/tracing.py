"""Spans of the running request; nothing of it runs unless the process is traced.

A span has names of steps, counts and codes, never a text, a key or the name of a route.  All
spans of a process are direct children of the span of their request.

``web.tracing`` starts OpenTelemetry and makes the spans of requests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final, Literal, TypeAlias

SPANS_MAX: Final = 128
"""Spans below one request; a large import has no more."""

Attributes: TypeAlias = Mapping[str, "str | int | bool"]
Kind: TypeAlias = Literal["INTERNAL", "CLIENT"]


class Span:
    """The span of one request, and what makes those below it.

    Used on the event loop.

    Attributes:
        is_recorded: Whether the request is sampled.
        marked_ns: When its last step ended; nanoseconds since 1970.

    Args:
        tracer: A tracer of OpenTelemetry.
        own: Its span of the request.
    """

    __slots__ = ("_left", "_own", "_parent", "_tracer", "is_recorded", "marked_ns")

    def __init__(self, tracer: Any, own: Any) -> None:
        self._tracer = tracer
        self._own = own
        self._parent = import_module("opentelemetry.trace").set_span_in_context(own)
        self.marked_ns = time.time_ns()
        self._left = SPANS_MAX
        self.is_recorded: bool = own.is_recording()

    def mark(self, name: str, **attributes: str | int | bool) -> None:
        """Record the step that ends now; it began where the step before it ended."""
        now = time.time_ns()
        self.record(name, self.marked_ns, now, attributes)
        self.marked_ns = now

    def record(
        self,
        name: str,
        since_ns: int,
        until_ns: int,
        attributes: Attributes | None = None,
        kind: Kind = "INTERNAL",
    ) -> None:
        """Record a step that has ended; times are nanoseconds since 1970."""
        span = self.child(name, kind, attributes, since_ns)
        if span is not None:
            span.end(until_ns)

    def child(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes | None = None,
        since_ns: int | None = None,
    ) -> Any:
        """Begin a span of OpenTelemetry; None if the request is not sampled or has too many."""
        if not self.is_recorded or not self._left:
            return None
        self._left -= 1
        return self._tracer.start_span(
            name,
            context=self._parent,
            kind=import_module("opentelemetry.trace").SpanKind[kind],
            attributes=attributes,
            start_time=since_ns,
        )

    def headers(self, child: Any = None) -> dict[str, str]:
        """Headers with which another process continues the trace, below a child if there is one."""
        context = self._parent
        if child is not None:
            context = import_module("opentelemetry.trace").set_span_in_context(child, context)
        carrier: dict[str, str] = {}
        import_module("opentelemetry.propagate").inject(carrier, context)
        return carrier

    def end(self, name: str, attributes: Attributes, *, is_failed: bool) -> None:
        """End the request under its final name."""
        self._own.update_name(name)
        self._own.set_attributes(attributes)
        if is_failed:
            fail(self._own)
        self._own.end()


def fail(span: Any, kind: str = "") -> None:
    """Mark a span of OpenTelemetry as failed.

    Args:
        kind: Class or code of the error; its message may hold what a client sent.
    """
    trace = import_module("opentelemetry.trace")
    span.set_status(trace.Status(trace.StatusCode.ERROR))
    if kind:
        span.set_attribute("error.type", kind)


SPAN: Final[ContextVar[Span | None]] = ContextVar("synaptoroute_span", default=None)
"""Span of the running request; None where the process is not traced, and between requests."""

"""Refusals that only exist at the HTTP door, each with a stable code.

They belong to the tree of ``synaptoroute.errors`` as the caller's fault: nothing
behind the door ever sees such a request.
"""

from __future__ import annotations

from synaptoroute.errors import RouteError


class MalformedBody(RouteError):
    """The body is not what its content type says."""

    code = "malformed_body"


class InvalidParameter(RouteError):
    """A query parameter, a header or the path holds what it must not."""

    code = "invalid_parameter"


class Unauthorized(RouteError):
    """No API key, or one that this node does not know."""

    code = "unauthorized"


class Forbidden(RouteError):
    """The API key lacks the scope."""

    code = "forbidden"


class EndpointNotFound(RouteError):
    """No endpoint at this path."""

    code = "not_found"


class OperationNotFound(RouteError):
    """No write of this identity inside the idempotency window."""

    code = "operation_not_found"


class MethodNotAllowed(RouteError):
    """The endpoint exists, but not for this method."""

    code = "method_not_allowed"


class NotAcceptable(RouteError):
    """None of the formats that the client accepts can be given."""

    code = "not_acceptable"


class UnsupportedMediaType(RouteError):
    """The body's content type or encoding is not read here."""

    code = "unsupported_media_type"


class RequestTimeout(RouteError):
    """The body did not arrive in time."""

    code = "request_timeout"


class ClientGone(RouteError):
    """The client closed the connection before its answer; nobody reads this."""

    code = "client_gone"

"""Errors of a client: one class for each kind of answer, with the stable code of the server.

ClientError
├── ConnectionFailed     no address answered, or the answer was lost
├── CallTimeout          the time of the call passed
├── UnexpectedAnswer     what answered is not a node, or an answer that cannot be read
└── ApiError             a node answered with a problem document
├── BadRequest       400 and other 4xx: the request is malformed
├── AuthenticationFailed  401
├── PermissionDenied      403
├── NotFound              404
├── Conflict              409
├── PreconditionFailed    412
├── TooLarge              413
├── InvalidRequest        422
├── Overloaded            429
├── ServerFailed          500 and other 5xx
├── Unavailable           503
└── DeadlinePassed        504
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

Outcome = Literal["not_taken", "unknown"]


class ClientError(Exception):
    """A call failed.

    Attributes:
        code: Stable, machine-readable name of the error.
        message: One sentence for the reader.
        status: HTTP status; None if no node answered.
        retry_after_seconds: When the server asks to try again; None if it does not say.
        outcome: Of a failed write: ``not_taken``, or ``unknown`` if it may still be applied.
            The same call with the same ``idempotency_key`` settles it.  None for a read, and
            for a write that the server refused.
        idempotency_key: Key with which a write was sent; None for a read.
        request_id: Name of the request in the log of the node; empty if no node answered.
        node: Identity of the node that answered; empty if none did.
        problem: The problem document; empty if there is none.
    """

    code: str = "client_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        outcome: Outcome | None = None,
        idempotency_key: str | None = None,
        request_id: str = "",
        node: str = "",
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.outcome = outcome
        self.idempotency_key = idempotency_key
        self.request_id = request_id
        self.node = node
        self.problem = dict(problem or {})

    @property
    def evidence(self) -> dict[str, Any] | None:
        """Measurements of the gate of a promotion, of ``gate_failed``; else None."""
        return self.problem.get("evidence")

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ConnectionFailed(ClientError):
    """No address answered, or the answer was lost."""

    code = "connection_failed"


class CallTimeout(ClientError):
    """The time of the call passed before there was an answer."""

    code = "call_timeout"


class UnexpectedAnswer(ClientError):
    """The answer cannot be read, or is not from a node."""

    code = "unexpected_answer"


class ApiError(ClientError):
    """A node answered with a problem document."""


class BadRequest(ApiError):
    """The request is malformed."""


class AuthenticationFailed(ApiError):
    """No API key, or an unknown, revoked or expired one."""


class PermissionDenied(ApiError):
    """The API key lacks the scope."""


class NotFound(ApiError):
    """The route, import, item or endpoint does not exist."""


class Conflict(ApiError):
    """The request contradicts the present state."""


class PreconditionFailed(ApiError):
    """The revision is not the expected one; ``problem["current"]`` is the present one."""


class TooLarge(ApiError):
    """A size, count or length is over ``problem["limit"]``."""


class InvalidRequest(ApiError):
    """A field is invalid; ``problem["errors"]`` lists the fields."""


class Overloaded(ApiError):
    """The node has more work than it can do in time."""


class ServerFailed(ApiError):
    """The node failed; its log has the details."""


class Unavailable(ApiError):
    """The same request may succeed later."""


class DeadlinePassed(ApiError):
    """The node had no answer before the deadline."""


_CLASS_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: TooLarge,
    422: InvalidRequest,
    429: Overloaded,
    503: Unavailable,
    504: DeadlinePassed,
}


def class_of(status: int) -> type[ApiError]:
    """The class of a problem by its HTTP status."""
    return _CLASS_BY_STATUS.get(status) or (ServerFailed if status >= 500 else BadRequest)

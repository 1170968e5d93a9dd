"""Errors as RFC 9457 problem documents.

Rule 1: one table maps an error's code to its HTTP status.  Rule 2: no problem
repeats what the client sent beyond a short excerpt of a field's name.  Rule 3: an
unexpected error tells the client an incident number and nothing else.

Source: RFC 9457 (problem details), RFC 9110 section 15 (status codes).
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from synaptoroute import errors
from synaptoroute.errors import RouteError, SynaptoRouteError

PROBLEM_JSON: Final = "application/problem+json"
DETAIL_CHARACTERS_MAX: Final = 500
FIELD_CHARACTERS_MAX: Final = 120
FIELD_ERRORS_MAX: Final = 20
RETRY_AFTER_SECONDS_DEFAULT: Final = 1.0
write_ascii: Final = json.JSONEncoder(separators=(",", ":")).encode
"""Writes JSON in ASCII; made once, because an overloaded node mostly writes refusals."""

# --- errors that exist only over HTTP ----------------------------------------------------


class MalformedBody(RouteError):
    code = "malformed_body"


class MalformedRequest(RouteError):
    """The bytes are no HTTP request; see ``http_parser``."""

    code = "malformed_request"


class VersionNotSupported(SynaptoRouteError):
    """The request is of another version of HTTP."""

    code = "version_not_supported"


class InvalidParameter(RouteError):
    code = "invalid_parameter"


class Unauthorized(RouteError):
    code = "unauthorized"


class Forbidden(RouteError):
    code = "forbidden"


class EndpointNotFound(RouteError):
    code = "not_found"


class OperationNotFound(RouteError):
    """No write of this identity inside the idempotency window."""

    code = "operation_not_found"


class MethodNotAllowed(RouteError):
    code = "method_not_allowed"


class NotAcceptable(RouteError):
    code = "not_acceptable"


class UnsupportedMediaType(RouteError):
    code = "unsupported_media_type"


class RequestTimeout(RouteError):
    code = "request_timeout"


class ClientGone(RouteError):
    code = "client_gone"


class MisdirectedRequest(RouteError):
    """The Host header names a host that this server is not."""

    code = "host_not_allowed"


class CrossSite(RouteError):
    """A page of another site sends a change."""

    code = "cross_site"


class ShuttingDown(SynaptoRouteError):
    code = "shutting_down"


# --- problem documents -------------------------------------------------------------------

STATUS_BY_CODE: Final[Mapping[str, int]] = MappingProxyType(
    {
        MalformedBody.code: 400,
        MalformedRequest.code: 400,
        errors.RouteError.code: 400,
        Unauthorized.code: 401,
        Forbidden.code: 403,
        CrossSite.code: 403,
        errors.OperatorSignatureNeeded.code: 403,
        EndpointNotFound.code: 404,
        OperationNotFound.code: 404,
        errors.RouteNotFound.code: 404,
        errors.ImportNotFound.code: 404,
        errors.UtteranceNotFound.code: 404,
        errors.FeedbackNotFound.code: 404,
        errors.ChangeNotFound.code: 404,
        errors.DecisionUnknown.code: 404,
        errors.SetNotFound.code: 404,
        errors.AliasNotFound.code: 404,
        MethodNotAllowed.code: 405,
        NotAcceptable.code: 406,
        RequestTimeout.code: 408,
        errors.CapacityExceeded.code: 409,
        errors.SetExists.code: 409,
        errors.NameTaken.code: 409,
        errors.SetInUse.code: 409,
        errors.ChangeSuperseded.code: 409,
        errors.NotRevertible.code: 409,
        errors.GateFailed.code: 409,
        errors.NothingToRollBack.code: 409,
        errors.FeedbackOff.code: 409,
        errors.FeedbackFull.code: 409,
        errors.ImportRejected.code: 409,
        errors.NotFinalized.code: 409,
        errors.VersionLost.code: 409,
        errors.EncoderMismatch.code: 409,
        errors.PreconditionFailed.code: 412,
        errors.TooLarge.code: 413,
        UnsupportedMediaType.code: 415,
        MisdirectedRequest.code: 421,
        errors.InvalidRoute.code: 422,
        errors.InvalidQuery.code: 422,
        errors.UnsupportedQuestion.code: 422,
        errors.InvalidVector.code: 422,
        errors.IdempotencyConflict.code: 422,
        InvalidParameter.code: 422,
        errors.Overloaded.code: 429,
        errors.LimitExceeded.code: 429,
        ClientGone.code: 499,
        errors.SynaptoRouteError.code: 500,
        errors.EncoderError.code: 500,
        errors.ModelNotFound.code: 500,
        errors.ModelCorrupt.code: 500,
        errors.StorageCorrupt.code: 500,
        errors.SchemaTooNew.code: 500,
        errors.ConfigError.code: 500,
        errors.ForkedProcessError.code: 500,
        errors.ClusterError.code: 503,
        errors.NotReady.code: 503,
        ShuttingDown.code: 503,
        errors.NotCaughtUp.code: 503,
        errors.HeadNotConfirmed.code: 503,
        errors.SequencerUnavailable.code: 503,
        # Bytes of Redis or of a peer, never of the client: they are repaired or replaced.
        errors.ProtocolError.code: 503,
        errors.CodecError.code: 503,
        errors.UnknownMutation.code: 503,
        errors.StorageUnavailable.code: 503,
        errors.DeadlineExceeded.code: 504,
        VersionNotSupported.code: 505,
    }
)

# Codes whose status alone says little; the others take the status's own phrase.
_STATUS_PHRASES: Final = {499: "Client Closed Request"}
_RETRY_STATUSES: Final = frozenset({429, 503})
# Fields of an error that a client can act on; nothing else of it leaves the process.
_PUBLIC_FIELDS: Final = frozenset(
    {
        "current",
        "errors",
        "evidence",
        "import_id",
        "index",
        "limit",
        "line",
        "op_id",
        "outcome",
        "reason",
        "reasons",
        "version",
    }
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One error response."""

    status: int
    code: str
    detail: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def render(self, instance: str) -> bytes:
        """Write the document; ``instance`` names this one occurrence."""
        document = {
            "type": f"urn:synaptoroute:error:{self.code}",
            "title": status_phrase(self.status),
            "status": self.status,
            "detail": shorten(self.detail, DETAIL_CHARACTERS_MAX),
            "code": self.code,
            "instance": instance,
            **self.fields,
        }
        # ASCII keeps even a lone surrogate in a message a valid document.
        return write_ascii(document).encode("ascii")


def status_phrase(status: int) -> str:
    return _STATUS_PHRASES.get(status) or HTTPStatus(status).phrase


def shorten(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else f"{text[: characters_max - 3]}..."


def problem_of(error: SynaptoRouteError) -> Problem:
    status = STATUS_BY_CODE.get(error.code, 500)
    if status == 500:
        return internal_problem(error.code)
    fields = {
        name: _plain(value)
        for name, value in error.fields.items()
        if name in _PUBLIC_FIELDS and value is not None
    }
    return Problem(status, error.code, error.message, fields, _headers(status, error))


def internal_problem(code: str = SynaptoRouteError.code) -> Problem:
    """The problem of an unexpected error: an incident number, which the log explains."""
    incident = secrets.token_hex(8)
    detail = f"The node failed to answer. Its log has the details under incident {incident}."
    return Problem(500, code, detail, {"incident": incident})


def shutting_down(method: str) -> Problem:
    """The problem of a request that the end of the process cuts off."""
    fields = {} if method in ("GET", "HEAD", "OPTIONS") else {"outcome": "unknown"}
    detail = "the process stops and the request did not end in time"
    return Problem(503, ShuttingDown.code, detail, fields, {"Retry-After": "1"})


def field_errors(error: ValidationError, prefix: str = "") -> list[dict[str, str]]:
    """List the errors of each field, without the values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {
            "field": shorten(prefix + _field_name(item["loc"]), FIELD_CHARACTERS_MAX),
            "message": shorten(_message(item["msg"]), FIELD_CHARACTERS_MAX * 2),
        }
        for item in found[:FIELD_ERRORS_MAX]
    ]


def first_message(found: Sequence[Mapping[str, str]], fallback: str) -> str:
    if not found:
        return fallback
    name, message = found[0]["field"], found[0]["message"]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{name}: {message}{more}" if name else f"{message}{more}"


def _field_name(location: Sequence[int | str]) -> str:
    """Write the place of a field, such as ``utterances[3]``."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else str(part)
    return name


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")


def _headers(status: int, error: SynaptoRouteError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if status in _RETRY_STATUSES:
        seconds = error.retry_after_seconds or RETRY_AFTER_SECONDS_DEFAULT
        headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="synaptoroute"'
    version, op_id = error.fields.get("version"), error.fields.get("op_id")
    if version is not None:
        headers["SR-Version"] = str(version)
    if op_id is not None:
        headers["SR-Op-Id"] = str(op_id)
    current = error.fields.get("current")
    if status == 412 and current is not None:
        headers["ETag"] = f'"{current}"'
    if status in (408, 413):
        headers["Connection"] = "close"
    return headers


def _plain(value: object) -> Any:
    """A value as JSON; a revision becomes text."""
    if value is None or isinstance(value, bool | int | float | str):
        return shorten(value, DETAIL_CHARACTERS_MAX) if isinstance(value, str) else value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value[:FIELD_ERRORS_MAX]]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return shorten(str(value), DETAIL_CHARACTERS_MAX)

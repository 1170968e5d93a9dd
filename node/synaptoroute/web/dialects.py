"""Errors in the shape that the callers of some endpoints expect.

Every error is a problem document (RFC 9457), except on the endpoints of another protocol, whose
clients read their own shape.  The path of a request alone decides, so errors of the middleware
and of the HTTP layer have the right shape too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from synaptoroute.web.problems import (
    DETAIL_CHARACTERS_MAX,
    PROBLEM_JSON,
    Problem,
    shorten,
    write_ascii,
)

OPENAI_PATHS: Final = frozenset({"/v1/decisions"})
SYSTEM_ONE_PATHS: Final = frozenset({"/v1/systemone"})
_CODES: Final = {"set_not_found": "model_not_found"}
"""Codes whose name in the other protocols is another: there a ``model`` names the route set."""
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def render_error(problem: Problem, path: str, instance: str) -> tuple[str, bytes]:
    """Render an error for a path: its media type and its body.

    Args:
        path: Of the request; empty if it is not known.
        instance: Names this one occurrence.
    """
    path = path.rstrip("/")
    parts = path.split("/")
    if len(parts) == 5 and parts[1:3] == ["v1", "sets"]:  # the same endpoint for a route set
        path = f"/v1/{parts[4]}"
    if path in OPENAI_PATHS:
        return "application/json", _openai_error(problem)
    if path in SYSTEM_ONE_PATHS:
        problem = replace(problem, code=_CODES.get(problem.code, problem.code))
    return PROBLEM_JSON, problem.render(instance)


def _openai_error(problem: Problem) -> bytes:
    found = problem.fields.get("errors")
    param = found[0].get("field") if isinstance(found, list) and found else None
    error: dict[str, Any] = {
        "message": shorten(problem.detail, DETAIL_CHARACTERS_MAX),
        "type": _type_of(problem.status),
        "param": param or None,
        "code": _CODES.get(problem.code, problem.code),
    }
    # What an operator looks up in the log.
    if "incident" in problem.fields:
        error["incident"] = problem.fields["incident"]
    return write_ascii({"error": error}).encode("ascii")


def _type_of(status: int) -> str:
    return _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")

"""What the OpenAPI document of the fleet API says of every endpoint."""

from __future__ import annotations

from typing import Any, Final

from synaptoroute.web.problems import PROBLEM_JSON, status_phrase

ANYTHING: Final[dict[str, Any]] = {
    "description": "The answer",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "instance": {"type": "string"},
    },
}


def problem(status: int) -> dict[str, Any]:
    """Describe one problem's answer."""
    return {"description": status_phrase(status), "content": {PROBLEM_JSON: {"schema": _PROBLEM}}}


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: problem(status)
    for status in (400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429, 503, 504)
}
DESCRIPTION: Final = """\
The control plane of a SynaptoRoute cluster: what every node is doing, and what may be
done about it. Nothing on the way of a query or a write needs it.

Every error is an RFC 9457 problem document with a stable `code`. Actions are POSTs, need
the scope `admin` and are recorded with the name of the key."""

"""What a router answers beside matches, and how outcomes become results or errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synaptoroute.core.change import Outcome, RouteRecord
from synaptoroute.core.mutation import Settings
from synaptoroute.errors import (
    CapacityExceeded,
    IdempotencyConflict,
    ImportRejected,
    InvalidRoute,
    InvalidVector,
    PreconditionFailed,
    RouteError,
    RouteNotFound,
    UtteranceNotFound,
)
from synaptoroute.models import StoredRoute, WriteResult
from synaptoroute.serving.query import load_json

_ERROR_BY_CODE: Final[dict[str, type[RouteError]]] = {
    error.code: error
    for error in (
        CapacityExceeded,
        IdempotencyConflict,
        ImportRejected,
        InvalidRoute,
        InvalidVector,
        PreconditionFailed,
        RouteNotFound,
        UtteranceNotFound,
    )
}


@dataclass(frozen=True, slots=True)
class RoutePage:
    """Some routes, in order of name.

    Attributes:
        routes: The routes.
        next_after: Name to continue after; None at the end.
        version: ``epoch.seq`` at which they stood so.
    """

    routes: list[StoredRoute]
    next_after: str | None
    version: str


def result_of(outcome: Outcome, op_id: bytes) -> WriteResult:
    """Make the result of a write, or raise why it was rejected.

    Raises:
        RouteError: The outcome is a rejection.
    """
    if outcome.status == "rejected":
        kind = _ERROR_BY_CODE.get(outcome.code or "", RouteError)
        current = str(outcome.revision) if outcome.revision else None
        raise kind(outcome.message, current=current, version=str(outcome.at), op_id=op_id.hex())
    return WriteResult(
        status=outcome.status,
        op_id=op_id.hex(),
        version=str(outcome.at),
        revision=str(outcome.revision) if outcome.revision else None,
        count=outcome.count,
        created=outcome.created,
    )


def stored_route(record: RouteRecord, settings: Settings) -> StoredRoute:
    """Show a route as the node holds it."""
    own = record.threshold
    return StoredRoute(
        name=record.name,
        utterances=list(record.utterances),
        threshold=own,
        effective_threshold=settings.threshold if own is None else own,
        metadata=load_json(record.metadata),
        payload=load_json(record.payload),
        revision=str(record.revision),
    )

"""Results of writes, out of the outcomes of their entries."""

from __future__ import annotations

from typing import Final

from synaptoroute.core.change import Outcome
from synaptoroute.core.mutation import Revision
from synaptoroute.errors import (
    AliasNotFound,
    CapacityExceeded,
    FeedbackFull,
    FeedbackNotFound,
    FeedbackOff,
    IdempotencyConflict,
    ImportRejected,
    InvalidRoute,
    InvalidVector,
    LimitExceeded,
    NameTaken,
    NotFinalized,
    PreconditionFailed,
    RouteError,
    RouteNotFound,
    SetExists,
    SetInUse,
    SetNotFound,
    StorageUnavailable,
    SynaptoRouteError,
    UtteranceNotFound,
)
from synaptoroute.models import WriteResult

_NOTHING_WRITTEN: Final = frozenset({"disk_full", "read_only"})
"""Reasons of a storage that refused a transaction before it wrote anything."""
_ERROR_BY_CODE: Final[dict[str, type[RouteError]]] = {
    error.code: error
    for error in (
        AliasNotFound,
        CapacityExceeded,
        FeedbackFull,
        FeedbackNotFound,
        FeedbackOff,
        IdempotencyConflict,
        ImportRejected,
        InvalidRoute,
        InvalidVector,
        LimitExceeded,
        NameTaken,
        NotFinalized,
        PreconditionFailed,
        RouteNotFound,
        SetExists,
        SetInUse,
        SetNotFound,
        UtteranceNotFound,
    )
}


def result_of(outcome: Outcome, op_id: bytes) -> WriteResult:
    """Make the result of a write, or raise the error of a rejected one."""
    if outcome.status == "rejected":
        kind = _ERROR_BY_CODE.get(outcome.code or "", RouteError)
        current = str(outcome.revision) if outcome.revision else None
        # A message about a limit begins with its name.
        limit = outcome.message.partition(" ")[0] if kind is LimitExceeded else None
        raise kind(
            outcome.message,
            current=current,
            version=str(outcome.at),
            op_id=op_id.hex(),
            limit=limit,
        )
    return WriteResult(
        status=outcome.status,
        op_id=op_id.hex(),
        version=str(outcome.at),
        revision=str(outcome.revision) if outcome.revision else None,
        count=outcome.count,
        created=outcome.created,
    )


def outcome_of_failure(error: SynaptoRouteError, lost: str) -> str:
    """Whether a failed write may still be applied: ``not_taken`` or ``unknown``."""
    if isinstance(error, StorageUnavailable) and error.fields.get("reason") in _NOTHING_WRITTEN:
        return "not_taken"
    return lost


def pending(op_id: bytes, at: Revision | None) -> WriteResult:
    """Make the result of a write that is in the log, or on its way, but not decided."""
    version = str(at) if at else ""
    return WriteResult(status="pending", op_id=op_id.hex(), version=version, ack="accepted")

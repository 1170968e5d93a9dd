"""The reasons why a write has no place in the log, as stable names.

Each name travels as ``SequencerUnavailable.fields["reason"]`` and is part of the API.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from synaptoroute.errors import (
    EncoderMismatch,
    ProtocolError,
    SequencerUnavailable,
    SynaptoRouteError,
)

RETRY_AFTER_SECONDS: Final = 2.0


class Reason(StrEnum):
    """Why a write has no place in the order of the log."""

    UNREACHABLE = "unreachable"  # No connection: nothing was sent
    INTERRUPTED = "interrupted"  # Sent, but no answer came: the outcome is unknown
    REFUSED = "refused"
    """The server refused before it did anything: out of memory, a replica, no permission."""
    LOST = "lost"  # The server has no log
    NEW_HISTORY = "new_history"  # The log was opened on another server
    DAMAGED = "damaged"  # A key of the log holds something else than a log
    CLOSED = "closed"  # A recovery is going on, or an operator froze the log
    STALE = "stale_epoch"  # The writer has not joined the log's epoch yet
    REGRESSED = "regressed"  # The writer holds entries that the log has lost
    LEVEL = "level"  # The write needs a feature level that not every node has
    BEHIND = "behind"  # The writer has to follow the log before it can seal a write
    FULL = "log_full"  # The log is at its limit, because voters lag or nothing trims it
    NO_QUORUM = "unheld"  # The voters change while no majority holds the last change of them
    MODEL = "model"  # The log carries vectors of another encoder
    MOVED = "moved"  # Another write came first; the writer must look again
    STOPPED = "stopped"  # This log was closed by its owner


_REASON_OF_OUTCOME: Final = {
    b"LOST": Reason.LOST,
    b"DAMAGED": Reason.DAMAGED,
    b"NEWHIST": Reason.NEW_HISTORY,
    b"CLOSED": Reason.CLOSED,
    b"STALE": Reason.STALE,
    b"REGRESSED": Reason.REGRESSED,
    b"MODEL": Reason.MODEL,
    b"LEVEL": Reason.LEVEL,
    b"BEHIND": Reason.BEHIND,
    b"FULL": Reason.FULL,
    b"MOVED": Reason.MOVED,
    b"UNHELD": Reason.NO_QUORUM,
    b"REFUSED": Reason.REFUSED,
}

_MESSAGES: Final = {
    Reason.LOST: "Redis holds no log for this namespace; writes wait for a recovery",
    Reason.DAMAGED: "a key of the log in Redis is damaged; writes wait for a recovery",
    Reason.NEW_HISTORY: "Redis restarted or was promoted; writes wait until it is verified",
    Reason.CLOSED: "the log is closed for writes",
    Reason.STALE: "the log is at another epoch than this node",
    Reason.REGRESSED: "Redis lost entries that this node holds; writes wait for a recovery",
    Reason.MOVED: "another write came first",
    Reason.LEVEL: "not every node of the cluster understands this write yet",
    Reason.BEHIND: "this node is too far behind the log to write",
    Reason.NO_QUORUM: "the voters changed, and a majority does not hold that change yet",
    Reason.FULL: "the log is full, because nodes lag behind or nothing trims it",
    Reason.REFUSED: "Redis refused the write",
}


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """A script's answer that nothing was written."""

    reason: Reason
    detail: str  # The log's epoch, state, fingerprint, ...


def not_placed(answer: Sequence[bytes]) -> NotPlaced:
    """Type a script's outcome that is not OK."""
    reason = _REASON_OF_OUTCOME.get(answer[0])
    if reason is None:
        raise ProtocolError(f"an unknown outcome {answer[0]!r}")
    return NotPlaced(reason, text_of(answer[1]) if len(answer) > 1 else "")


def error_of(refused: NotPlaced, outcome: str) -> SynaptoRouteError:
    """Build the error of a write that has no place."""
    if refused.reason is Reason.MODEL:
        return EncoderMismatch(
            "the log carries vectors of another encoder than this node's",
            expected=refused.detail,
            outcome=outcome,
        )
    message = _MESSAGES[refused.reason]
    if refused.detail and refused.reason in (Reason.LOST, Reason.DAMAGED):
        message = f"{message} ({refused.detail})"  # names the key
    return unavailable(refused.reason, message, detail=refused.detail, outcome=outcome)


def unavailable(reason: Reason, message: str, **fields: object) -> SequencerUnavailable:
    """Build an error with a reason.  The message never holds a password or an utterance."""
    return SequencerUnavailable(
        message, retry_after_seconds=RETRY_AFTER_SECONDS, reason=reason, **fields
    )


def text_of(value: bytes | int) -> str:
    """Text of a part of an answer."""
    try:
        return value.decode("ascii") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise ProtocolError("an answer of a script that is not ASCII") from error

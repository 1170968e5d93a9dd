"""Why a write has no place in the log, as names that a program can tell apart.

Every one of them travels as ``SequencerUnavailable.fields["reason"]``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from synaptoroute.errors import SequencerUnavailable

RETRY_AFTER_SECONDS: Final = 2.0


class Reason(StrEnum):
    """What stands between a write and its place in the order."""

    UNREACHABLE = "unreachable"
    """No connection: nothing was sent."""
    INTERRUPTED = "interrupted"
    """Sent, and no answer came: the outcome is unknown."""
    REFUSED = "refused"
    """The server refused before running: out of memory, a replica, no rights."""
    LOST = "lost"
    """The server has no log."""
    NEW_HISTORY = "new_history"
    """The server is not the one that the log was opened on."""
    CLOSED = "closed"
    """A recovery is going on, or an operator froze the log."""
    STALE = "stale_epoch"
    """The writer has not joined the log's epoch yet."""
    REGRESSED = "regressed"
    """The writer holds entries that the log has lost."""
    LEVEL = "level"
    """The write needs a feature level that not every node has."""
    FULL = "log_full"
    """The log is at its limit, because voters lag or nobody trims."""
    NO_QUORUM = "unheld"
    """The voters change while the last change of them is not held by a majority."""
    MODEL = "model"
    """The log carries vectors of another encoder."""
    MOVED = "moved"
    """Somebody wrote since; the writer must look again."""
    STOPPED = "stopped"
    """This log was closed by its owner."""


def unavailable(reason: Reason, message: str, **fields: object) -> SequencerUnavailable:
    """Build the error of a refusal; its text never holds a password or an utterance."""
    return SequencerUnavailable(
        message, retry_after_seconds=RETRY_AFTER_SECONDS, reason=reason, **fields
    )

"""The node's promise to a ballot, as in Paxos: durable before it is told.

A node that promised a ballot applies no entry of an older epoch any more.  If it told the
promise first and crashed before the promise was on disk, it could come back, apply such an
entry, and the majority that the recovery counted would not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import may_promise
from synaptoroute.core.replica import Replica
from synaptoroute.failpoints import failpoint
from synaptoroute.storage import SQLiteStorage

PROMISE_KEY: Final = "promise"


@dataclass(frozen=True, slots=True)
class VoterState:
    """What a node reports to a ballot, read between two groups of entries."""

    position: Position  # durable
    promised: Ballot  # The newest promised ballot
    epoch_id: str  # The ballot that opened the current epoch; empty before the first
    voters: tuple[str, ...]


def stored_promise(storage: SQLiteStorage) -> Ballot:
    """Read the newest promise from disk; the lowest ballot if there is none."""
    text = storage.meta_get(PROMISE_KEY)
    return Ballot.parse(text) if text else Ballot()


def voter_state(replica: Replica) -> VoterState:
    """Read the state that a ballot asks for.  Runs on the applier's thread."""
    return VoterState(replica.position, replica.promised, replica.epoch_id, replica.voters)


def promise(replica: Replica, storage: SQLiteStorage, ballot: Ballot) -> VoterState | None:
    """Promise a ballot; None if this or a higher epoch is promised to another ballot.

    From then on the position cannot grow in epochs below the ballot.  Runs on the applier's
    thread.

    Raises:
        StorageUnavailable: The promise is not durable, so it does not bind.
    """
    if not may_promise(replica.promised, ballot):
        return None
    if replica.promised != ballot:
        failpoint("promise.begun")
        # Disk first: the replica must never enforce, and the node never tell, a promise that a
        # crash would undo.
        storage.meta_set(PROMISE_KEY, str(ballot))
        failpoint("promise.kept")
        replica.promise(ballot)
    return voter_state(replica)

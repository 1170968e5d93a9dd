"""A node's promise: durable before it binds, and it binds before anything is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import may_promise
from synaptoroute.failpoints import failpoint
from synaptoroute.ports import AppliedState
from synaptoroute.storage import SQLiteStorage

PROMISE_KEY: Final = "promise"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a replica stands, read between two groups of entries.

    Attributes:
        position: What is durable.
        promised: The newest ballot that binds it.
        epoch_id: Ballot that opened its epoch; empty before the first.
        voters: Who votes, at that position.
    """

    position: Position
    promised: Ballot
    epoch_id: str
    voters: tuple[str, ...]


def stored_promise(storage: SQLiteStorage) -> Ballot:
    """The newest ballot that this node has promised; the lowest one if none."""
    text = storage.meta_get(PROMISE_KEY)
    return Ballot.parse(text) if text else Ballot()


def standing_of(state: AppliedState) -> Standing:
    """Look where the replica stands.  Runs on the applier's thread."""
    replica = state.replica
    return Standing(replica.position, replica.promised, replica.epoch_id, replica.voters)


def promise(state: AppliedState, ballot: Ballot) -> Standing | None:
    """Promise a ballot, if it may be; None if a higher one, or its like, is promised.

    From the answer on, the position grows no more in epochs below the ballot.  Runs on
    the applier's thread.

    Raises:
        StorageUnavailable: It could not be made durable; it does not bind.
    """
    replica = state.replica
    if not may_promise(replica.promised, ballot):
        return None
    if replica.promised != ballot:
        failpoint("promise.begun")
        state.storage.meta_set(PROMISE_KEY, str(ballot))
        failpoint("promise.kept")
        replica.promise(ballot)
    return standing_of(state)

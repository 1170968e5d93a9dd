"""What a replica is doing, and what it tells the shell to do next.

A ``Step`` is the whole answer to one entry, as a frozen value.  The states and
the ways between them are those of a follower; source: etcd/raft's ``tracker``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from synaptoroute.core.change import Commit


class State(Enum):
    """What a replica is doing."""

    SYNCING = "syncing"
    LIVE = "live"
    CATCHING_UP = "catching_up"
    INSTALLING = "installing"
    DIVERGED = "diverged"
    HALTED = "halted"


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.SYNCING: frozenset({State.LIVE, State.INSTALLING, State.DIVERGED, State.HALTED}),
    State.LIVE: frozenset({State.CATCHING_UP, State.INSTALLING, State.DIVERGED, State.HALTED}),
    State.CATCHING_UP: frozenset({State.LIVE, State.INSTALLING, State.DIVERGED, State.HALTED}),
    State.INSTALLING: frozenset({State.SYNCING, State.DIVERGED, State.HALTED}),
    # To syncing where a later epoch took this replica's side.
    State.DIVERGED: frozenset({State.SYNCING, State.INSTALLING, State.HALTED}),
    State.HALTED: frozenset({State.SYNCING, State.INSTALLING}),
}


class Source(Enum):
    """Where an entry was read."""

    BUS = "bus"
    LOG = "log"


class Ignored(Enum):
    """Why an entry changes nothing."""

    DUPLICATE = "duplicate"
    OLD = "old"
    OLD_EPOCH = "old_epoch"
    PROMISED = "promised"
    BUFFERED = "buffered"
    NOT_FOLLOWING = "not_following"
    FORGED = "forged"
    UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Entries that are missing.

    Attributes:
        after_seq: The last sequence number that is held.
    """

    after_seq: int


@dataclass(frozen=True, slots=True)
class Step:
    """What the shell shall do after one entry.

    Attributes:
        commits: To be made durable and visible, in order, in one transaction.
        fetch: What to ask the log for.
        ignored: Why the entry changes nothing, where it does not.
        diverged: What the log shows that this replica's history contradicts.
    """

    commits: tuple[Commit, ...] = ()
    fetch: Fetch | None = None
    ignored: Ignored | None = None
    diverged: str | None = None

"""What a node knows about the log and about itself: states, counters and a status value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LogState(StrEnum):
    """State of the log, as this node sees it."""

    UNKNOWN = "unknown"  # Not reached since the start
    OPEN = "open"  # Writes are accepted
    AWAY = "away"  # Redis does not answer; queries continue
    RECOVERING = "recovering"  # Redis restarted; the nodes verify that nothing was lost
    FOUNDING = "founding"  # There is no log yet; the expected nodes are not all there
    FROZEN = "frozen"  # An operator closed the log
    MISMATCH = "mismatch"  # The log carries vectors of another encoder than this node's
    LOST = "lost"  # Redis has no log any more, though this node holds entries of one
    FOREIGN = "foreign"  # Redis holds the log of another cluster than this node's database
    REGRESSED = "regressed"  # Redis has lost entries that this node holds
    DAMAGED = "damaged"  # The log in Redis contradicts itself


EXPLANATIONS = {
    LogState.UNKNOWN: "the log has not been reached yet",
    LogState.OPEN: "",
    LogState.AWAY: "Redis does not answer",
    LogState.RECOVERING: "Redis restarted; the nodes are proving that nothing was lost",
    LogState.FOUNDING: "there is no log yet; waiting for the expected number of nodes",
    LogState.FROZEN: "an operator closed the log",
    LogState.MISMATCH: "the log carries vectors of another encoder",
    LogState.LOST: "Redis has no log any more, though nodes hold entries of one",
    LogState.FOREIGN: "Redis holds the log of another cluster than this node's database",
    LogState.REGRESSED: "Redis has lost entries that nodes hold",
    LogState.DAMAGED: "what Redis holds of the log contradicts itself",
}


@dataclass(slots=True)
class FollowerCounts:
    """Totals since the start; only the event loop writes them."""

    bus_entries: int = 0
    announced: int = 0  # Entries announced on the bus, to be read from the log
    gaps: int = 0  # Times an entry arrived before an earlier one
    tail_losses: int = 0  # Times the head showed entries that the bus had not brought
    catch_ups_log: int = 0
    catch_ups_peer: int = 0  # From a peer's op log
    snapshots: int = 0  # Peers' snapshots that were installed
    forks: int = 0  # Times the log contradicted what had been applied
    halts: int = 0  # Times an entry could not be applied
    reopenings: int = 0  # Times this node opened an epoch after a recovery
    bus_reconnects: int = 0
    faults: int = 0  # Times a task failed unexpectedly and was restarted


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """How a node follows the log."""

    log_state: LogState
    replica_state: str  # See ``core.replica.State``
    detail: str  # For operators; empty if all is well
    is_caught_up: bool  # Whether the node has reached a head that it saw after its start
    is_alone: bool  # Whether it serves its stored state because there is no log to follow
    head: str  # ``epoch.seq`` of the newest known head; empty if there is none
    lag_entries: int
    staleness_ms: int  # Time since the node last knew that it was not behind
    role: str  # ``voter`` or ``observer``
    is_bus_live: bool
    orphans_count: int  # Writes that recoveries left behind on this node
    counts: FollowerCounts

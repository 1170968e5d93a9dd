"""Whether a member of a cluster should take queries, by what it has learned and when.

docs/operations.md draws the states and their transitions.

A node is *fresh* at a moment at which it knew that it was not behind: the head of the open log
was its own position, or a majority of the voters held nothing that it lacked.  ``STALE`` begins
when the last such moment is too long ago and the log's server is silent.  It ends only when the
node is fresh again.  A node that merely applies slowly while it hears the log is not stale: all
nodes may be slow at once, and its lag is known.

``ALONE`` is for a node that nobody else could replace: neither Redis nor a peer runs, as far as
it can tell.  A node that starts cannot tell a silent peer from one that ended, so it waits for
``alone_seconds``; a node that has followed the log before is alone only if every known peer
refuses connections.  A node that starts and cannot apply the next entry, as on a full disk, is
alone as well if no peer has applied it.

Pure: times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from synaptoroute.core.mutation import Position

LOG_SILENT_SECONDS: Final = 2.3
"""The log's server counts as silent this long after the heartbeat that is due fails to bring a
head: it may begin a fifth late and takes a second or two to fail."""
PEERS_SILENT_SECONDS: Final = 8.0
"""After this long what the peers said no longer counts as known."""


class Readiness(StrEnum):
    WAITING = "waiting"  # Not ready: no head was reached since the start
    FOLLOWING = "following"  # Ready: the log's server answers
    CONFIRMED = "confirmed"  # Ready: peers confirm that nobody has more
    UNSURE = "unsure"  # Ready: nobody tells, but not for too long
    ALONE = "alone"  # Ready: nobody else is there
    STALE = "stale"  # Not ready: for too long nobody has confirmed that the node is current

    @property
    def is_ready(self) -> bool:
        return self not in (Readiness.WAITING, Readiness.STALE)


class PeersSay(StrEnum):
    """The result of one round of questions to the peers."""

    CURRENT = "current"  # A majority of the voters, or every peer that runs, has nothing newer
    AHEAD = "ahead"  # A peer holds more than this node could take
    SUPERSEDED = "superseded"  # A majority of the voters has left the epoch of this node's log
    SILENT = "silent"  # Some peers do not answer, and the others are too few
    NONE = "none"  # No known peer runs


class ReadinessTracker:
    """Keeps what was learned, and derives the state.  Runs on the event loop."""

    def __init__(self, staleness_seconds_max: float, alone_seconds: float) -> None:
        self.fresh_at = 0.0  # When the node last knew that it was not behind
        self._staleness_seconds_max = staleness_seconds_max
        self._alone_seconds = alone_seconds
        self._heard_until = 0.0
        self._unheard_since = 0.0
        self._is_open = False
        self._has_caught_up = False
        self._is_alone = False
        self._is_stale = False
        self._say: PeersSay | None = None
        self._said_at = 0.0
        self._newest: Position | None = None

    def begin(self, now: float, stored_age_seconds: float) -> None:
        """Set the moment of the start, and how old the stored state may be."""
        self.fresh_at = now - stored_age_seconds
        self._heard_until = self._unheard_since = now

    # --- what is learned ------------------------------------------------------------------

    def hear_log(self, now: float, *, is_open: bool, next_seconds: float = 1.0) -> None:
        """Note that the server of this node's log answered; it is asked again after a while."""
        self._heard_until, self._is_open = now + 1.2 * next_seconds + LOG_SILENT_SECONDS, is_open
        if is_open:
            self._unheard_since = now

    def hear_peers(
        self, say: PeersSay | None, newest: Position | None, asked_at: float, now: float
    ) -> None:
        """Note the result of a round that began at ``asked_at``; None if it told nothing."""
        self._say, self._said_at, self._newest = say, now, newest
        if say is PeersSay.CURRENT:
            self.fresh_at = max(self.fresh_at, asked_at)
            self._has_caught_up, self._is_alone = True, False

    def note_fresh(self, at: float) -> None:
        """Note that the open log held nothing newer."""
        # The head of a server that a majority has left says nothing about the cluster.
        if self._say is not PeersSay.SUPERSEDED:
            self.fresh_at = max(self.fresh_at, at)

    def catch_up(self, now: float) -> None:
        """Note that the node has reached the head of the log."""
        self._has_caught_up, self._is_alone = True, False
        self.note_fresh(now)

    # --- what follows ---------------------------------------------------------------------

    def is_log_heard(self, now: float) -> bool:
        """Whether the log's server answers, and may be believed."""
        if now >= self._heard_until or self._say is PeersSay.SUPERSEDED:
            return False
        # A closed log tells nothing about another server on which the peers may go on.
        return self._is_open or self._say is not PeersSay.AHEAD

    def newest_of_peers(self, now: float) -> Position | None:
        """The newest position of a majority's answers; None if it is not known."""
        is_known = self._say in (PeersSay.CURRENT, PeersSay.AHEAD)
        return self._newest if is_known and now - self._said_at <= PEERS_SILENT_SECONDS else None

    def update(self, now: float, *, has_state: bool, stuck_since: float | None = None) -> Readiness:
        """Derive the state.

        Args:
            now: The present moment.
            has_state: Whether the node holds a verified state of a log.
            stuck_since: Since when it cannot apply the next entry, where no peer could either.
        """
        is_heard = self.is_log_heard(now)
        if not self._has_caught_up:
            is_due = now - self._unheard_since >= self._alone_seconds
            # A round must have ended: a peer may have something newer to give.
            is_asked = self._say in (PeersSay.SILENT, PeersSay.NONE)
            is_stuck = stuck_since is not None and now - stuck_since >= self._alone_seconds
            self._is_alone |= has_state and ((is_due and is_asked) or is_stuck)
            return Readiness.ALONE if self._is_alone else Readiness.WAITING
        is_old = now - self.fresh_at > self._staleness_seconds_max
        if not is_old:
            self._is_stale = False
        if self._is_stale and self._say is not PeersSay.NONE:
            return Readiness.STALE
        if is_heard:
            return Readiness.FOLLOWING
        if self._say is PeersSay.NONE:
            self._is_stale = False
            return Readiness.ALONE
        self._is_stale = is_old
        if is_old:
            return Readiness.STALE
        return Readiness.CONFIRMED if self._say is PeersSay.CURRENT else Readiness.UNSURE

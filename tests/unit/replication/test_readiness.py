"""Goal: each edge of the readiness state machine.  Method: a tracker and a clock of numbers."""

from __future__ import annotations

import pytest

from synaptoroute.core.mutation import Position
from synaptoroute.replication.readiness import (
    LOG_SILENT_SECONDS,
    PEERS_SILENT_SECONDS,
    PeersSay,
    Readiness,
    ReadinessTracker,
)

pytestmark = pytest.mark.unit
STALENESS, ALONE = 30.0, 20.0
SILENT_AT = 1.2 + LOG_SILENT_SECONDS
AT = Position(1, 7, "a" * 40)


def started() -> ReadinessTracker:
    """A tracker of a node that has started at 0."""
    tracker = ReadinessTracker(STALENESS, ALONE)
    tracker.begin(0.0, stored_age_seconds=100.0)
    return tracker


def following() -> ReadinessTracker:
    """A tracker of a node that has reached the head at 0."""
    tracker = started()
    tracker.hear_log(0.0, is_open=True)
    tracker.catch_up(0.0)
    return tracker


def state(tracker: ReadinessTracker, now: float) -> Readiness:
    """The state of a node that holds a state."""
    return tracker.update(now, has_state=True)


def test_node_waits_until_it_has_reached_the_head() -> None:
    """A log that answers is not enough."""
    tracker = started()
    tracker.hear_log(1.0, is_open=True)
    assert Readiness.WAITING is state(tracker, 1.0)
    tracker.catch_up(1.5)
    assert Readiness.FOLLOWING is state(tracker, 1.5)
    assert not Readiness.WAITING.is_ready
    assert Readiness.FOLLOWING.is_ready


def test_silent_log_and_silent_peers_make_a_node_unsure_then_stale() -> None:
    """Stale begins at the limit after the last moment at which it was fresh."""
    tracker = following()
    tracker.hear_peers(PeersSay.SILENT, None, 5.0, 6.0)
    assert Readiness.FOLLOWING is state(tracker, SILENT_AT - 0.1)
    assert Readiness.UNSURE is state(tracker, SILENT_AT)
    assert Readiness.UNSURE is state(tracker, STALENESS)
    assert Readiness.STALE is state(tracker, STALENESS + 0.1)
    assert not Readiness.STALE.is_ready


@pytest.mark.parametrize("say", [PeersSay.AHEAD, PeersSay.SUPERSEDED, None])
def test_only_confirmation_by_peers_prevents_staleness(say: PeersSay | None) -> None:
    """Peers that are ahead, or have left the epoch, confirm nothing."""
    tracker = following()
    tracker.hear_peers(say, AT, 40.0, 40.5)
    assert Readiness.STALE is state(tracker, 40.5)


def test_confirmed_node_stays_ready_as_long_as_it_is_confirmed() -> None:
    """The age is counted from the beginning of the last round."""
    tracker = following()
    for now in range(10, 200, 10):
        tracker.hear_peers(PeersSay.CURRENT, AT, now - 1.0, now)
        assert Readiness.CONFIRMED is state(tracker, now)
        assert now - 1.0 == tracker.fresh_at
    tracker.hear_peers(PeersSay.SILENT, None, 200.0, 201.0)
    assert Readiness.UNSURE is state(tracker, 201.0)
    assert Readiness.STALE is state(tracker, 190.0 + STALENESS)


def test_stale_node_is_ready_again_only_when_it_is_fresh() -> None:
    """It may have missed much: an answer of the log alone does not end it."""
    tracker = following()
    assert Readiness.STALE is state(tracker, 40.0)
    tracker.hear_log(41.0, is_open=True)
    assert Readiness.STALE is state(tracker, 41.0)
    tracker.note_fresh(41.5)
    assert Readiness.FOLLOWING is state(tracker, 41.5)


def test_slow_node_that_hears_the_log_is_not_stale() -> None:
    """All nodes may be slow at once; its lag is known."""
    tracker = following()
    for now in range(1, 200):
        tracker.hear_log(float(now), is_open=True)
        assert Readiness.FOLLOWING is state(tracker, now)


def test_node_whose_peers_all_ended_is_alone() -> None:
    """Nobody else could serve, however old its state is."""
    tracker = following()
    tracker.hear_peers(PeersSay.SILENT, None, 39.0, 40.0)
    assert Readiness.STALE is state(tracker, 40.0)
    tracker.hear_peers(PeersSay.NONE, None, 41.0, 41.0)
    assert Readiness.ALONE is state(tracker, 1_000.0)
    tracker.hear_peers(PeersSay.SILENT, None, 1_001.0, 1_001.0)
    assert Readiness.STALE is state(tracker, 1_001.0)


def test_starting_node_waits_alone_seconds_for_others() -> None:
    """After a round of questions, and only with a state of its own."""
    tracker = started()
    assert Readiness.WAITING is state(tracker, ALONE + 1), "no round has ended"
    tracker.hear_peers(PeersSay.SILENT, None, 1.0, 2.0)
    assert Readiness.WAITING is state(tracker, ALONE - 1)
    assert Readiness.WAITING is tracker.update(ALONE + 1, has_state=False)
    assert Readiness.ALONE is state(tracker, ALONE + 1)
    assert Readiness.ALONE is state(tracker, 1_000.0), "it stays so without news"


def test_starting_node_does_not_serve_while_a_peer_has_more() -> None:
    """That peer can serve; this node takes what it has first."""
    tracker = started()
    tracker.hear_peers(PeersSay.AHEAD, AT, 1.0, 2.0)
    assert Readiness.WAITING is state(tracker, 10 * ALONE)


def test_starting_node_is_ready_at_once_when_a_majority_confirms() -> None:
    """It need not wait: it holds what a quorum holds."""
    tracker = started()
    tracker.hear_peers(PeersSay.CURRENT, AT, 1.0, 1.2)
    assert Readiness.CONFIRMED is state(tracker, 1.2)


def test_node_that_started_alone_follows_when_the_log_returns() -> None:
    """It serves until it has caught up, and goes on normally."""
    tracker = started()
    tracker.hear_peers(PeersSay.NONE, None, 1.0, 2.0)
    assert Readiness.ALONE is state(tracker, ALONE)
    tracker.hear_log(30.0, is_open=True)
    assert Readiness.ALONE is state(tracker, 30.0)
    tracker.catch_up(31.0)
    assert Readiness.FOLLOWING is state(tracker, 31.0)
    assert 31.0 == tracker.fresh_at


def test_closed_log_of_the_right_server_is_word_enough() -> None:
    """Nothing can be written while a recovery waits, so a node that hears it is not stale."""
    tracker = following()
    tracker.hear_log(100.0, is_open=False)
    tracker.hear_peers(PeersSay.SILENT, None, 99.0, 100.0)
    assert Readiness.FOLLOWING is state(tracker, 100.0)
    tracker.hear_peers(PeersSay.AHEAD, AT, 100.0, 101.0)
    assert Readiness.STALE is state(tracker, 101.0), "the peers go on at another server"


def test_open_log_of_a_superseded_server_is_not_believed() -> None:
    """A majority has left its epoch: its head keeps nobody fresh."""
    tracker = following()
    for now in range(1, 41):
        tracker.hear_log(float(now), is_open=True)
        tracker.hear_peers(PeersSay.SUPERSEDED, None, now - 0.5, float(now))
        tracker.note_fresh(float(now))
    assert not tracker.is_log_heard(40.0)
    assert Readiness.STALE is state(tracker, 40.0)
    tracker.hear_peers(None, None, 41.0, 41.0)
    tracker.hear_log(41.0, is_open=True)
    tracker.note_fresh(41.0)
    assert Readiness.FOLLOWING is state(tracker, 41.0)


def test_starting_node_that_is_stuck_like_all_others_serves() -> None:
    """The next entry cannot be applied here, and no peer has applied it."""
    tracker = started()
    tracker.hear_log(50.0, is_open=True)
    assert Readiness.WAITING is tracker.update(50.0, has_state=True, stuck_since=40.0)
    assert Readiness.WAITING is tracker.update(70.0, has_state=True)
    assert Readiness.ALONE is tracker.update(60.0, has_state=True, stuck_since=40.0)


def test_lag_is_known_only_while_somebody_tells() -> None:
    """What the peers said expires."""
    tracker = following()
    assert None is tracker.newest_of_peers(10.0)
    tracker.hear_peers(PeersSay.CURRENT, AT, 9.0, 10.0)
    assert AT == tracker.newest_of_peers(10.0)
    assert None is tracker.newest_of_peers(10.1 + PEERS_SILENT_SECONDS)
    tracker.hear_peers(PeersSay.SILENT, AT, 20.0, 20.0)
    assert None is tracker.newest_of_peers(20.0)

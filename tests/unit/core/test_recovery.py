"""Rules of an epoch change, each tested at its boundary with reports made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from synaptoroute.core.mutation import Ballot, Position, Revision, VoterAdd, VoterRemove
from synaptoroute.core.recovery import (
    REFILL_ENTRIES_MAX,
    REFILL_ENTRIES_MIN,
    Action,
    Assessment,
    Cause,
    Common,
    Decision,
    LogView,
    MissingReports,
    Mode,
    Report,
    ServerHistory,
    assess_log,
    common_seq,
    decide,
    decide_without_holders,
    is_majority,
    may_promise,
)
from synaptoroute.core.replica import VOTERS_MAX, plan_voters

pytestmark = pytest.mark.unit
VOTERS = ("a", "b", "c")
BALLOT = Ballot(5, "x")
C1, C2 = "1" * 40, "2" * 40


def at(seq: int, epoch: int = 1, chain: str = C1) -> Position:
    """A position."""
    return Position(epoch, seq, chain)


def report(node: str, position: Position, voters: tuple[str, ...] = VOTERS) -> Report:
    """An answer to the ballot."""
    return Report(node, BALLOT, position, voters)


def decided(
    *reports: Report,
    kept: ServerHistory | None = None,
    mode: Mode = Mode.SAFE,
    common: Common | None = None,
) -> Decision:
    """The decision upon reports."""
    found = decide(BALLOT, reports, kept, mode, common)
    assert isinstance(found, Decision), found
    return found


def server_at(
    position: Position,
    voters: tuple[str, ...] = VOTERS,
    followers: frozenset[str] = frozenset(VOTERS),
) -> ServerHistory:
    """A complete history of the server, which all voters can follow."""
    return ServerHistory(position, voters, followers)


def view(position: Position, state: str = "open", **fields: object) -> LogView:
    """An open log of the node's own server."""
    given: dict[str, Any] = {"epoch_id": "e", "is_same_server": True, **fields}
    return LogView(position, state=state, **given)


# --- promises -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        (Ballot(5, "x"), True),
        (Ballot(5, "y"), False),
        (Ballot(5, "w"), False),
        (Ballot(4, "z"), False),
        (Ballot(6, "a"), True),
    ],
)
def test_one_ballot_of_each_number_is_promised(asked: Ballot, may: bool) -> None:
    """A higher number, or the very same ballot; never another one of that number."""
    assert may is may_promise(BALLOT, asked)


def test_ballot_text_round_trip() -> None:
    """Malformed texts are refused."""
    assert Ballot.parse(str(BALLOT)) == BALLOT
    for text in ("", "5", "5.", ".x", "x.5", "-1.x", "5.x|y", "5.x y"):
        with pytest.raises(ValueError, match="ballot"):
            Ballot.parse(text)


# --- what a head means ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "position", "promised", "assessment"),
    [
        (None, at(3), Ballot(), Assessment(Action.START_BALLOT, Cause.LOST)),
        (None, Position(), Ballot(), Assessment(Action.CREATE_LOG)),
        (view(at(3)), at(3), Ballot(1, "e"), Assessment(Action.FOLLOW)),
        (view(at(9)), at(3), Ballot(1, "e"), Assessment(Action.FOLLOW)),
        (view(at(9, 2)), at(12), Ballot(1, "e"), Assessment(Action.FOLLOW)),
        (view(at(3)), at(4), Ballot(1, "e"), Assessment(Action.START_BALLOT, Cause.REGRESSED)),
        (
            view(at(3)),
            at(3, chain=C2),
            Ballot(1, "e"),
            Assessment(Action.START_BALLOT, Cause.REGRESSED),
        ),
        (view(at(3)), at(3), BALLOT, Assessment(Action.START_BALLOT, Cause.PROMISED)),
        (
            view(at(3), is_same_server=False),
            at(3),
            Ballot(),
            Assessment(Action.START_BALLOT, Cause.RESTARTED),
        ),
        (view(at(3), "frozen"), at(9), BALLOT, Assessment(Action.WAIT)),
        (
            view(at(3), "recovering"),
            at(3),
            Ballot(),
            Assessment(Action.START_BALLOT, Cause.INHERITED),
        ),
        (
            view(at(3), "recovering", ballot=BALLOT),
            at(3),
            Ballot(),
            Assessment(Action.START_BALLOT, Cause.INHERITED),
        ),
        (
            view(at(3), "recovering", ballot=BALLOT, is_ballot_here=True),
            at(3),
            BALLOT,
            Assessment(Action.JOIN_BALLOT),
        ),
        (
            view(at(3), "recovering", ballot=BALLOT, is_ballot_here=True),
            at(3),
            Ballot(5, "y"),
            Assessment(Action.START_BALLOT, Cause.OUTBID),
        ),
    ],
)
def test_assessment_of_a_log(
    seen: LogView | None, position: Position, promised: Ballot, assessment: Assessment
) -> None:
    """Followed, answered, or closed with the reason."""
    assert assessment == assess_log(seen, position, promised, "e")


def test_node_leaves_an_epoch_that_was_opened_twice() -> None:
    """An epoch is identified by its number and its ballot."""
    assert Assessment(Action.LEAVE_EPOCH) == assess_log(view(at(3)), at(3), Ballot(1, "f"), "f")


# --- the decision ----------------------------------------------------------------------------


def test_longest_history_of_a_majority_wins() -> None:
    """The highest epoch, then the highest sequence number."""
    found = decided(report("a", at(9)), report("b", at(4, 2)))

    assert (at(4, 2), False, ("b",), VOTERS) == (
        found.base,
        found.is_kept,
        found.holders,
        found.voters,
    )
    assert ("c",) == found.absent
    assert "" == found.risk


def test_minority_waits_and_names_the_missing_voters() -> None:
    """One of three voters decides nothing, with any number of observers."""
    found = decide(BALLOT, [report("a", at(9)), report("o", at(9)), report("p", at(9))], None)

    assert MissingReports(("b", "c"), 3) == found


def test_report_to_another_ballot_does_not_count() -> None:
    stale = Report("b", Ballot(5, "y"), at(9), VOTERS)

    assert MissingReports(("b", "c"), 3) == decide(BALLOT, [report("a", at(9)), stale], None)


def test_observer_cannot_win() -> None:
    """An entry that only an observer holds was never acknowledged by a quorum."""
    found = decided(report("a", at(4)), report("b", at(3)), report("o", at(9)))

    assert at(4) == found.base


def test_removed_voter_that_others_count_can_win() -> None:
    """Two majorities may overlap only in a voter that was removed since."""
    five, four = ("a", "b", "c", "d", "e"), ("a", "c", "d", "e")
    held = [report("d", at(1), five), report("e", at(1), five), report("b", at(4), four)]

    assert MissingReports(("a", "c"), 4) == decide(BALLOT, held, None)
    found = decided(*held, report("c", at(2), five))
    assert (at(4), ("b",), four) == (found.base, found.holders, found.voters)


def test_removed_voter_that_only_the_server_counts_can_win() -> None:
    """The majority of the server's voters includes it, so its history counts, too."""
    empty = [report("a", Position(), ()), report("b", Position(), ())]
    found = decided(*empty, report("c", at(4), ("a", "b")), kept=server_at(at(1)))

    assert (at(4), False, ("a", "b")) == (found.base, found.is_kept, found.voters)


def test_majority_is_of_the_voters_in_the_best_report() -> None:
    """The voters in the longest history count, not those of a node that is behind."""
    newest = ("a", "b", "c", "d", "e")
    short = [report("a", at(9), newest), report("b", at(4)), report("o", at(4))]

    assert MissingReports(("c", "d", "e"), 5) == decide(BALLOT, short, None)
    assert at(9) == decided(*short, report("c", at(4))).base


@pytest.mark.parametrize(
    ("position", "is_kept"),
    [(at(4), True), (at(7), True), (at(2, 2), True), (at(3), False), (at(4, chain=C2), False)],
)
def test_server_history_is_kept_if_it_reaches_the_best_report(
    position: Position, is_kept: bool
) -> None:
    """The stream of the server wins only if it contains everything that was reported."""
    found = decided(report("a", at(4)), report("b", at(3)), kept=server_at(position))

    assert is_kept is found.is_kept
    assert (position if is_kept else at(4)) == found.base


def test_server_history_that_nobody_can_follow_is_not_kept() -> None:
    """It begins after what one voter holds, and the other one is on another side."""
    aside, behind = report("a", at(9)), report("b", at(1))
    stranded = server_at(at(7, 2), followers=frozenset())
    followed = server_at(at(7, 2), followers=frozenset({"b"}))

    assert (at(9), False) == _kept(decided(aside, behind, kept=stranded))
    assert (at(7, 2), True) == _kept(decided(aside, behind, kept=followed))


def test_server_history_of_the_same_epoch_goes_on_where_the_winner_stands() -> None:
    reports = [report("a", at(9)), report("b", at(1))]
    aside = server_at(at(12), followers=frozenset({"b"}))
    beyond = server_at(at(12), followers=frozenset({"a"}))

    assert (at(9), False) == _kept(decided(*reports, kept=aside))
    assert (at(12), True) == _kept(decided(*reports, kept=beyond))


def _kept(found: Decision) -> tuple[Position, bool]:
    return found.base, found.is_kept


# --- histories of one epoch that part ----------------------------------------------------------


def forks(**seqs: int) -> dict[frozenset[str], int]:
    """Where two histories part: ``ab=4`` for nodes a and b."""
    return {frozenset(pair): seq for pair, seq in seqs.items()}


def test_history_of_a_majority_wins_against_a_longer_one() -> None:
    """Two of three voters hold what a client may have been told of."""
    reports = [report("a", at(6)), report("b", at(6)), report("c", at(9, chain=C2))]

    assert at(9, chain=C2) == decided(*reports).base
    assert at(6) == decided(*reports, common=forks(ac=4, bc=4)).base


def test_longest_of_the_histories_with_the_majority_s_entries_wins() -> None:
    """Two orders share what a majority may hold; a third one does not."""
    shared = [report("a", at(6)), report("b", at(7, chain=C2))]
    other = report("c", at(9, chain="3" * 40))

    assert at(7, chain=C2) == decided(*shared, other, common=forks(ab=5, ac=3, bc=3)).base


def test_two_orders_and_an_absent_voter_are_not_decided() -> None:
    """The absent voter may hold either: with it, either may have been acknowledged."""
    reports = [report("a", at(6)), report("c", at(9, chain=C2))]
    found = decide(BALLOT, reports, None, Mode.SAFE, forks(ac=4))

    assert MissingReports(("b",), 3) == found
    forced = decide(BALLOT, reports, None, Mode.FORCED, forks(ac=4))
    assert isinstance(forced, Decision)
    assert "b" in forced.risk


def test_absent_voter_matters_only_if_it_can_make_a_majority() -> None:
    five = ("a", "b", "c", "d", "e")
    held = [report(name, at(6), five) for name in "abc"]
    other = report("d", at(9, chain=C2), five)

    found = decided(*held, other, common=forks(ad=4, bd=4, cd=4))

    assert (at(6), ("a", "b", "c")) == (found.base, found.holders)


def test_server_that_continues_a_lost_order_is_not_kept() -> None:
    reports = [report("a", at(6)), report("b", at(6)), report("c", at(9, chain=C2))]
    kept = server_at(at(12, chain=C2), followers=frozenset({"c"}))

    found = decided(*reports, kept=kept, common=forks(ac=4, bc=4))

    assert (at(6), False) == _kept(found)


def test_server_that_changed_the_voters_needs_both_majorities() -> None:
    """Entries that no node has applied may contain a change of the voters."""
    kept = server_at(at(7), ("a", "b", "c", "d"))
    two = [report("a", at(4)), report("b", at(3))]

    assert isinstance(decide(BALLOT, two, kept), MissingReports)
    assert kept.voters == decided(*two, report("c", at(3)), kept=kept).voters


def test_log_that_no_node_has_applied_is_kept() -> None:
    """The log was just created: its stream is complete and the nodes are empty."""
    empty = [report("a", Position(), ()), report("b", Position(), ())]

    assert at(1) == decided(*empty, kept=server_at(at(1))).base
    assert MissingReports((), 0) == decide(BALLOT, empty, None)


def test_chain_with_more_holders_wins() -> None:
    """Two chains at one place would be a bug; every node must still decide equally."""
    found = decided(report("a", at(4, chain=C2)), report("b", at(4)), report("c", at(4)))

    assert at(4) == found.base


def test_present_nodes_decide_in_available_and_forced_mode() -> None:
    """The decision names the risk; in forced mode absent voters lose their vote."""
    lone = report("a", at(4))
    available = decided(lone, mode=Mode.AVAILABLE)
    forced = decided(lone, mode=Mode.FORCED)

    assert (VOTERS, ("a",)) == (available.voters, forced.voters)
    assert "1.4" in available.risk
    assert "b, c" in forced.risk
    assert MissingReports((), 0) == decide(BALLOT, [report("a", Position(), ())], None, Mode.FORCED)


def test_empty_nodes_take_over_the_servers_history() -> None:
    """If they can follow it from its first entry; then all who answered vote."""
    empty = [report("y", Position(), ()), report("x", Position(), ())]
    followed = server_at(at(9), followers=frozenset({"x"}))
    found = decide_without_holders(BALLOT, empty, followed)

    assert found is not None
    assert (at(9), True, ("x", "y"), VOTERS) == (
        found.base,
        found.is_kept,
        found.voters,
        found.absent,
    )
    assert "writes after 1.9" in found.risk
    assert isinstance(decide(BALLOT, empty, followed, Mode.FORCED), MissingReports)


@pytest.mark.parametrize("kept", [None, server_at(at(9), followers=frozenset())])
def test_log_begins_again_if_nothing_of_it_can_be_followed(kept: ServerHistory | None) -> None:
    found = decide_without_holders(BALLOT, [report("x", Position(), ())], kept)

    assert found is not None
    assert (Position(), False, ("x",), ("x",)) == (
        found.base,
        found.is_kept,
        found.voters,
        found.holders,
    )
    assert "all routes are lost" in found.risk


def test_nodes_with_entries_are_not_passed_over() -> None:
    reports = [report("x", Position(), ()), report("a", at(3))]

    assert None is decide_without_holders(BALLOT, reports, server_at(at(9)))
    assert None is decide_without_holders(BALLOT, [], server_at(at(9)))


def test_observer_decides_if_no_voter_is_left() -> None:
    """Only in the modes that accept losses."""
    found = decided(report("o", at(4)), mode=Mode.FORCED)

    assert (at(4), ("o",)) == (found.base, found.voters)


def test_opening_contains_the_base_and_the_voters() -> None:
    opened = decided(report("a", at(4)), report("b", at(4))).opening(BALLOT, "f", 3)

    assert ("x", 4, VOTERS, "f", 3) == (
        opened.epoch_id,
        opened.base_seq,
        opened.voters,
        opened.fingerprint,
        opened.dim,
    )


@pytest.mark.parametrize(
    ("base_seq", "behind_seq", "after_seq"),
    [
        (10, 3, 0),
        (5_000, 4_990, 5_000 - REFILL_ENTRIES_MIN),
        (5_000, 1_200, 1_200),
        (50_000, 3, 50_000 - REFILL_ENTRIES_MAX),
    ],
)
def test_log_is_refilled_for_nodes_that_are_behind(
    base_seq: int, behind_seq: int, after_seq: int
) -> None:
    """At least a little, at most what an op log holds."""
    found = decided(report("a", at(base_seq)), report("b", at(behind_seq)))

    assert after_seq == found.refill_after_seq


def test_histories_agree_up_to_the_first_difference() -> None:
    """Equal chains after a difference do not count."""
    own = {4: "a", 5: "b", 6: "c"}

    assert 5 == common_seq(3, own, [(4, "a"), (5, "b"), (6, "x"), (7, "y")])
    assert 3 == common_seq(3, own, [(4, "x"), (5, "b")])
    assert 3 == common_seq(3, own, [])


# --- voters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "voters", "enough"),
    [("ab", "abc", True), ("a", "abc", False), ("ab", "abcd", False), ("", "", False)],
)
def test_majority_is_more_than_half(present: str, voters: str, enough: bool) -> None:
    """Half is not enough; without voters there is no majority."""
    assert enough is is_majority(present, voters)


def test_voters_change_one_at_a_time() -> None:
    """They stay sorted, and a repeated change has no effect."""
    added = plan_voters(VOTERS, VoterAdd("aa"), Revision(1, 2))
    removed = plan_voters(VOTERS, VoterRemove("b"), Revision(1, 2))

    assert ("a", "aa", "b", "c") == added.voters
    assert ("a", "c") == removed.voters
    for same in (VoterAdd("a"), VoterRemove("z")):
        planned = plan_voters(VOTERS, same, Revision(1, 2))
        assert ("unchanged", None) == (planned.outcome.status, planned.voters)


def test_number_of_voters_is_limited() -> None:
    """The last one cannot be removed."""
    many = tuple(f"n{number:02}" for number in range(VOTERS_MAX))

    assert "rejected" == plan_voters(("a",), VoterRemove("a"), Revision(1, 2)).outcome.status
    assert "rejected" == plan_voters(many, VoterAdd("z"), Revision(1, 2)).outcome.status

"""The entry that opens an epoch needs the votes of a majority of the voters before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import Ballot, Entry, OpenEpoch, Position, Proposal, PutSettings
from synaptoroute.core.recovery import Report
from synaptoroute.core.replica import VOTERS_MAX, Electors
from synaptoroute.sequencer.votes import VoteCheck, choose_votes, is_agreed, read_vote, sign_vote
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

pytestmark = pytest.mark.unit

SECRET = ClusterSecret("default", {"a": b"s" * 32})
VOTERS = ("n1", "n2", "n3")
SIGNERS = {name: Signer(name, NodeIdentity.generate(), SECRET) for name in (*VOTERS, "n4")}
KEYS = {name: SIGNERS[name].public_key for name in VOTERS}
BASE = Position(2, 7, "ab" * 20)
BALLOT = Ballot(3, "x")
ELECTORS = Electors(BASE, VOTERS, KEYS)
OPENED = OpenEpoch(BALLOT.id, BASE.seq, VOTERS, "f" * 64, 4)


def vote(
    name: str,
    at: Position = BASE,
    ballot: Ballot = BALLOT,
    cluster_id: str = "c",
    signer: Signer | None = None,
) -> str:
    return sign_vote(signer or SIGNERS[name], cluster_id, Report(name, ballot, at, VOTERS))


def reason(opened: OpenEpoch, electors: Electors = ELECTORS) -> str | None:
    check = VoteCheck(
        lambda statement: read_vote(Verifier(SECRET), statement, "c"),
        lambda _entry, _electors, by: f"by {sorted(by)} alone",
    )
    proposal = Proposal(b"o" * 16, opened)
    frame = encode_proposal(proposal)
    entry = Entry(3, 8, BASE.chain, "cd" * 20, 1, frame, proposal)
    return check(entry, electors)


def refused(*votes: str, opened: OpenEpoch = OPENED) -> str:
    found = reason(replace(opened, votes=votes))
    assert found is not None
    return found


def test_majority_opens_an_epoch() -> None:
    assert reason(replace(OPENED, votes=(vote("n1"), vote("n3")))) is None
    behind = vote("n2", Position(2, 3, "00" * 20))
    assert reason(replace(OPENED, votes=(vote("n1"), behind))) is None


def test_vote_of_an_observer_does_not_count_and_does_not_harm() -> None:
    assert reason(replace(OPENED, votes=(vote("n1"), vote("n2"), vote("n4")))) is None
    assert "alone" in refused(vote("n1"), vote("n4"))


def test_other_entries_need_no_votes() -> None:
    check = VoteCheck(lambda _: pytest.fail("a vote is read"), lambda *_: "refused")
    proposal = Proposal(b"o" * 16, PutSettings.__new__(PutSettings))
    assert check(Entry(2, 8, "", "", 1, b"", proposal), ELECTORS) is None


@pytest.mark.parametrize(
    ("votes", "why"),
    [
        ((), "votes of 0 of 3"),
        ((vote("n1"),), "alone"),
        ((vote("n1"), vote("n1")), "twice"),
        ((vote("n1"), vote("n2", ballot=Ballot(3, "y"))), "another ballot"),
        ((vote("n1"), vote("n2", ballot=Ballot(4, "x"))), "another ballot"),
        ((vote("n1"), vote("n2", cluster_id="d")), "another cluster"),
        ((vote("n1"), "{}"), "malformed"),
        ((vote("n1"), vote("n2").replace(SIGNERS["n2"].public_key, "0" * 64)), "not admitted"),
        ((vote("n1"), *[vote("n2")] * VOTERS_MAX), "at most"),
    ],
)
def test_minority_opens_no_epoch(votes: tuple[str, ...], why: str) -> None:
    assert why in refused(*votes)


def test_member_cannot_vote_for_a_voter() -> None:
    """The secret admits any key under any name; the log knows the voters' keys."""
    invented = Signer("n2", NodeIdentity.generate(), SECRET)
    assert "not its own" in refused(vote("n1"), vote("n2", signer=invented))
    # A voter whose key is not known: then a key still votes once only.
    known = Electors(BASE, VOTERS, {"n1": KEYS["n1"]})
    same = Signer("n2", SIGNERS["n1"]._identity, SECRET)
    found = reason(replace(OPENED, votes=(vote("n1"), vote("n2", signer=same))), known)
    assert found is not None
    assert "twice" in found


def test_base_keeps_what_a_majority_may_have_held() -> None:
    beyond = [vote(name, Position(2, 9, "ef" * 20)) for name in VOTERS]
    assert "alone" in refused(vote("n1"), *beyond[1:])
    assert "alone" in refused(*beyond[1:])
    assert reason(replace(OPENED, votes=(vote("n1"), vote("n2"), beyond[2]))) is None
    forked = vote("n2", replace(BASE, chain="00" * 20))
    assert "alone" in refused(vote("n1"), forked)


def test_every_majority_has_a_voter_whose_report_the_base_keeps() -> None:
    """Of four voters, two may be left out: any three include one of the other two."""
    electors = Electors(BASE, ("a", "b", "c", "d"), {})
    reports = [Report(name, BALLOT, BASE, ()) for name in "ab"]
    longer = Report("c", BALLOT, Position(2, 9, "ef" * 20), ())
    opened = replace(OPENED, voters=electors.voters)
    assert is_agreed(opened, [*reports, longer], electors)
    assert not is_agreed(opened, reports, electors)


def test_opening_changes_neither_voters_nor_level() -> None:
    votes = (vote("n1"), vote("n2"))
    assert "alone" in refused(*votes, opened=replace(OPENED, voters=("n1", "n2")))
    assert "2 of 3" in refused(*votes, opened=replace(OPENED, voters=("n1", "n4")))
    raised = replace(OPENED, level=3, voter_keys=tuple(sorted(KEYS.items())))
    assert "level" in refused(*votes, opened=raised)


def test_votes_raise_the_level_of_a_frame() -> None:
    plain = encode_proposal(Proposal(b"o" * 16, OPENED))
    opened = replace(OPENED, votes=(vote("n1"),))
    frame = encode_proposal(Proposal(b"o" * 16, opened))
    assert (1, VOTES_LEVEL) == (plain[4], frame[4])
    assert decode_proposal(frame).mutation == opened


def test_votes_of_voters_come_first() -> None:
    votes = {f"o{number:03}": "observer" for number in range(VOTERS_MAX)} | {"z": "voter"}
    chosen = choose_votes(votes, ("z",))
    assert (VOTERS_MAX, "voter") == (len(chosen), chosen[0])

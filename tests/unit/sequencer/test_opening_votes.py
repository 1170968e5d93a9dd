"""The entry that opens an epoch needs the votes of a majority of the voters before it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import (
    Ballot,
    Entry,
    OpenEpoch,
    Position,
    Proposal,
    PutSettings,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.recovery import Report
from synaptoroute.core.replica import VOTERS_MAX, Electors
from synaptoroute.sequencer.votes import VoteCheck, choose_votes, is_agreed, read_vote, sign_vote
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier
from synaptoroute.trust.voters import (
    VoterChange,
    hash_of_keys,
    read_change,
    sign_change,
    verify_chain,
)

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


def reason(
    opened: OpenEpoch | VoterAdd | VoterRemove,
    electors: Electors = ELECTORS,
    *,
    is_pinned: bool = True,
) -> str | None:
    check = VoteCheck(
        lambda statement: read_vote(Verifier(SECRET), statement, "c"),
        lambda statement: read_change(Verifier(SECRET), statement),
        lambda: is_pinned,
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
    fail = pytest.fail
    check = VoteCheck(fail, fail, lambda: True, lambda *_: "refused")
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


# --- changes of the voters ---------------------------------------------------------------

NEW = SIGNERS["n4"].public_key
OP = b"o" * 16


def agreement(
    name: str, *, at: Position = BASE, signer: Signer | None = None, **changes: Any
) -> str:
    change = VoterChange("c", OP.hex(), True, "n4", NEW, hash_of_keys(KEYS.values()))
    return sign_change(signer or SIGNERS[name], replace(change, **changes), at)


def test_majority_of_the_voters_admits_a_voter() -> None:
    assert reason(VoterAdd("n4", NEW, (agreement("n1"), agreement("n3")))) is None
    gone = {"is_adding": False, "node": "n3", "key": KEYS["n3"]}
    votes = tuple(agreement(name, **gone) for name in ("n1", "n2"))
    assert reason(VoterRemove("n3", votes)) is None


@pytest.mark.parametrize(
    "votes",
    [
        (),
        (agreement("n1"),),
        (agreement("n1"), agreement("n1")),
        (agreement("n1"), agreement("n4")),
        (agreement("n1"), agreement("n2", signer=Signer("n2", NodeIdentity.generate(), SECRET))),
        (agreement("n1"), agreement("n2", op="00" * 16)),
        (agreement("n1"), agreement("n2", is_adding=False)),
        (agreement("n1"), agreement("n2", key="ab" * 32)),
        (agreement("n1"), agreement("n2", node="n5")),
        (agreement("n1"), agreement("n2", before=hash_of_keys([]))),
        (agreement("n1"), agreement("n2", at=Position(2, 8, "ab" * 20))),
        (agreement("n1"), "junk"),
    ],
)
def test_minority_admits_no_voter(votes: tuple[str, ...]) -> None:
    found = reason(VoterAdd("n4", NEW, votes))
    assert found is not None
    assert "of 3" in found
    assert (reason(VoterAdd("n4", NEW, votes), is_pinned=False) is None) is not bool(votes)


def test_agreement_is_not_good_for_ever() -> None:
    votes = (agreement("n1"), agreement("n2"))
    other = Electors(BASE, VOTERS, KEYS, {7: "00" * 20})
    assert reason(VoterAdd("n4", NEW, votes), other) is not None


def test_change_that_changes_nothing_needs_no_agreement() -> None:
    assert reason(VoterAdd("n1", KEYS["n1"])) is None
    assert reason(VoterRemove("n9")) is None


def _link(votes: tuple[str, ...], before: list[str], key: str, *, is_adding: bool = True) -> str:
    link = {"op": OP.hex(), "is_adding": is_adding, "key": key, "before": sorted(before)}
    return json.dumps({**link, "votes": list(votes)})


def test_chain_leads_from_the_genesis_to_the_voters_of_today() -> None:
    genesis, verifier = list(KEYS.values()), Verifier(SECRET)
    first = _link((agreement("n1"), agreement("n2")), genesis, NEW)
    now = [*genesis, NEW]
    gone = {"is_adding": False, "node": "n3", "key": KEYS["n3"], "before": hash_of_keys(now)}
    votes = tuple(agreement(name, **gone) for name in ("n1", "n2", "n4"))
    second = _link(votes, now, KEYS["n3"], is_adding=False)
    after = frozenset({KEYS["n1"], KEYS["n2"], NEW})

    assert (after, 2) == verify_chain([first, second], verifier, genesis, "c")
    # A genesis that was edited by hand already contains the first change.
    assert (after, 1) == verify_chain([first, second], verifier, now, "c")
    # A majority of the genesis may speak for voters that it does not name.
    assert (after, 1) == verify_chain([second], verifier, genesis, "c")
    assert (frozenset(genesis), 0) == verify_chain([first], verifier, genesis, "other")
    alone = _link((agreement("n1"),), genesis, NEW)
    assert (frozenset(genesis), 0) == verify_chain([alone], verifier, genesis, "c")
    assert (frozenset(now), 1) == verify_chain([first, "junk"], verifier, genesis, "c")


def test_voter_of_the_genesis_cannot_begin_a_chain_of_its_own() -> None:
    own = [KEYS["n1"]]
    vote = agreement("n1", before=hash_of_keys(own))
    link = _link((vote,), own, NEW)
    assert 0 == verify_chain([link], Verifier(SECRET), KEYS.values(), "c")[1]


def test_change_with_votes_has_level_3() -> None:
    for change in (VoterAdd("n4", NEW), VoterAdd("n4", votes=("v",)), VoterRemove("n4", ("v",))):
        frame = encode_proposal(Proposal(OP, change))
        assert (VOTES_LEVEL, change) == (frame[4], decode_proposal(frame).mutation)
    assert encode_proposal(Proposal(OP, VoterAdd("n4")))[4] == 1

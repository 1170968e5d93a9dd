"""Votes in Redis count only if the voters signed them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import Report
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.node_rows import NodeReport, NodeSeen
from synaptoroute.sequencer.votes import (
    VoterPositions,
    holders,
    proved_reports,
    sign_position,
    vote_of,
)
from synaptoroute.trust.certificates import Electorate
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

pytestmark = pytest.mark.unit

SECRET = ClusterSecret("default", {"a": b"s" * 32})
SIGNERS = {name: Signer(name, NodeIdentity.generate(), SECRET) for name in ("n1", "n2", "n3")}
AT = Position(2, 7, "ab" * 20)
VOTERS = Electorate.of_names(SIGNERS, {"n1": SIGNERS["n1"].public_key})
BALLOT = Ballot(3, "x")


class FakeLink:
    """A hash."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    async def call(self, command: str, key: str, *words: str) -> Any:
        """Execute HSET or HMGET."""
        if command == "HSET":
            self.held[words[0]] = words[1].encode()
            return 1
        return [self.held.get(word) for word in words]


def _read(link: FakeLink, positions: VoterPositions | None = None) -> dict[str, Position]:
    reader = positions or _positions(link)
    return asyncio.run(reader.read(VOTERS, "c"))


def _positions(link: FakeLink) -> VoterPositions:
    return VoterPositions(link, Keys("default"), Verifier(SECRET))  # type: ignore[arg-type]


def test_signed_positions_are_read() -> None:
    link = FakeLink()
    for signer in SIGNERS.values():
        asyncio.run(_positions(link).report(signer, "c", AT))
    assert _read(link) == dict.fromkeys(SIGNERS, AT)


@pytest.mark.parametrize(
    "statement",
    [
        b"",
        b"7",
        sign_position(SIGNERS["n2"], "c", AT).encode(),
        sign_position(SIGNERS["n1"], "other", AT).encode(),
        sign_position(Signer("n1", NodeIdentity.generate(), SECRET), "c", AT).encode(),
        sign_position(
            Signer("n1", NodeIdentity.generate(), ClusterSecret("default", {"a": b"t" * 32})),
            "c",
            AT,
        ).encode(),
        sign_position(SIGNERS["n1"], "c", AT).replace("7", "9").encode(),
        SIGNERS["n1"].sign("presence 1", '["c",2,7,"x"]').encode(),
        SIGNERS["n1"].sign("position 1", '["c",2]').encode(),
    ],
)
def test_forged_position_does_not_count(statement: bytes) -> None:
    link = FakeLink()
    link.held["n1"] = statement
    positions = _positions(link)
    assert _read(link, positions) in ({}, {"n1": Position()})
    assert holders(_read(link, positions), AT.epoch, 1) == 0


def test_forged_position_does_not_hide_the_genuine_one() -> None:
    link = FakeLink()
    positions = _positions(link)
    asyncio.run(positions.report(SIGNERS["n1"], "c", AT))
    assert _read(link, positions) == {"n1": AT}
    link.held["n1"] = b"{}"
    assert _read(link, positions) == {"n1": AT}
    assert positions.refused_count == 1


@pytest.mark.parametrize(
    ("epoch", "seq", "count"), [(2, 7, 1), (2, 6, 1), (2, 8, 0), (1, 1, 0), (3, 1, 0)]
)
def test_position_counts_in_its_epoch_up_to_its_place(epoch: int, seq: int, count: int) -> None:
    assert holders({"n1": AT}, epoch, seq) == count


# --- reports to a ballot ------------------------------------------------------------------

REPORT = Report("n1", BALLOT, AT, ("n1", "n2", "n3"))
ROW = NodeReport(
    "n1",
    "",
    "voter",
    "1",
    2,
    "f",
    2,
    7,
    AT.chain,
    "d",
    "live",
    vote=vote_of(BALLOT, AT, REPORT.voters),
)
SEEN = NodeSeen(ROW, 0, SIGNERS["n1"].public_key)
KEYS = {"n1": SIGNERS["n1"].public_key}


def test_report_that_its_node_signed_counts() -> None:
    assert proved_reports([REPORT], [SEEN], KEYS) == (REPORT,)
    assert proved_reports([REPORT], [SEEN], {}) == (REPORT,)


@pytest.mark.parametrize(
    "report",
    [
        replace(REPORT, position=replace(AT, seq=6)),
        replace(REPORT, position=replace(AT, chain="cd" * 20)),
        replace(REPORT, position=replace(AT, epoch=1)),
        replace(REPORT, voters=("n1",)),
        replace(REPORT, ballot=Ballot(3, "y")),
        replace(REPORT, node_id="n2"),
    ],
)
def test_report_that_differs_from_the_signed_vote_does_not_count(report: Report) -> None:
    assert proved_reports([report], [SEEN], KEYS) == ()


@pytest.mark.parametrize(
    "seen",
    [
        [],
        [replace(SEEN, public_key="")],
        [replace(SEEN, public_key="ab" * 32)],
        [replace(SEEN, report=replace(ROW, vote=""))],
    ],
)
def test_report_without_a_signed_vote_does_not_count(seen: list[NodeSeen]) -> None:
    assert proved_reports([REPORT], seen, KEYS) == ()


def test_votes_are_not_ambiguous() -> None:
    """Different reports have different hashes."""
    votes = {
        vote_of(ballot, at, voters)
        for ballot in (BALLOT, Ballot(3, "y"), Ballot(4, "x"))
        for at in (AT, replace(AT, seq=8), replace(AT, epoch=1))
        for voters in (("n1",), ("n1", "n2"), ())
    }
    assert len(votes) == 27

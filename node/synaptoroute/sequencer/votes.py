"""Votes of the voters, proved: their durable positions, and their reports to a ballot.

Redis stores both, so without signatures whoever can write there could acknowledge a write that
no majority holds, or choose the history that survives.  A voter signs

- its durable position, as often as it tells it (``pos:signed``), for ``ack=quorum``;
- in its presence row, the one report that it gave to the ballot that it promised;
- that report once more, as a *vote* (``rec:signed``), which from level 3 of the log on becomes a
  part of the entry that opens the epoch.

A position that was true stays true: a node never forgets an entry within an epoch.  So an old
statement that is shown again delays an acknowledgement and does nothing else.

The entry that opens an epoch carries the votes for it.  Every node counts them, with the voters
that its own history names, and follows no opening without a majority.  So no member opens an epoch
alone.  Source: the new-view message of Castro and Liskov, "Practical Byzantine Fault Tolerance",
1999, section 4.4.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from synaptoroute.core.mutation import (
    Ballot,
    Entry,
    OpenEpoch,
    Position,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.recovery import Report, is_majority
from synaptoroute.core.replica import SEAL_ENTRIES_MAX, VOTERS_MAX, Electors, voters_after
from synaptoroute.errors import ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.trust.certificates import Electorate
from synaptoroute.trust.statements import Signer, Verifier
from synaptoroute.trust.voters import AgreedChange, VoterChange, count_agreed, hash_of_keys

POSITION_PURPOSE: Final = "position 1"
VOTE_PURPOSE: Final = "vote 1"


async def call_hash(link: Link, command: str, key: str, *words: str) -> Any:
    """Read or write a hash; a key of another type holds no votes, so it is deleted first.

    Raises:
        SequencerUnavailable: No answer.
    """
    try:
        return await link.call(command, key, *words)
    except SequencerUnavailable as error:
        if "WRONGTYPE" not in str(error.fields.get("redis_error", "")):
            raise
    await link.call("DEL", key)
    return await link.call(command, key, *words)


# --- positions ----------------------------------------------------------------------------


class VoterPositions:
    """The signed positions of one namespace's voters.  Used on one event loop."""

    def __init__(self, link: Link, keys: Keys, verifier: Verifier) -> None:
        self.refused_count = 0  # Statements that did not count, each counted once
        self._link = link
        self._key = keys.signed_positions
        self._verifier = verifier
        # What was read of each node: its bytes, and its key and position if they are genuine
        self._known: dict[str, tuple[bytes, str, Position]] = {}

    async def report(self, signer: Signer, cluster_id: str, position: Position) -> None:
        """Tell a durable position of this node.

        Raises:
            SequencerUnavailable: No answer.
        """
        statement = sign_position(signer, cluster_id, position)
        await call_hash(self._link, "HSET", self._key, signer.name, statement)

    async def read(self, electorate: Electorate, cluster_id: str) -> dict[str, Position]:
        """Read the positions of the voters, by name; those that are not genuine are left out.

        Raises:
            SequencerUnavailable: No answer.
        """
        names = sorted(electorate.voters)
        found = await call_hash(self._link, "HMGET", self._key, *names)
        positions = {}
        for name, statement in zip(names, found, strict=True):
            if statement is None:
                continue
            public_key, position = self._verify(name, bytes(statement), cluster_id)
            if electorate.identity_of(name, public_key) is not None:
                positions[name] = position
        return positions

    def _verify(self, name: str, statement: bytes, cluster_id: str) -> tuple[str, Position]:
        known = self._known.get(name)
        if known is None or known[0] != statement:
            try:
                public_key, position = read_position(self._verifier, statement, name, cluster_id)
            except ProtocolError:
                self.refused_count += 1
                # The genuine one before stays true.
                public_key, position = known[1:] if known else ("", Position())
            known = self._known[name] = statement, public_key, position
        return known[1:]


def sign_position(signer: Signer, cluster_id: str, position: Position) -> str:
    body = [cluster_id, position.epoch, position.seq, position.chain]
    return signer.sign(POSITION_PURPOSE, json.dumps(body, separators=(",", ":")))


def read_position(
    verifier: Verifier, statement: bytes, name: str, cluster_id: str
) -> tuple[str, Position]:
    """Verify a statement about a position; return the key that signed it, and the position.

    Raises:
        ProtocolError: It is malformed, forged, or of another cluster.
    """
    said = verifier.read(POSITION_PURPOSE, statement, by=name)
    try:
        body: Any = json.loads(said.body)
        of, epoch, seq, chain = body
        position = Position(int(epoch), int(seq), str(chain))
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError("a statement about a position is malformed") from error
    if of != cluster_id:
        raise ProtocolError(f"a position of {name!r} in another cluster", forged=True)
    return said.public_key, position


def holders(positions: Mapping[str, Position], epoch: int, seq: int) -> int:
    """Count the voters that hold an entry.

    Positions of earlier epochs do not count: what they name may have been left behind.
    """
    return sum(each.epoch == epoch and each.seq >= seq for each in positions.values())


# --- reports to a ballot ------------------------------------------------------------------


def vote_of(ballot: Ballot, position: Position, voters: Sequence[str]) -> str:
    """The hash of a report to a ballot, as a voter signs it in its row."""
    text = f"{ballot}|{position.epoch}|{position.seq}|{position.chain}|{','.join(voters)}"
    return sha256(text.encode()).hexdigest()


def proved_reports(
    reports: Iterable[Report], seen: Iterable[NodeSeen], voter_keys: Mapping[str, str]
) -> tuple[Report, ...]:
    """Keep the reports that their nodes signed.

    Args:
        reports: The reports as Redis has them.
        seen: The verified rows of the nodes.
        voter_keys: Keys of nodes that must not speak with another one.
    """
    rows = {each.report.node_id: each for each in seen}
    proved = []
    for report in reports:
        row = rows.get(report.node_id)
        if row is None or not row.public_key:
            continue
        is_own_key = voter_keys.get(report.node_id, row.public_key) == row.public_key
        is_vote = row.report.vote == vote_of(report.ballot, report.position, report.voters)
        if is_own_key and is_vote:
            proved.append(report)
    return tuple(proved)


# --- votes: signed reports that others can verify ------------------------------------------


def sign_vote(signer: Signer, cluster_id: str, report: Report) -> str:
    """Sign this node's report to a ballot."""
    at = report.position
    voters = ",".join(report.voters)
    body = [cluster_id, str(report.ballot), at.epoch, at.seq, at.chain, voters]
    return signer.sign(VOTE_PURPOSE, json.dumps(body, separators=(",", ":")))


def read_vote(verifier: Verifier, statement: str, cluster_id: str) -> tuple[Report, str]:
    """Verify a vote; return the report, and the key that signed it.

    Raises:
        ProtocolError: It is malformed, forged, or of another cluster.
    """
    said = verifier.read(VOTE_PURPOSE, statement)
    try:
        body: Any = json.loads(said.body)
        of, ballot, epoch, seq, chain, voters = body
        position = Position(int(epoch), int(seq), str(chain))
        names = tuple(str(voters).split(",")) if voters else ()
        report = Report(said.by, Ballot.parse(str(ballot)), position, names)
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError("a vote is malformed") from error
    if of != cluster_id:
        raise ProtocolError(f"a vote of {said.by!r} in another cluster", forged=True)
    return report, said.public_key


def choose_votes(votes: Mapping[str, str], voters: Sequence[str]) -> tuple[str, ...]:
    """Choose the votes that an entry carries: those of voters first, and not more than it takes."""
    names = sorted(votes, key=lambda name: (name not in voters, name))
    return tuple(votes[name] for name in names[:VOTERS_MAX])


class Ballots:
    """The votes of one namespace's nodes to the current ballot.  Used on one event loop."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._key = keys.signed_reports

    async def vote(self, name: str, statement: str) -> None:
        """Publish a node's vote.

        Raises:
            SequencerUnavailable: No answer.
        """
        await call_hash(self._link, "HSET", self._key, name, statement)

    async def read(self, names: Iterable[str]) -> dict[str, str]:
        """Read what is there as the votes of nodes; not verified.

        Raises:
            SequencerUnavailable: No answer.
        """
        wanted = sorted(names)
        if not wanted:
            return {}
        found = await call_hash(self._link, "HMGET", self._key, *wanted)
        pairs = zip(wanted, found, strict=True)
        return {name: bytes(each).decode(errors="replace") for name, each in pairs if each}

    async def clear(self) -> None:
        """Delete the votes: the epoch is open."""
        await self._link.call("DEL", self._key)


class VoteCheck:
    """Decides whether the voters have agreed to an entry that needs their agreement.

    One object for a node: every entry reaches it by ``Replica.receive``, from whatever path.
    Called on the applier's thread.

    Args:
        read: Verifies a vote; returns the report, and the key that signed it.
        read_change: Verifies a voter's statement about a change of the voters.
        is_pinned: Returns whether a change of the voters needs such statements.
        may_force: Returns why an opening by the named nodes, without a majority of the voters,
            is not followed, or None.
    """

    def __init__(
        self,
        read: Callable[[str], tuple[Report, str]],
        read_change: Callable[[str], AgreedChange],
        is_pinned: Callable[[], bool],
        may_force: Callable[[Entry, Electors, frozenset[str]], str | None],
    ) -> None:
        self._read = read
        self._read_change = read_change
        self._is_pinned = is_pinned
        self._may_force = may_force

    def __call__(self, entry: Entry, electors: Electors) -> str | None:
        """Return why an entry is not agreed to; None if it is, or needs no agreement."""
        opened = entry.proposal.mutation
        if isinstance(opened, VoterAdd | VoterRemove):
            return self._refusal_of_change(entry, opened, electors)
        if not isinstance(opened, OpenEpoch):
            return None
        ballot = Ballot(entry.epoch, opened.epoch_id)
        try:
            reports = self._reports(opened.votes, ballot, electors)
        except ProtocolError as error:
            return f"entry {entry.seq} opens epoch {entry.epoch}: {error.message}"
        if opened.level > 1:
            return f"entry {entry.seq} opens epoch {entry.epoch} and changes the level"
        by = frozenset(each.node_id for each in reports)
        if is_agreed(opened, reports, electors):
            return None
        # Absent voters lose their vote where an operator forces it, and nobody else gets one.
        if by and set(opened.voters) <= by.union(electors.voters):
            return self._may_force(entry, electors, by)
        count = len(by.intersection(electors.voters))
        return (
            f"entry {entry.seq} opens epoch {entry.epoch} with the votes of {count} of "
            f"{len(electors.voters)} voters"
        )

    def _refusal_of_change(
        self, entry: Entry, mutation: VoterAdd | VoterRemove, electors: Electors
    ) -> str | None:
        if voters_after(electors.voters, mutation) == electors.voters:
            return None  # It changes nothing
        if not mutation.votes and not self._is_pinned():
            return None
        is_adding, key = False, electors.keys.get(mutation.node_id, "")
        if isinstance(mutation, VoterAdd):
            is_adding, key = True, mutation.public_key
        before = hash_of_keys(electors.keys.get(name, "") for name in electors.voters)
        agreed = []
        for statement in mutation.votes[:VOTERS_MAX]:
            with contextlib.suppress(ProtocolError):
                said = self._read_change(statement)
                op, node = entry.proposal.op_id.hex(), mutation.node_id
                wanted = VoterChange(said.change.cluster, op, is_adding, node, key, before)
                if said.change == wanted and _is_near(said.position, entry, electors):
                    agreed.append(said)
        count = count_agreed(agreed, electors.voters, electors.keys)
        if 2 * count > len(electors.voters):
            return None
        return (
            f"entry {entry.seq} changes the voters with the agreement of {count} of "
            f"{len(electors.voters)}"
        )

    def _reports(
        self, votes: Sequence[str], ballot: Ballot, electors: Electors
    ) -> tuple[Report, ...]:
        if len(votes) > VOTERS_MAX:
            raise ProtocolError(f"an opening has at most {VOTERS_MAX} votes")
        reports: dict[str, Report] = {}
        keys: set[str] = set()
        for statement in votes:
            report, public_key = self._read(statement)
            name = report.node_id
            if report.ballot != ballot:
                raise ProtocolError(f"the vote of {name!r} is for another ballot", forged=True)
            if electors.keys.get(name, public_key) != public_key:
                raise ProtocolError(f"{name!r} votes with a key that is not its own", forged=True)
            # A key votes once under whatever name, and a name once with whatever key.
            if name in reports or public_key in keys:
                raise ProtocolError(f"{name!r} votes twice", forged=True)
            keys.add(public_key)
            reports[name] = report
        return tuple(reports.values())


def _is_near(stood: Position, entry: Entry, electors: Electors) -> bool:
    """Whether a voter stood on this history, not long before an entry."""
    is_known = electors.chains.get(stood.seq, stood.chain) == stood.chain
    return is_known and 0 < entry.seq - stood.seq <= SEAL_ENTRIES_MAX and stood.seq > 0


def is_agreed(opened: OpenEpoch, reports: Sequence[Report], electors: Electors) -> bool:
    """Whether a majority of the voters has voted for an opening that keeps what may be kept.

    A majority must have promised the ballot.  And what any majority held must be in the base: so
    the voters that report nothing beyond it must be at least half of all, because every majority
    has one of those.  A base that merely is as long, on another history, is refused by those who
    hold this one.
    """
    votes = {each.node_id: each.position for each in reports if each.node_id in electors.voters}
    base = electors.base
    kept = [at for at in votes.values() if at == base or at.revision < base.revision]
    return (
        opened.voters == electors.voters
        and is_majority(votes, electors.voters)
        and 2 * len(kept) >= len(electors.voters)
    )

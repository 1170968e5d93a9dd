"""Votes of the voters, proved: their durable positions, and their reports to a ballot.

Redis stores both, so without signatures whoever can write there could acknowledge a write that
no majority holds, or choose the history that survives.  A voter signs

- its durable position, as often as it tells it (``pos:signed``), for ``ack=quorum``;
- in its presence row, the one report that it gave to the ballot that it promised.

A position that was true stays true: a node never forgets an entry within an epoch.  So an old
statement that is shown again delays an acknowledgement and does nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import Report
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.trust.certificates import Electorate
from synaptoroute.trust.statements import Signer, Verifier

POSITION_PURPOSE: Final = "position 1"


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
        await self._link.call("HSET", self._key, signer.name, statement)

    async def read(self, electorate: Electorate, cluster_id: str) -> dict[str, Position]:
        """Read the positions of the voters, by name; those that are not genuine are left out.

        Raises:
            SequencerUnavailable: No answer.
        """
        names = sorted(electorate.voters)
        found = await self._link.call("HMGET", self._key, *names)
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

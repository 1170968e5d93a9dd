"""Epochs on the server: founding a log, trimming it, and changing its epoch in a recovery.

An epoch change has four steps: a ballot closes the log, the nodes report their positions, the
stream of the next epoch is made, and the epoch is opened.  ``core.recovery`` decides which
history survives; this module executes it.  Each step is a script, so it happens completely or
not at all.  A script that changes the log compares the lease's token, the ballot, and the
server's replication id: after a restart or a failover a ballot is void.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from synaptoroute.core.codec import digest_of, encode_proposal
from synaptoroute.core.levels import BASE_LEVEL
from synaptoroute.core.mutation import Ballot, OpenEpoch, Position, Proposal
from synaptoroute.core.recovery import Cause, Decision, Report, ServerHistory
from synaptoroute.core.replica import SEALED_LEVEL, VOTERS_MAX
from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.failpoints import failpoint
from synaptoroute.sequencer.append_errors import NotPlaced, not_placed, text_of
from synaptoroute.sequencer.lease import Held, Lease
from synaptoroute.sequencer.scripts import ALIVE_MS, Head, Script, Scripts, voters_of
from synaptoroute.sequencer.wire import SigningKeys

LINKS_MAX: Final = 20_000
"""Most entries that no node has applied and that are still accepted from the server."""
CHUNK_ENTRIES_MAX: Final = 256
CHUNK_BYTES_MAX: Final = 1_048_576


class RecoveryOutcome(Enum):
    OK = "ok"
    OPEN = "open"  # There is nothing to recover
    FROZEN = "frozen"  # An operator closed the log
    LOST = "lost"  # The server has no log: begin with a ballot
    SUPERSEDED = "superseded"  # There is another ballot or another epoch: read the head again
    RESTARTED = "restarted"  # The server restarted or changed: begin with a ballot
    FENCED = "fenced"  # The lease is not ours any more
    TORN = "torn"  # The stream does not match its header
    REFUSED = "refused"  # The server refused to write


_OUTCOMES: Final = {each.name.encode(): each for each in RecoveryOutcome}


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    outcome: RecoveryOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LogCheck:
    """Reports of the nodes to a ballot, and the server's own stream."""

    reports: tuple[Report, ...]
    kept: ServerHistory | None  # The server's history, if it is complete and contradicts no report
    damage: str  # Why it cannot be kept; empty if it can
    silent: tuple[str, ...]  # Live nodes that have not answered


@dataclass(frozen=True, slots=True)
class ClusterIdentity:
    """Values from which a lost header is restored."""

    cluster_id: str
    fingerprint: str
    dim: int
    level: int
    voters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RefillEntry:
    """One entry of a node's op log, to be put back into the log."""

    epoch: int
    seq: int
    time_us: int
    prev_chain: str
    chain: str
    frame: bytes
    seal: bytes = b""  # As its author made it; empty at level 1


class FoundingOutcome(Enum):
    FOUNDED = "founded"
    EXISTS = "exists"
    REMNANTS = "remnants"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Founding:
    # ``EXISTS`` if another node was first, ``REMNANTS`` if parts of an old log are left
    outcome: FoundingOutcome
    detail: str = ""  # The existing epoch, the remnant, or why it was refused


class TrimOutcome(Enum):
    TRIMMED = "trimmed"
    FENCED = "fenced"
    NO_QUORUM = "unheld"
    BEYOND = "beyond"
    TORN = "torn"


@dataclass(frozen=True, slots=True)
class Trimmed:
    outcome: TrimOutcome
    entries: int = 0  # How many entries were dropped
    detail: str = ""  # The floor now, or what prevents the trim


class Epochs:
    """The operations on the epochs of one namespace's log."""

    def __init__(self, scripts: Scripts, signing_keys: SigningKeys) -> None:
        self._scripts = scripts
        self.signing_keys = signing_keys

    async def found(
        self,
        *,
        fingerprint: str,
        dim: int,
        voters: Sequence[str],
        cluster_id: str | None = None,
        epoch_id: str | None = None,
        level: int = BASE_LEVEL,
        voter_keys: Mapping[str, str] | None = None,
    ) -> Founding:
        """Found the log of an empty namespace.

        Safe if two nodes found at once, and if it is repeated with the same ``epoch_id``
        after a lost answer.  The caller checks that all nodes are empty.

        Raises:
            SequencerUnavailable: No answer.
            ConfigError: There is no voter, too many, or one with a malformed name.
        """
        names = tuple(sorted(set(voters)))
        if not 1 <= len(names) <= VOTERS_MAX or any("," in each or not each for each in names):
            raise ConfigError(f"a log has 1 to {VOTERS_MAX} voters with names without commas")
        ballot = epoch_id or uuid.uuid4().hex
        keys_of_voters = tuple(sorted((voter_keys or {}).items()))
        opened = OpenEpoch(ballot, 0, names, fingerprint, dim, level, keys_of_voters)
        op_id = uuid.uuid5(uuid.NAMESPACE_OID, f"epoch {ballot}").bytes
        frame = encode_proposal(Proposal(op_id, opened))
        keys = self._scripts.keys
        answer = await self._scripts.run(
            Script.OPEN,
            [keys.meta, keys.log(1), keys.positions(1), keys.nodes],
            [
                cluster_id or uuid.uuid4().hex,
                ballot,
                fingerprint,
                dim,
                level,
                ",".join(names),
                keys.bus,
                digest_of(frame),
                self._seal(frame, Position(), level),
            ],
        )
        details = [text_of(each) for each in answer]
        # The same ballot: an earlier call founded the log, and its answer was lost.
        if details[0] == "OK" or (details[0] == "EXISTS" and details[2] == ballot):
            return Founding(FoundingOutcome.FOUNDED)
        if details[0] in ("EXISTS", "REMNANTS", "REFUSED"):
            return Founding(FoundingOutcome[details[0]], details[1])
        raise ProtocolError(f"an unknown outcome {details[0]!r}")

    async def trim(
        self, held: Held | None, epoch: int, floor: int, *, keep_bytes: int = 0
    ) -> Trimmed | NotPlaced:
        """Drop the entries before a floor, if a majority of the voters holds them.

        Args:
            held: The lease that must still be ours; None needs no lease.
            epoch: Epoch of the log.
            floor: Place of the oldest entry that is kept at least.
            keep_bytes: Drop only as many as needed to keep no more bytes; 0 drops all.
        """
        keys = self._scripts.keys
        names = [keys.meta, keys.log(epoch), keys.positions(epoch)]
        names += [keys.lease(held.name)] if held else []
        args = [held.proof if held else "", epoch, floor, keep_bytes]
        answer = await self._scripts.run(Script.TRIM, names, args)
        match answer[0]:
            case b"OK":
                return Trimmed(TrimOutcome.TRIMMED, int(answer[1]), text_of(answer[2]))
            case b"FENCED" | b"TORN":
                return Trimmed(TrimOutcome(text_of(answer[0]).lower()))
            case b"UNHELD":
                held_by = f"{text_of(answer[1])} of {text_of(answer[2])} voters"
                return Trimmed(TrimOutcome.NO_QUORUM, detail=held_by)
            case b"BEYOND":
                return Trimmed(TrimOutcome.BEYOND, detail=text_of(answer[1]))
        return not_placed(answer)

    async def begin(
        self,
        cause: Cause,
        *,
        above: int,
        seen: str,
        node_id: str,
        identity: ClusterIdentity,
        is_header_wrong: bool = False,
    ) -> Ballot | RecoveryResult:
        """Close the log with a ballot, or join the current one.

        Args:
            cause: Why the log is closed.
            above: The ballot gets a number above this one.
            seen: The ``epoch_id`` that the cause refers to, or the ballot to be outbid.
            node_id: This node.
            identity: Values of the header for a server that has no log.
            is_header_wrong: Make the header anew although there is one.

        Returns:
            The current ballot; ``OPEN`` or ``FROZEN`` if there is none.
        """
        keys = self._scripts.keys
        answer = await self._scripts.run(
            Script.BALLOT,
            [keys.meta, keys.reports],
            [
                uuid.uuid4().hex,
                above,
                cause.value,
                seen,
                keys.bus,
                node_id,
                identity.cluster_id,
                identity.fingerprint,
                identity.dim,
                identity.level,
                ",".join(identity.voters),
                int(is_header_wrong),
            ],
        )
        if answer[0] != b"RECOVERING":
            return _acted(answer)
        try:
            return Ballot.parse(text_of(answer[1]))
        except ValueError as error:
            raise ProtocolError(f"a malformed ballot: {answer[1]!r}") from error

    async def check_log(
        self, epoch: int, ballot: Ballot | None, *, alive_ms: int = ALIVE_MS
    ) -> LogCheck | RecoveryResult:
        """Read the reports to a ballot, and check the server's own stream.

        Without a ballot an open log is checked.  Nodes with a heartbeat older than ``alive_ms``
        are not waited for.
        """
        keys = self._scripts.keys
        answer = await self._scripts.run(
            Script.LOG_CHECK,
            [keys.meta, keys.log(epoch), keys.reports, keys.heartbeats],
            [epoch, str(ballot) if ballot else "", alive_ms, LINKS_MAX],
        )
        if answer[0] != b"OK":
            return _acted(answer)
        damage = text_of(answer[1])
        position = Position(epoch, int(answer[2]), text_of(answer[3]))
        voters = voters_of(text_of(answer[4]))
        followers = frozenset(text_of(each) for each in answer[7])
        flat = answer[6]
        pairs = zip(flat[::2], flat[1::2], strict=True)
        reports = tuple(report for pair in pairs if (report := _report_of(*pair)) is not None)
        return LogCheck(
            reports=reports,
            kept=None if damage else ServerHistory(position, voters, followers),
            damage=damage,
            silent=tuple(text_of(each) for each in answer[5]),
        )

    async def refill(
        self, lease: Lease, held: Held, ballot: Ballot, entries: Iterable[RefillEntry]
    ) -> RecoveryResult:
        """Write entries, in order, to the stream of the next epoch; renews the lease."""
        keys = self._scripts.keys
        added_bytes, is_first = "0", True
        for chunk in self._chunks(entries):
            if not is_first and not isinstance(await lease.renew(held), Held):
                return RecoveryResult(RecoveryOutcome.FENCED)
            args: list[Any] = [held.proof, str(ballot), int(is_first), added_bytes, *chunk]
            answer = await self._scripts.run(
                Script.REFILL, [keys.meta, keys.refill, keys.lease(held.name)], args
            )
            if answer[0] != b"OK":
                return _acted(answer)
            added_bytes, is_first = text_of(answer[1]), False
            failpoint("refill.some")
        return RecoveryResult(RecoveryOutcome.OK)

    def _chunks(self, entries: Iterable[RefillEntry]) -> Iterator[list[Any]]:
        chunk: list[Any] = []
        count = size_bytes = 0
        for each in entries:
            # The author's own seal: a new one would say that its author stood here.
            body = each.seal + each.frame if each.seal else self.signing_keys.seal(each.frame)
            if count and (count == CHUNK_ENTRIES_MAX or size_bytes + len(body) > CHUNK_BYTES_MAX):
                yield chunk
                chunk, count, size_bytes = [], 0, 0
            chunk += [each.epoch, each.seq, each.time_us, each.prev_chain, each.chain, body]
            count += 1
            size_bytes += len(body)
        yield chunk

    async def reopen(
        self,
        held: Held,  # The lease under which it is done
        head: Head,  # The header; its ballot ends
        decision: Decision,  # The history that survives
        *,
        # Fingerprint and dimension of the encoder of that history.  The header may name another
        # one if the server's history was not kept.
        encoder: tuple[str, int],
        floor: int,  # Place of the oldest entry of the refilled stream
        floor_chain: str,  # Hash chain before it
        level: int = 0,  # Level of the log at the base; 0 for that of the header
        voter_keys: Mapping[str, str] | None = None,  # Of the voters of a log that begins again
        votes: Sequence[str] = (),  # The signed reports that the decision follows from
        warrant: str = "",  # What the operator signed, if there is no majority
    ) -> RecoveryResult:
        """Open the next epoch; safe to repeat after a lost answer."""
        assert head.ballot is not None, "a closed log has a ballot: this is a bug"
        keys, ballot, base = self._scripts.keys, head.ballot, decision.base
        level = level or head.level
        opened = decision.opening(ballot, *encoder)
        opened = replace(opened, votes=tuple(votes), warrant=warrant)
        if not base.epoch:  # As a founding says it
            keys_of_voters = tuple(sorted((voter_keys or {}).items()))
            opened = replace(opened, level=level, voter_keys=keys_of_voters)
        frame = encode_proposal(Proposal(epoch_op_id(opened), opened))
        kept = decision.is_kept
        answer = await self._scripts.run(
            Script.REOPEN,
            [
                keys.meta,
                keys.log(head.epoch) if kept else keys.refill,
                keys.log(ballot.epoch),
                keys.lease(held.name),
                keys.reports,
                keys.refill,
                keys.positions(ballot.epoch),
                *(name for old in sorted({head.epoch, base.epoch}) for name in self._of(old)),
            ],
            [
                held.proof,
                str(ballot),
                "kept" if kept else "refilled",
                base.seq,
                base.chain,
                floor,
                floor_chain,
                ballot.epoch,
                ballot.id,
                digest_of(frame),
                self._seal(frame, base, level),
                ",".join(decision.voters),
                keys.bus,
                level,
                *encoder,
            ],
        )
        return _acted(answer)

    async def unfreeze(self, node_id: str) -> RecoveryResult:
        """Undo the state ``frozen``: ``OK``, or ``OPEN`` if the log is not frozen."""
        keys = self._scripts.keys
        return _acted(await self._scripts.run(Script.UNFREEZE, [keys.meta], [keys.bus, node_id]))

    def _seal(self, frame: bytes, base: Position, level: int) -> bytes:
        return self.signing_keys.seal(frame, base if level >= SEALED_LEVEL else None)

    def _of(self, epoch: int) -> tuple[str, str]:
        keys = self._scripts.keys
        return keys.log(epoch), keys.positions(epoch)


def epoch_op_id(opened: OpenEpoch) -> bytes:
    """The op_id of the entry that opens an epoch: the same for each try of one ballot."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"epoch {opened.epoch_id}").bytes


def _report_of(node_id: bytes, report: bytes) -> Report | None:
    """Read a report; None for one that is malformed."""
    try:
        ballot, epoch, seq, chain, voters = text_of(report).split("|")
        position = Position(int(epoch), int(seq), chain)
        return Report(text_of(node_id), Ballot.parse(ballot), position, voters_of(voters))
    except (ValueError, ProtocolError):
        return None


def _acted(answer: Sequence[bytes]) -> RecoveryResult:
    outcome = _OUTCOMES.get(answer[0])
    if outcome is None:
        raise ProtocolError(f"an unknown outcome {answer[0]!r}")
    detail = answer[1].decode(errors="replace") if len(answer) > 1 else ""
    return RecoveryResult(outcome, detail)

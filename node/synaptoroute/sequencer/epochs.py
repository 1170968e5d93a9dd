"""Epoch changes on the server: the ballot, the reports, the next log, its opening.

Which history survives is decided by ``core.recovery``; here are the acts.  Each one is
a script, so it happens whole or not at all; those that change the log compare the
lease's token and the ballot, and the ballot with the server's replication id.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from synaptoroute.core.codec import LEVEL, digest_of, encode_proposal
from synaptoroute.core.mutation import Ballot, OpenEpoch, Position, Proposal, Revision
from synaptoroute.core.recovery import Cause, Decision, Report, ServerHistory
from synaptoroute.core.replica import VOTERS_MAX
from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.failpoints import failpoint
from synaptoroute.sequencer.append_errors import NotPlaced, not_placed, text_of
from synaptoroute.sequencer.lease import Held, Lease
from synaptoroute.sequencer.scripts import ALIVE_MS, Head, Script, Scripts, voters_of
from synaptoroute.sequencer.signing import SigningKeys

LINKS_MAX: Final = 20_000
"""Entries that no node has applied, which the server may be believed to hold."""
CHUNK_ENTRIES_MAX: Final = 256
CHUNK_BYTES_MAX: Final = 1_048_576


class RecoveryOutcome(Enum):
    """What came of an act."""

    OK = "ok"
    OPEN = "open"
    """There is nothing to recover."""
    FROZEN = "frozen"
    """An operator closed the log."""
    LOST = "lost"
    """The server has no log: begin with a ballot."""
    SUPERSEDED = "superseded"
    """Another ballot, or another epoch: look again."""
    RESTARTED = "restarted"
    """The server changed meanwhile: begin with a ballot."""
    FENCED = "fenced"
    """The lease is not ours any more."""
    TORN = "torn"
    """The stream is not what it should be."""
    REFUSED = "refused"
    """The server refused to write."""


_OUTCOMES: Final = {each.name.encode(): each for each in RecoveryOutcome}


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """What came of an act.

    Attributes:
        outcome: See ``RecoveryOutcome``.
        detail: Why, where there is more to say.
    """

    outcome: RecoveryOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What the nodes reported to a ballot, and what the server holds.

    Attributes:
        reports: One each node that has answered.
        kept: What the server holds, if it is whole and contradicts no report.
        damage: Why it cannot be kept; empty if it can.
        silent: Live nodes that have not answered.
    """

    reports: tuple[Report, ...]
    kept: ServerHistory | None
    damage: str
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterIdentity:
    """What a header that was lost is made of again.

    Attributes:
        cluster_id: Identity of the cluster.
        fingerprint: Fingerprint of the encoder.
        dim: Dimension of its vectors.
        level: Highest feature level that every node understands.
        voters: Who votes.
    """

    cluster_id: str
    fingerprint: str
    dim: int
    level: int
    voters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RefillEntry:
    """One entry of an op log, to be put back into the log."""

    epoch: int
    seq: int
    time_us: int
    prev_chain: str
    chain: str
    frame: bytes


class FoundingOutcome(Enum):
    """What came of a founding."""

    FOUNDED = "founded"
    EXISTS = "exists"
    REMNANTS = "remnants"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Founding:
    """What came of a founding.

    Attributes:
        outcome: ``EXISTS`` where another was first, ``REMNANTS`` where something
            outlived a log that is gone.
        detail: The epoch that exists, what was left over, or why it was refused.
    """

    outcome: FoundingOutcome
    detail: str = ""


class TrimOutcome(Enum):
    """What came of a trim."""

    TRIMMED = "trimmed"
    FENCED = "fenced"
    NO_QUORUM = "unheld"
    BEYOND = "beyond"
    TORN = "torn"


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What came of a trim.

    Attributes:
        outcome: Only ``TRIMMED`` dropped anything.
        entries: How many entries were dropped.
        detail: The floor now, or what stands against it.
    """

    outcome: TrimOutcome
    entries: int = 0
    detail: str = ""


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
    ) -> Founding:
        """Found the log of an empty namespace; the caller has made sure that it may.

        Safe against a second founder, and against its own repetition with the same
        ``epoch_id`` after a lost answer.

        Raises:
            SequencerUnavailable: No answer.
            ConfigError: The voters are none, too many, or have malformed names.
        """
        names = tuple(sorted(set(voters)))
        if not 1 <= len(names) <= VOTERS_MAX or any("," in each or not each for each in names):
            raise ConfigError(f"a log has 1 to {VOTERS_MAX} voters with names without commas")
        ballot = epoch_id or uuid.uuid4().hex
        opened = OpenEpoch(ballot, 0, names, fingerprint, dim)
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
                LEVEL,
                ",".join(names),
                keys.bus,
                digest_of(frame),
                self.signing_keys.seal(frame),
            ],
        )
        details = [text_of(each) for each in answer]
        match details[0]:
            case "OK":
                return Founding(FoundingOutcome.FOUNDED)
            case "EXISTS" if details[2] == ballot:
                return Founding(FoundingOutcome.FOUNDED)
            case "EXISTS":
                return Founding(FoundingOutcome.EXISTS, details[1])
            case "REMNANTS":
                return Founding(FoundingOutcome.REMNANTS, details[1])
            case "REFUSED":
                return Founding(FoundingOutcome.REFUSED, details[1])
        raise ProtocolError(f"an unknown outcome {details[0]!r}")

    async def trim(self, held: Held, epoch: int, floor: Revision) -> Trimmed | NotPlaced:
        """Drop the entries before a floor, as far as a majority of the voters holds them.

        Args:
            held: The lease that allows it.
            epoch: Epoch of the log.
            floor: Place of the oldest entry to keep; its epoch may be an older one.
        """
        keys = self._scripts.keys
        answer = await self._scripts.run(
            Script.TRIM,
            [keys.meta, keys.log(epoch), keys.positions(epoch), keys.lease(held.name)],
            [held.proof, epoch, floor.seq, floor.epoch],
        )
        match answer[0]:
            case b"OK":
                return Trimmed(TrimOutcome.TRIMMED, int(answer[1]), text_of(answer[2]))
            case b"FENCED" | b"TORN":
                return Trimmed(TrimOutcome(text_of(answer[0]).lower()))
            case b"NO_QUORUM":
                held_by = f"{text_of(answer[1])} of {text_of(answer[2])} voters"
                return Trimmed(TrimOutcome.NO_QUORUM, detail=held_by)
            case b"BEYOND":
                return Trimmed(TrimOutcome.BEYOND, detail=text_of(answer[1]))
        return not_placed(answer)

    async def begin(
        self, cause: Cause, *, above: int, seen: str, node_id: str, identity: ClusterIdentity
    ) -> Ballot | RecoveryResult:
        """Close the log with a ballot, or join the one that goes on.

        Args:
            cause: Why.
            above: The ballot gets a number above this one.
            seen: The ``epoch_id`` that the proof is against, or the ballot to be outbid.
            node_id: Who begins it.
            identity: For a server that holds no log.

        Returns:
            The ballot that goes on now; ``OPEN`` or ``FROZEN`` where there is none.
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
            ],
        )
        if answer[0] != b"RECOVERING":
            return _acted(answer)
        try:
            return Ballot.parse(text_of(answer[1]))
        except ValueError as error:
            raise ProtocolError(f"a ballot that is none: {answer[1]!r}") from error

    async def check_log(
        self, epoch: int, ballot: Ballot | None, *, alive_ms: int = ALIVE_MS
    ) -> LogCheck | RecoveryResult:
        """Read the reports to a ballot, and whether the server's own stream is whole.

        Args:
            epoch: Epoch of the header.
            ballot: None looks at an open log.
            alive_ms: A node with an older heartbeat is not waited for.
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
        said = answer[6]
        reports = tuple(_report_of(*pair) for pair in zip(said[::2], said[1::2], strict=True))
        return LogCheck(
            reports=reports,
            kept=None if damage else ServerHistory(position, voters),
            damage=damage,
            silent=tuple(text_of(each) for each in answer[5]),
        )

    async def refill(
        self, lease: Lease, held: Held, ballot: Ballot, entries: Iterable[RefillEntry]
    ) -> RecoveryResult:
        """Put entries, in order, where the next epoch's log is made; keeps the lease."""
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
        """Cut entries into calls; at least one, which clears what was left behind."""
        chunk: list[Any] = []
        count = size_bytes = 0
        for each in entries:
            body = self.signing_keys.seal(each.frame)
            if count and (count == CHUNK_ENTRIES_MAX or size_bytes + len(body) > CHUNK_BYTES_MAX):
                yield chunk
                chunk, count, size_bytes = [], 0, 0
            chunk += [each.epoch, each.seq, each.time_us, each.prev_chain, each.chain, body]
            count += 1
            size_bytes += len(body)
        yield chunk

    async def reopen(
        self,
        held: Held,
        head: Head,
        decision: Decision,
        *,
        encoder: tuple[str, int],
        floor: int,
        floor_chain: str,
    ) -> RecoveryResult:
        """Open the next epoch upon a decision; safe to repeat after a lost answer.

        Args:
            held: The lease that allows it.
            head: The header; its ballot is the one that is ended.
            decision: What survives.
            encoder: Whose vectors the base holds, fingerprint and dimension: the header is
                that of a longer or shorter history where the base was not kept.
            floor: Place of the oldest entry of the refilled stream.
            floor_chain: Hash chain before it.
        """
        assert head.ballot is not None, "a ballot goes on: this is a bug"
        keys, ballot, base = self._scripts.keys, head.ballot, decision.base
        opened = decision.opening(ballot, *encoder)
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
                self.signing_keys.seal(frame),
                ",".join(decision.voters),
                keys.bus,
                head.level,
                *encoder,
            ],
        )
        return _acted(answer)

    def _of(self, epoch: int) -> tuple[str, str]:
        keys = self._scripts.keys
        return keys.log(epoch), keys.positions(epoch)


def epoch_op_id(opened: OpenEpoch) -> bytes:
    """Name of the write that opens an epoch: the same for each try of one ballot."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"epoch {opened.epoch_id}").bytes


def _report_of(node_id: bytes, said: bytes) -> Report:
    """Read a report.

    Raises:
        ProtocolError: It is malformed.
    """
    try:
        ballot, epoch, seq, chain, voters = text_of(said).split("|")
        position = Position(int(epoch), int(seq), chain)
        return Report(text_of(node_id), Ballot.parse(ballot), position, voters_of(voters))
    except ValueError as error:
        raise ProtocolError(f"a malformed report of {node_id!r}") from error


def _acted(answer: Sequence[bytes]) -> RecoveryResult:
    outcome = _OUTCOMES.get(answer[0])
    if outcome is None:
        raise ProtocolError(f"an unknown outcome {answer[0]!r}")
    detail = answer[1].decode(errors="replace") if len(answer) > 1 else ""
    return RecoveryResult(outcome, detail)

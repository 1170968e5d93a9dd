"""Lives of the log: founding the first, and proving that one goes on.

A server that restarted has another replication id, and the scripts take no writes
until it is shown that nothing was lost: the log is closed (``recover``), every live
node reports its position by its heartbeat, and ``reopen`` lets writes in again if
the stream is whole and every report is a prefix of it.  A real loss leaves the log
closed, with the name of the node that proves it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from synaptoroute.cluster.lease import Held
from synaptoroute.cluster.scripts import (
    ALIVE_MS,
    NotPlaced,
    Script,
    Scripts,
    refusal_of,
    text_of,
)
from synaptoroute.cluster.signing import Keyring
from synaptoroute.core.codec import LEVEL, digest_of, encode_proposal
from synaptoroute.core.mutation import OpenEpoch, Proposal, Revision
from synaptoroute.errors import ConfigError, ProtocolError

VOTERS_MAX: Final = 99


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


class ReopeningOutcome(Enum):
    """What came of a try to reopen."""

    OPEN = "open"
    """Writes are taken again, or were never closed."""
    WAITING = "waiting"
    """Nodes have not reported yet: try again."""
    SUPERSEDED = "superseded"
    """Another recovery, or another epoch: read the head and begin again."""
    RESTARTED = "restarted"
    """The server changed again meanwhile: begin again."""
    LOST = "lost"
    """The server has no log."""
    TORN = "torn"
    """The stream does not hold what the header says."""
    BEHIND = "behind"
    """A node holds entries that the log has lost."""
    FORKED = "forked"
    """A node holds other entries than the log."""
    FROZEN = "frozen"
    """An operator closed the log."""


RETRY: Final = frozenset(
    {ReopeningOutcome.WAITING, ReopeningOutcome.SUPERSEDED, ReopeningOutcome.RESTARTED}
)
"""Outcomes after which the same node may try again; the others need a full recovery."""


@dataclass(frozen=True, slots=True)
class Reopening:
    """What came of a try to reopen.

    Attributes:
        outcome: See ``ReopeningOutcome``.
        nodes: Who is waited for, or who proves the loss.
        at: The position that proves it.
        detail: What does not match, where the stream is torn.
    """

    outcome: ReopeningOutcome
    nodes: tuple[str, ...] = ()
    at: Revision | None = None
    detail: str = ""


_REOPENING: Final = {
    b"OK": ReopeningOutcome.OPEN,
    **{each.name.encode(): each for each in ReopeningOutcome},
}


class TrimOutcome(Enum):
    """What came of a trim."""

    TRIMMED = "trimmed"
    FENCED = "fenced"
    UNHELD = "unheld"
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
    """The rare acts on the header of one namespace's log."""

    def __init__(self, scripts: Scripts, keyring: Keyring) -> None:
        self._scripts = scripts
        self.keyring = keyring

    async def found(
        self,
        *,
        fingerprint: str,
        dim: int,
        voters: Sequence[str],
        lineage: str | None = None,
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
                lineage or uuid.uuid4().hex,
                ballot,
                fingerprint,
                dim,
                LEVEL,
                ",".join(names),
                keys.bus,
                digest_of(frame),
                self.keyring.seal(frame),
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

    async def recover(self) -> str | Reopening:
        """Close the log if its server is not the one it was opened on.

        Returns:
            The ballot to report to and to reopen, or an outcome: ``OPEN`` where there
            is nothing to do, ``LOST``, ``FROZEN``.
        """
        keys = self._scripts.keys
        answer = await self._scripts.run(
            Script.RECOVER, [keys.meta, keys.reports], [uuid.uuid4().hex]
        )
        if answer[0] == b"RECOVERING":
            return text_of(answer[1])
        return _reopening_of(answer)

    async def reopen(self, epoch: int, rec_id: str, *, alive_ms: int = ALIVE_MS) -> Reopening:
        """Let writes in again, if every live node proves that nothing was lost."""
        keys = self._scripts.keys
        answer = await self._scripts.run(
            Script.FENCE,
            [keys.meta, keys.log(epoch), keys.heartbeats, keys.reports],
            [epoch, rec_id, alive_ms, keys.bus],
        )
        return _reopening_of(answer)

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
            case b"UNHELD":
                held_by = f"{text_of(answer[1])} of {text_of(answer[2])} voters"
                return Trimmed(TrimOutcome.UNHELD, detail=held_by)
            case b"BEYOND":
                return Trimmed(TrimOutcome.BEYOND, detail=text_of(answer[1]))
        return refusal_of(answer)


def _reopening_of(answer: Sequence[bytes]) -> Reopening:
    """Type the answer of ``recover.lua`` and ``fence.lua``."""
    outcome = _REOPENING.get(answer[0])
    details = tuple(text_of(each) for each in answer[1:])
    match outcome:
        case None:
            raise ProtocolError(f"an unknown outcome {answer[0]!r}")
        case ReopeningOutcome.BEHIND | ReopeningOutcome.FORKED:
            return Reopening(outcome, details[:1], Revision(int(details[1]), int(details[2])))
        case ReopeningOutcome.WAITING:
            return Reopening(outcome, details)
        case _:
            return Reopening(outcome, detail=" ".join(details))

"""The log's beginning and its oldest entries: founding it, trimming it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from synaptoroute.core.codec import LEVEL, digest_of, encode_proposal
from synaptoroute.core.mutation import OpenEpoch, Proposal, Revision
from synaptoroute.core.replica import VOTERS_MAX
from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.scripts import NotPlaced, Script, Scripts, refusal_of, text_of
from synaptoroute.sequencer.signing import Keyring


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

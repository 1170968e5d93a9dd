"""A replica's whole state at one position, without the vectors.

A snapshot plus the entries after it gives the state that replaying the whole
log gives.  The free slots are not in it: the lowest free slot is always taken
first, so they follow from the owners.  The vectors travel beside it, by slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from synaptoroute.core.change import Outcome, RouteRecord, StagedImport
from synaptoroute.core.mutation import OpenEpoch, Position, Settings


class Remembered(NamedTuple):
    """The outcome of a write, kept so that its repetition has no effect.

    A boot makes as many as the idempotency window is long, so it is a plain tuple.

    Attributes:
        op_id: 16 bytes that name the write.
        seq: Where it stands in the log.
        request_hash: What was asked under that name; empty if unknown.
        outcome: What came of it.
    """

    op_id: bytes
    seq: int
    request_hash: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch that this history went through.

    Attributes:
        epoch: Its number.
        opened: What opened it; ``voters`` follows the changes made since.
    """

    epoch: int
    opened: OpenEpoch


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a replica at ``position``.

    Attributes:
        position: How much of the log it holds.
        settings: Settings of the route set.
        routes: Every route, in order of name.
        row_hashes: Row hash of every slot that has an owner.
        remembered: Outcomes inside the idempotency window, in order of seq.
        imports: Imports that are open, in order of identity.
        epochs: Epochs of this history, in order.
    """

    position: Position = field(default_factory=Position)
    settings: Settings = field(default_factory=Settings)
    routes: tuple[RouteRecord, ...] = ()
    row_hashes: Mapping[int, bytes] = field(default_factory=dict)
    remembered: tuple[Remembered, ...] = ()
    imports: tuple[StagedImport, ...] = ()
    epochs: tuple[EpochRecord, ...] = ()

"""A replica's whole state at one position, without the vectors.

A snapshot and the entries after it give the same state as a replay of the whole log.  It
does not contain the free slots: the lowest free slot is always taken first, so they follow
from the owners.  The vectors travel beside the snapshot, by slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from synaptoroute.core.change import Outcome, RouteRecord, StagedImport
from synaptoroute.core.mutation import OpenEpoch, Position, Settings


class Remembered(NamedTuple):
    """The outcome of a write, kept so that a repeat has no effect.

    A boot makes one for each entry of the idempotency window, so this is a plain tuple.
    """

    op_id: bytes  # 16 bytes that identify the write
    seq: int
    request_hash: bytes  # Of the client's request; empty if unknown
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch in this history."""

    epoch: int
    opened: OpenEpoch  # With ``voters`` as changed since


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a replica at ``position``."""

    position: Position = field(default_factory=Position)
    settings: Settings = field(default_factory=Settings)
    routes: tuple[RouteRecord, ...] = ()  # In order of name
    # Row hash of every slot that has an owner
    row_hashes: Mapping[int, bytes] = field(default_factory=dict)
    # Outcomes inside the idempotency window, in order of seq
    remembered: tuple[Remembered, ...] = ()
    imports: tuple[StagedImport, ...] = ()  # Open imports, in order of identity
    epochs: tuple[EpochRecord, ...] = ()

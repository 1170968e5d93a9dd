"""What a model server keeps: the keys of one namespace as a value that can be copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from synaptoroute.core.mutation import CHAIN_START, Entry, Position
from synaptoroute.core.recovery import Report

FINGERPRINT = "f" * 64
DIM = 1
ENCODERS = ((FINGERPRINT, DIM), ("e" * 64, DIM))
"""The encoder of the founding, and the one that a cluster changes to and back from."""
LINEAGE = "1" * 32


@dataclass
class Store:
    """What a server keeps and replicates.

    Attributes:
        meta: The header; None where there is none.
        logs: Entries of each epoch's stream.
        positions: What each node reported, for each epoch.
        signed: The same as the nodes signed it, with its chain: what nobody else can write.
        reports: Answers to the ballot.
        votes: The answer that each node signed last, in its row.
        beats: When each node was heard last, milliseconds.
        refill: The next epoch's log while it is made.
        lease: Who may open it, and until when.
    """

    meta: dict[str, Any] | None = None
    logs: dict[int, list[Entry]] = field(default_factory=dict)
    positions: dict[int, dict[str, int]] = field(default_factory=dict)
    signed: dict[int, dict[str, Position]] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    votes: dict[str, Report] = field(default_factory=dict)
    beats: dict[str, int] = field(default_factory=dict)
    refill: list[Entry] = field(default_factory=list)
    lease: tuple[str, int, int] | None = None

    def copy(self) -> Store:
        """What a replica or a backup has of it."""
        return Store(
            None if self.meta is None else dict(self.meta),
            {epoch: list(log) for epoch, log in self.logs.items()},
            {epoch: dict(held) for epoch, held in self.positions.items()},
            {epoch: dict(held) for epoch, held in self.signed.items()},
            dict(self.reports),
            dict(self.votes),
            dict(self.beats),
            list(self.refill),
            self.lease,
        )


def header_of(
    voters: tuple[str, ...], level: int, encoder: tuple[str, int] = ENCODERS[0]
) -> dict[str, Any]:
    """The header of a log that is not there yet."""
    return {
        "epoch": 0,
        "epoch_id": "",
        "seq": 0,
        "chain": CHAIN_START,
        "state": "recovering",
        "replid": "",
        "rec_id": "",
        "rec_replid": "",
        "rec_cause": "",
        "lineage": LINEAGE,
        "fingerprint": encoder[0],
        "dim": encoder[1],
        "level": level,
        "floor": 1,
        "floor_chain": CHAIN_START,
        "voters": voters,
        "voters_seq": 1,
    }

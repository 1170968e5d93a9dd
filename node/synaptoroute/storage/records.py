"""The values of this room, and the text form of values that have no columns.

Small values are stored as JSON arrays in the order of their fields.  Rows that the
state's digest does not cover carry a checksum of their own: a database page has none.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Outcome
from synaptoroute.core.digest import BUCKET_COUNT, Digest, add_rest
from synaptoroute.core.mutation import OpenEpoch, Position, Settings
from synaptoroute.core.snapshot import EpochRecord, Snapshot

VECTOR_DTYPE: Final = np.dtype("<f4")
HASH_WORDS: Final = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole state, read from the file and verified.

    Attributes:
        snapshot: The state without the vectors.
        digest: Digest of that state, recomputed from its bytes, 32 hexadecimal digits.
        slots: int64[n], the slots that have an owner, ascending.
        vectors: float32[n, dim]; row i belongs to ``slots[i]``.  Behind it is zeroed
            room, so that a tensor may take the memory over.
        sums: The digest with its buckets; a replica may take it over.
        is_new: The file was made by this call.
        moved_aside: Where a damaged file of this name was put, if there was one.
        is_from_checkpoint: Pages of the database that hold rows were not looked at.
        derived: What a node once derived from exactly these rows, where that was kept.
    """

    snapshot: Snapshot
    digest: str
    slots: NDArray[np.int64]
    vectors: NDArray[np.float32]
    sums: Digest
    is_new: bool = False
    moved_aside: Path | None = None
    is_from_checkpoint: bool = False
    derived: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class LogRow:
    """One entry as the op log keeps it.

    Attributes:
        seq: Place in the log.
        epoch: Life of the log.
        op_id: 16 bytes that name the write.
        prev_chain: Hash chain before the entry.
        chain: Hash chain at the entry.
        time_us: Sequencer's clock, microseconds since 1970.
        frame: The proposal's bytes as sequenced.
        outcome: What came of it here.
        digest: Digest of the state afterwards.
    """

    seq: int
    epoch: int
    op_id: bytes
    prev_chain: str
    chain: str
    time_us: int
    frame: bytes
    outcome: Outcome
    digest: str


@dataclass(frozen=True, slots=True)
class SlotRow:
    """One row of the tensor as the file holds it; see ``core.digest`` for the hash."""

    slot: int
    route_id: int
    utterance: str
    vector: bytes
    row_hash: bytes


@dataclass(frozen=True, slots=True)
class Meta:
    """The row of ``meta``, checked against its checksum."""

    position: Position
    digest: str
    fingerprint: str
    dim: int
    settings: Settings


def checksum(*fields: object) -> int:
    """CRC-32 of a row's columns: integers, texts, bytes and floats."""
    return zlib.crc32(repr(fields).encode())


@lru_cache(maxsize=1)
def dump_settings(settings: Settings) -> str:
    """Write the settings of the route set as a JSON array."""
    fields: list[object] = [
        settings.aggregation,
        settings.topk,
        settings.threshold,
        settings.capacity_slots,
    ]
    if settings.cascade or settings.calibration:
        fields += [settings.cascade, settings.calibration]
    return json.dumps(fields, separators=(",", ":"))


def load_settings(text: str) -> Settings:
    """Read the settings of the route set."""
    return Settings(*json.loads(text))


def meta_row(
    position: Position, digest: str, fingerprint: str, dim: int, settings: Settings
) -> tuple[object, ...]:
    """Columns of ``meta`` after ``only``, with their checksum; every commit writes them."""
    text = dump_settings(settings)
    fields = (position.epoch, position.seq, position.chain, digest, fingerprint, dim)
    head = f"{repr(fields).removesuffix(')')}, "
    return (*fields, text, zlib.crc32(_end_of_sum(text), zlib.crc32(head.encode())))


@lru_cache(maxsize=1)
def _end_of_sum(text: str) -> bytes:
    """What ``checksum`` reads of the settings, the last column of a row."""
    return f"{text!r})".encode()


def epoch_row(record: EpochRecord) -> tuple[object, ...]:
    """Columns of ``epoch``."""
    opened = record.opened
    voters = json.dumps(opened.voters, separators=(",", ":"))
    fields = (
        record.epoch,
        opened.epoch_id,
        opened.base_seq,
        voters,
        opened.fingerprint,
        opened.dim,
    )
    return (*fields, checksum(*fields))


def load_epoch(
    epoch: int, epoch_id: str, base_seq: int, voters: str, fingerprint: str, dim: int
) -> EpochRecord:
    """Read a row of ``epoch`` without its checksum."""
    return EpochRecord(
        epoch, OpenEpoch(epoch_id, base_seq, tuple(json.loads(voters)), fingerprint, dim)
    )


def sums_of(snapshot: Snapshot, slots: NDArray[np.int64] | None = None) -> Digest:
    """Sum a state, from nothing but the state; ``slots`` are those of its row hashes."""
    digest = Digest()
    hashes = snapshot.row_hashes
    if slots is None:
        slots = np.fromiter(hashes, np.int64, len(hashes))
    digest.add_row_sums(_bucket_sums(slots, b"".join(hashes.values())))
    add_rest(digest, snapshot.settings, snapshot.routes, snapshot.imports)
    return digest


def _bucket_sums(slots: NDArray[np.int64], row_hashes: bytes) -> list[int]:
    """Sum joined row hashes by bucket, as ``Digest.add_rows`` does, but as arrays.

    The hashes are added in words of 32 bits: float64 adds two million of those exactly.
    """
    # Slots are spread over the buckets, so no bucket adds more than 2^21 of them.
    assert int(slots.max(initial=0)) < BUCKET_COUNT << 21, "more than a float64 adds exactly"
    buckets = slots & (BUCKET_COUNT - 1)
    words = np.frombuffer(row_hashes, "<u4").reshape(-1, HASH_WORDS)
    sums = [0] * BUCKET_COUNT
    for place in range(HASH_WORDS):
        column = np.bincount(buckets, words[:, place], BUCKET_COUNT)
        for bucket, term in enumerate(column.tolist()):
            sums[bucket] += int(term) << (32 * place)
    return sums


def without(facts: dict[str, str], *keys: str) -> dict[str, str]:
    """Facts but those of some keys."""
    return {key: value for key, value in facts.items() if key not in keys}


def condemned(reason: str) -> str:
    """What is said of a file that turned out to be damaged while it was in use."""
    return f"the database is damaged: {reason}; a restart moves it aside"

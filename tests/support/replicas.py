"""Replicas under test: logs made of proposals, a naive copy of the rows, whole states."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from strategies import CAPACITY_SLOTS, DIM
from synaptoroute.core.change import Change, Commit, Snapshot
from synaptoroute.core.codec import HEADER_BYTES, LEVEL, encode_proposal
from synaptoroute.core.digest import (
    BUCKET_COUNT,
    chunk_hash,
    decision_hash,
    feedback_hash,
    import_hash,
    route_hash,
    row_hash,
    settings_hash,
    test_hash,
)
from synaptoroute.core.free_numbers import FreeNumbers
from synaptoroute.core.mutation import (
    Entry,
    Mutation,
    OpenEpoch,
    Position,
    Proposal,
    PutRoute,
    Revision,
    Settings,
)
from synaptoroute.core.replica import Ignored, Replica, make_entry
from synaptoroute.core.table import RouteTable

SMALL = Settings(capacity_slots=CAPACITY_SLOTS)
EMPTY = Snapshot(settings=SMALL)


def op_id_of(index: int) -> bytes:
    """Sixteen bytes that no strategy of ``strategies`` makes."""
    return b"\xff" * 8 + index.to_bytes(8, "big")


def opening(base_seq: int = 0, founded: int = LEVEL) -> Proposal:
    """The proposal that opens an epoch after ``base_seq``; the first one founds the log."""
    level = 1 if base_seq else founded
    opened = OpenEpoch(f"e{base_seq}", base_seq, ("n1",), dim=DIM, level=level)
    return Proposal(op_id_of(base_seq), opened)


def proposal(mutation: Mutation, index: int, **conditions: Any) -> Proposal:
    """A proposal with an identity of its own."""
    return Proposal(op_id_of(1_000_000 + index), mutation, **conditions)


def log_of(
    proposals: Iterable[Proposal], after: Position | None = None, founded: int = LEVEL
) -> list[Entry]:
    """Number proposals after a position, or from the start, where an epoch is opened first."""
    entries: list[Entry] = []
    position = after or Position()
    for each in proposals if after else (opening(founded=founded), *proposals):
        entries.append(make_entry(position, encode_proposal(each), each, time_us=0))
        position = entries[-1].position
    return entries


def replay(replica: Replica, entries: Sequence[Entry]) -> list[Commit]:
    """Feed entries in order, each made durable at once."""
    commits: list[Commit] = []
    for entry in entries:
        commits.extend(replica.receive(entry).commits)
        replica.advance()
    return commits


def fresh(snapshot: Snapshot = EMPTY) -> Replica:
    """A replica of the small capacity, or one of a snapshot."""
    return Replica(snapshot, dim=DIM)


def free_numbers(numbers: FreeNumbers) -> tuple[int, frozenset[int], list[int]]:
    """All that decides which numbers are handed out next."""
    return numbers.high_water, frozenset(numbers._free), numbers.peek(50)


def table_state(table: RouteTable) -> dict[str, Any]:
    """All of a table that any later answer depends on."""
    return {
        "settings": table.settings,
        "dim": table.dim,
        "routes": dict(table.routes),
        "imports": dict(table.imports),
        "feedback": dict(table.feedback),
        "decision": table.decision,
        "tests": dict(table.tests),
        "row_hashes": dict(table.row_hashes),
        "digest": table.digest.hex(),
        "buckets": list(table.digest.buckets),
        "slots": free_numbers(table._slots),
        "route_ids": free_numbers(table._route_ids),
    }


def full_state(replica: Replica) -> dict[str, Any]:
    """All of a replica that any later answer depends on."""
    return {
        **table_state(replica.table),
        "position": replica.position,
        "epochs": list(replica.epochs),
        "remembered": dict(replica._remembered),
        "in_order": list(replica._in_order),
        "chains": dict(replica._chains),
    }


def digest_from_scratch(table: RouteTable, rows: dict[int, tuple[int, str, bytes]]) -> str:
    """Return the digest by its definition, over separately kept rows."""
    hashes = [row_hash(slot, *row) for slot, row in rows.items()]
    hashes.append(settings_hash(table.settings))
    hashes.extend(route_hash(route) for route in table.routes.values())
    for staged in table.imports.values():
        hashes.append(import_hash(staged.begin))
        hashes.extend(chunk_hash(chunk) for chunk in staged.chunks)
    hashes.extend(map(feedback_hash, table.feedback.values()))
    hashes.extend(map(test_hash, table.tests.values()))
    if table.decision.payload:
        hashes.append(decision_hash(table.decision))
    return f"{sum(int.from_bytes(each, 'little') for each in hashes) % 2**128:032x}"


@dataclass
class Shadow:
    """The rows that SQLite and the tensor hold, computed from changes."""

    rows: dict[int, tuple[int, str, bytes]] = field(default_factory=dict)

    def carry_out(self, change: Change) -> None:
        """Apply a change."""
        written = [write.slot for write in change.writes]
        assert sorted(set(written)) == written
        assert sorted(set(change.freed)) == list(change.freed)
        assert set(written).isdisjoint(change.freed)
        for slot in change.freed:
            del self.rows[slot]
        for write in change.writes:
            self.rows[write.slot] = (write.owner, write.utterance, write.vector)
            assert write.row_hash == row_hash(
                write.slot, write.owner, write.utterance, write.vector
            )

    def check(self, table: RouteTable) -> None:
        """Hold the rows against the table: one owner each, texts, digest, buckets."""
        owned = {
            slot: (owner, text)
            for route in table.routes.values()
            for slot, owner, text in route.rows()
        }
        assert sum(len(route.rows()) for route in table.routes.values()) == len(owned)
        assert {slot: row[:2] for slot, row in self.rows.items()} == owned
        assert set(table.row_hashes) == set(owned)
        assert digest_from_scratch(table, self.rows) == table.digest.hex()
        route_ids = [route.route_id for route in table.routes.values()]
        assert len(set(route_ids)) == len(route_ids)
        assert all(slot < table.settings.capacity_slots for slot in owned)
        buckets = [0] * BUCKET_COUNT
        for slot, hashed in table.row_hashes.items():
            buckets[slot % BUCKET_COUNT] += int.from_bytes(hashed, "little")
        assert [total % 2**128 for total in buckets] == table.digest.buckets


class ShadowedTable:
    """A table that is fed mutations, and what its changes make of a database."""

    def __init__(self, settings: Settings) -> None:
        self.table = RouteTable(settings, dim=2)
        self.shadow = Shadow()
        self.seq = 0

    def do(self, *mutations: Mutation) -> Change:
        """Apply mutations; the change of the last one."""
        change = None
        for mutation in mutations:
            self.seq += 1
            change = self.table.apply(proposal(mutation, self.seq), Revision(1, self.seq))
            self.shadow.carry_out(change)
            self.shadow.check(self.table)
        assert change is not None
        return change


def put(name: str, *texts: str) -> PutRoute:
    """A route of two dimensions."""
    return PutRoute(name, texts or ("text",), (struct.pack("<2f", 1, 0),) * (len(texts) or 1))


def history(count: int) -> list[Entry]:
    """A log of ``count`` entries: the opening of epoch 1 and then routes."""
    return log_of(proposal(put(f"r{i}"), i) for i in range(count - 1))


def at(count: int) -> tuple[Replica, list[Entry]]:
    """A replica that holds ``count`` entries, and those."""
    replica, entries = fresh(), history(count)
    replay(replica, entries)
    return replica, entries


def following(entry: Entry, *mutations: Mutation, index: int = 500) -> list[Entry]:
    """Entries after an entry."""
    return log_of((proposal(m, index + i) for i, m in enumerate(mutations)), entry.position)


def forked(position: Position, epoch: int) -> Entry:
    """The opening of an epoch after a position."""
    return log_of([opening(position.seq)], replace(position, epoch=epoch - 1))[0]


def ignored(replica: Replica, entry: Entry, *args: Any) -> Ignored | None:
    """Receive an entry that must change nothing; why it did not."""
    before = full_state(replica)
    step = replica.receive(entry, *args)
    assert () == step.commits
    assert before == full_state(replica)
    return step.ignored


def vector(x: float = 0) -> bytes:
    """A row of two dimensions."""
    return struct.pack("<2f", x, 1)


def route(name: str, *texts: str, x: float = 0, **fields: Any) -> PutRoute:
    """A whole route whose rows are alike."""
    return PutRoute(name, texts, (vector(x),) * len(texts), **fields)


class World:
    """A table, its seq, and the rows that its changes left in a database."""

    def __init__(self, capacity_slots: int = 12) -> None:
        self.table = RouteTable(Settings(capacity_slots=capacity_slots), dim=2)
        self.shadow = Shadow()
        self.seq = 0

    def do(self, mutation: Mutation, **conditions: Any) -> Change:
        """Apply one mutation; a rejected or unchanged one must change nothing."""
        self.seq += 1
        before = table_state(self.table)
        change = self.table.apply(proposal(mutation, self.seq, **conditions), self.at)
        self.shadow.carry_out(change)
        self.shadow.check(self.table)
        if change.outcome.status != "applied":
            assert before == table_state(self.table)
            assert Change(change.outcome) == change
        return change

    @property
    def at(self) -> Revision:
        """Place of the newest mutation."""
        return Revision(1, self.seq)

    def code(self, mutation: Mutation, **conditions: Any) -> str | None:
        """Code of the rejection."""
        return self.do(mutation, **conditions).outcome.code

    def slots(self, name: str) -> tuple[int, ...]:
        """Slots of a route."""
        return self.table.routes[name].slots


def frame_of(payload: bytes, kind: int = 1, level: int = 1, flags: int = 0) -> bytes:
    """A sound header before any payload."""
    head = struct.pack(
        "<2sBBHHI16s16s32s",
        b"SR",
        1,
        kind,
        level,
        flags,
        len(payload),
        b"\x01" * 16,
        b"\x00" * 16,
        sha256(payload).digest(),
    )
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def frame_of_text(text: str | bytes, vectors: bytes = b"", kind: int = 1, level: int = 1) -> bytes:
    """A sound frame around any text where JSON belongs."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return frame_of(struct.pack("<I", len(raw)) + raw + vectors, kind, level)


def frame_of_fields(fields: Any, vectors: bytes = b"", kind: int = 1, level: int = 1) -> bytes:
    """A sound frame around any fields, written as ours are."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return frame_of_text(text, vectors, kind, level)


def fields_of(frame: bytes) -> tuple[Any, bytes]:
    """Fields and vectors of a frame of ours."""
    payload = frame[HEADER_BYTES:]
    (size,) = struct.unpack_from("<I", payload)
    return json.loads(payload[4 : 4 + size]), payload[4 + size :]

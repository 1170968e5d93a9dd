"""Entries into the file: one group of commits is one transaction.

The commits of a group are folded first, so that a row that changes twice is written
once; the op log and the outcomes keep every entry.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from synaptoroute.core.change import Change, Commit, RouteRecord, SlotWrite
from synaptoroute.core.mutation import IDEMPOTENCY_WINDOW_ENTRIES, Position
from synaptoroute.core.snapshot import EpochRecord
from synaptoroute.storage.outcomes import dump_outcome, remembered_sum
from synaptoroute.storage.records import (
    Meta,
    checksum,
    epoch_row,
    load_epoch,
    meta_row,
)

TRIM_SLACK_SHIFT: Final = 5
"""Old rows go once a thirty-second part too many is there, not one by one."""
FORGET_SLACK_ENTRIES: Final = IDEMPOTENCY_WINDOW_ENTRIES >> TRIM_SLACK_SHIFT

INSERT_SLOT: Final = "INSERT INTO slot VALUES (?, ?, ?, ?, ?)"
INSERT_ROUTE: Final = "INSERT INTO route VALUES (?, ?, ?, ?, ?, ?, ?)"
INSERT_META: Final = "INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)"
_UPDATE_META: Final = (
    "UPDATE meta SET epoch = ?, seq = ?, chain = ?, digest = ?, fingerprint = ?, dim = ?,"
    " settings = ?, sum = ? WHERE only = 1"
)
INSERT_EPOCH: Final = "INSERT INTO epoch VALUES (?, ?, ?, ?, ?, ?, ?)"
_REPLACE_EPOCH: Final = "INSERT OR REPLACE INTO epoch VALUES (?, ?, ?, ?, ?, ?, ?)"
INSERT_IMPORT: Final = "INSERT INTO import_open VALUES (?, ?, ?, ?)"
INSERT_STAGING: Final = "INSERT INTO staging VALUES (?, ?, ?)"
INSERT_REMEMBERED: Final = "INSERT INTO remembered VALUES (?, ?, ?, ?, ?)"
_INSERT_LOG: Final = "INSERT INTO oplog VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class LogWindow:
    """Which entries the op log holds, and which are too many.

    Invariants: it mirrors what is committed; ``extend`` follows a commit.
    """

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._sizes: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._is_known = False

    @property
    def is_known(self) -> bool:
        """Whether it mirrors a file."""
        return self._is_known

    def forget(self) -> None:
        """Mirror no file any more."""
        self._is_known = False
        self._sizes.clear()

    def reset(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Take over what the file holds: pairs of seq and frame bytes, ascending."""
        self._is_known = True
        self._sizes = deque(sizes)
        self._bytes = sum(size_bytes for _, size_bytes in self._sizes)

    def floor_after(self, added: Sequence[tuple[int, int]]) -> int | None:
        """Say below which seq entries are too many once ``added`` is there, if any are."""
        entry_count = len(self._sizes) + len(added)
        size_bytes = self._bytes + sum(size for _, size in added)
        if not self._is_over(entry_count, size_bytes, slack_shift=TRIM_SLACK_SHIFT):
            return None
        for seq, size in (*self._sizes, *added):
            if not self._is_over(entry_count, size_bytes) or entry_count == 1:
                return seq
            entry_count -= 1
            size_bytes -= size
        return None

    def _is_over(self, entry_count: int, size_bytes: int, slack_shift: int = 63) -> bool:
        return entry_count > self._entries_max + (
            self._entries_max >> slack_shift
        ) or size_bytes > self._bytes_max + (self._bytes_max >> slack_shift)

    def extend(self, added: Sequence[tuple[int, int]], floor: int | None) -> None:
        """Follow a commit."""
        self._sizes.extend(added)
        self._bytes += sum(size for _, size in added)
        while floor is not None and self._sizes and self._sizes[0][0] < floor:
            self._bytes -= self._sizes.popleft()[1]


def check_order(position: Position, commits: Sequence[Commit]) -> None:
    """A hole in the log would be for ever: refuse it as a programmer's error."""
    seq, chain = position.seq, position.chain
    for commit in commits:
        entry = commit.entry
        assert (entry.seq, entry.prev_chain) == (seq + 1, chain), (
            f"entry {entry.seq} does not follow {seq}: this is a bug"
        )
        seq, chain = entry.seq, entry.chain


def write_changes(connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Write the rows and routes that a group of changes leaves behind."""
    slots: dict[int, SlotWrite | None] = {}
    routes: dict[int, RouteRecord | None] = {}
    for change in changes:
        slots.update(dict.fromkeys(change.freed))
        slots.update((write.slot, write) for write in change.writes)
        routes.update((route.route_id, None) for route in change.deleted)
        routes.update((route.route_id, route) for route in change.put)
    # Out with the old first: a name may have moved from one number to another.  Slots come
    # from generators: a loop that stays inside sqlite3 lets no other thread run for long.
    connection.executemany("DELETE FROM route WHERE route_id = ?", [(each,) for each in routes])
    connection.executemany(
        INSERT_ROUTE, [route_row(each) for each in routes.values() if each is not None]
    )
    connection.executemany(
        "DELETE FROM slot WHERE slot = ?", ((each,) for each, write in slots.items() if not write)
    )
    connection.executemany(
        "INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?)",
        (each for each in map(slots.__getitem__, sorted(slots)) if each is not None),
    )


def rewrite_rows(connection: sqlite3.Connection, rows: Sequence[SlotWrite]) -> None:
    """Write rows again whose content was altered."""
    connection.executemany(
        "INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?)",
        rows,
    )


def drop_encoded(connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Forget re-encoded vectors of rows that changed since."""
    touched = {slot for change in changes for slot in change.freed}
    touched.update(write.slot for change in changes for write in change.writes)
    connection.executemany(
        "DELETE FROM slot_next WHERE slot = ?", [(slot,) for slot in sorted(touched)]
    )


def route_row(route: RouteRecord) -> tuple[object, ...]:
    """Columns of ``route``."""
    return (
        route.route_id,
        route.name,
        route.threshold,
        route.metadata,
        route.payload,
        route.revision.epoch,
        route.revision.seq,
    )


def write_imports(connection: sqlite3.Connection, commit: Commit) -> None:
    """Open, fill or drop an import."""
    change, seq = commit.change, commit.entry.seq
    if change.opened is not None:
        connection.execute(
            INSERT_IMPORT, import_row(change.opened.import_id, change.opened.replace, seq)
        )
    if change.staged is not None:
        staged = change.staged
        connection.execute(INSERT_STAGING, (staged.import_id, staged.number, commit.entry.frame))
        (is_replace,) = connection.execute(
            "SELECT is_replace FROM import_open WHERE import_id = ?", (staged.import_id,)
        ).fetchone()
        connection.execute(
            "INSERT OR REPLACE INTO import_open VALUES (?, ?, ?, ?)",
            import_row(staged.import_id, bool(is_replace), seq),
        )
    if change.closed is not None:
        import_id = change.closed.begin.import_id
        connection.execute("DELETE FROM staging WHERE import_id = ?", (import_id,))
        connection.execute("DELETE FROM import_open WHERE import_id = ?", (import_id,))


def import_row(import_id: str, is_replace: bool, touched_seq: int) -> tuple[object, ...]:
    """Columns of ``import_open``."""
    fields = (import_id, int(is_replace), touched_seq)
    return (*fields, checksum(*fields))


def remembered_row(seq: int, op_id: bytes, request_hash: bytes, outcome: str) -> tuple[object, ...]:
    """Columns of ``remembered``."""
    fields = (seq, op_id, request_hash, outcome)
    return (*fields, remembered_sum(*fields))


def write_entries(
    connection: sqlite3.Connection, commits: Sequence[Commit], floor: int | None
) -> None:
    """Write op log, outcomes and epochs, and drop what is older than their windows."""
    outcomes = [dump_outcome(commit.change.outcome) for commit in commits]
    pairs = list(zip(commits, outcomes, strict=True))
    connection.executemany(_INSERT_LOG, [_log_row(*pair) for pair in pairs])
    connection.executemany(
        INSERT_REMEMBERED,
        [
            remembered_row(
                commit.entry.seq,
                commit.entry.proposal.op_id,
                commit.entry.proposal.request_hash,
                outcome,
            )
            for commit, outcome in pairs
            if not commit.is_duplicate
        ],
    )
    connection.executemany(
        INSERT_EPOCH,
        [
            epoch_row(EpochRecord(commit.entry.epoch, commit.change.epoch))
            for commit in commits
            if commit.change.epoch is not None
        ],
    )
    _write_voters(connection, commits)
    if floor is not None:
        connection.execute("DELETE FROM oplog WHERE seq < ?", (floor,))
    first, last = commits[0].entry.seq, commits[-1].entry.seq
    if first // FORGET_SLACK_ENTRIES != (last + 1) // FORGET_SLACK_ENTRIES:
        oldest = last - IDEMPOTENCY_WINDOW_ENTRIES
        connection.execute("DELETE FROM remembered WHERE seq < ?", (oldest,))


def _write_voters(connection: sqlite3.Connection, commits: Sequence[Commit]) -> None:
    """Note changes of the voters in the row of their epoch."""
    for commit in commits:
        if commit.change.voters is None:
            continue
        *fields, _ = connection.execute(
            "SELECT * FROM epoch WHERE epoch = ?", (commit.entry.epoch,)
        ).fetchone()
        record = load_epoch(*fields)
        opened = replace(record.opened, voters=commit.change.voters)
        connection.execute(_REPLACE_EPOCH, epoch_row(EpochRecord(record.epoch, opened)))


def _log_row(commit: Commit, outcome: str) -> tuple[object, ...]:
    entry = commit.entry
    return (
        entry.seq,
        entry.epoch,
        entry.proposal.op_id,
        entry.prev_chain,
        entry.chain,
        entry.time_us,
        entry.frame,
        outcome,
        commit.digest,
    )


def write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    """Write where the state stands now.

    As an update SQLite leaves alone pages that do not change, such as those of a long
    calibration, where the row is as long as before.
    """
    row = meta_row(meta.position, meta.digest, meta.fingerprint, meta.dim, meta.settings)
    if connection.execute(_UPDATE_META, row).rowcount == 0:
        connection.execute(INSERT_META, row)


def write_node(connection: sqlite3.Connection, key: str, value: str | None) -> None:
    """Write a fact of this node, or remove it."""
    if value is None:
        connection.execute("DELETE FROM node WHERE key = ?", (key,))
        return
    connection.execute(
        "INSERT OR REPLACE INTO node VALUES (?, ?, ?)", (key, value, checksum(key, value))
    )

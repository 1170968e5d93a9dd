"""Writes entries: a group of commits becomes one transaction.

The changes of a group are merged first, so that a row that changes twice is written
once.  The op log and the outcomes keep every entry.  An entry that copies or removes a route set
stands between two such merges.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from synaptoroute.core.change import Change, Commit, EpochRecord
from synaptoroute.core.mutation import IDEMPOTENCY_WINDOW_ENTRIES, Entry, Position, Settings
from synaptoroute.core.rows import stored_key, stored_number
from synaptoroute.storage.levels import (
    add_voter_link,
    trim_seals,
    write_confidence,
    write_feedback,
    write_level,
    write_seals,
)
from synaptoroute.storage.records import (
    Meta,
    checksum,
    dump_outcome,
    epoch_row,
    import_row,
    load_epoch,
    meta_row,
    remembered_row,
    route_row,
)
from synaptoroute.storage.sets import (
    fork_into,
    remove_set,
    write_set_decision,
    write_set_facts,
)

TRIM_SLACK_SHIFT: Final = 5
"""Old entries are deleted in batches: once the limit is exceeded by a thirty-second part."""
FORGET_SLACK_ENTRIES: Final = IDEMPOTENCY_WINDOW_ENTRIES >> TRIM_SLACK_SHIFT

INSERT_SLOT: Final = "INSERT INTO slot VALUES (?, ?, ?, ?, ?)"
REPLACE_SLOT: Final = "INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?)"
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
    """The seqs and sizes of the op log's entries, and which of them are too many.

    Invariants: it mirrors what is committed, so ``extend`` follows a commit.
    """

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self.is_loaded = False
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._sizes: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def unload(self) -> None:
        """Forget the entries; the file holds others now."""
        self.is_loaded = False
        self._sizes.clear()

    def load(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Load the entries of the file: pairs of seq and frame bytes, ascending."""
        self.is_loaded = True
        self._sizes = deque(sizes)
        self._bytes = sum(size_bytes for _, size_bytes in self._sizes)

    def floor_after(self, added: Sequence[tuple[int, int]]) -> int | None:
        """Return the seq below which entries are too many once ``added`` is there."""
        entries, size_bytes = len(self._sizes) + len(added), self._bytes
        for _, size in added:
            size_bytes += size
        entries_max, bytes_max = self._entries_max, self._bytes_max
        if entries <= entries_max + (
            entries_max >> TRIM_SLACK_SHIFT
        ) and size_bytes <= bytes_max + (bytes_max >> TRIM_SLACK_SHIFT):
            return None
        for seq, size in (*self._sizes, *added):
            # The newest entry stays, however large it is.
            if (entries <= entries_max and size_bytes <= bytes_max) or entries == 1:
                return seq
            entries -= 1
            size_bytes -= size
        return None

    def extend(self, added: Sequence[tuple[int, int]], floor: int | None) -> None:
        self._sizes.extend(added)
        for _, size in added:
            self._bytes += size
        while floor is not None and self._sizes and self._sizes[0][0] < floor:
            self._bytes -= self._sizes.popleft()[1]


def meta_after(meta: Meta, commits: Sequence[Commit]) -> Meta:
    """Return the row of ``meta`` after a group of commits, which must follow it."""
    seq, chain = meta.position.seq, meta.position.chain
    fingerprint, dim, settings = meta.fingerprint, meta.dim, meta.settings
    for commit in commits:
        entry, change = commit.entry, commit.change
        # A gap in the op log could never be closed again.
        assert (entry.seq, entry.prev_chain) == (seq + 1, chain), (
            f"entry {entry.seq} does not follow {seq}: this is a bug"
        )
        seq, chain = entry.seq, entry.chain
        if change.settings is not None and not change.set_number:
            settings = change.settings
        if change.encoder:
            fingerprint, dim = change.encoder.fingerprint, change.encoder.dim
    last = commits[-1]
    position = Position(last.entry.epoch, seq, chain)
    return Meta(position, last.digest, fingerprint, dim, settings)


def write_group(
    connection: sqlite3.Connection,
    commits: Sequence[Commit],
    meta: Meta,  # The row of ``meta`` afterwards
    floor: int | None,  # Delete entries of the op log before this seq
    *,
    settings: Settings,  # Of ``default``, before
    is_re_embedding: bool,  # New vectors for some rows may wait in ``slot_next``
) -> tuple[int, int]:
    """Write a group of entries, inside the caller's transaction.

    Returns:
        How many rows it copied for new sets, and how many it removed with a set.
    """
    for commit in commits:
        # First: rows that only this level knows may follow in the same group.
        if (finalized := commit.change.finalized) is not None:
            write_level(connection, finalized.level, finalized.voter_keys)
    copied = removed = start = 0
    for place, commit in enumerate(commits):
        change = commit.change
        # A copy holds what the entries before it wrote, and not what those after it write.
        if change.forked_from is None and not change.is_set_removed:
            if change.settings is not None and not change.set_number:
                settings = change.settings
            continue
        _write_contents(connection, commits[start:place], is_re_embedding)
        start = place + 1
        if change.is_set_removed:
            removed += remove_set(connection, change.set_number)
        else:
            copied += fork_into(connection, change, settings)
    _write_contents(connection, commits[start:] if start else commits, is_re_embedding)
    for commit in commits:
        change = commit.change
        if change.epoch is not None:
            row = epoch_row(EpochRecord(commit.entry.epoch, change.epoch))
            connection.execute(INSERT_EPOCH, row)
        if change.voters is not None:
            _write_voters(connection, commit.entry.epoch, change.voters)
        if change.voter_link:
            add_voter_link(connection, change.voter_link)
    _write_log(connection, commits)
    if floor is not None:
        connection.execute("DELETE FROM oplog WHERE seq < ?", (floor,))
        trim_seals(connection, floor, commits[-1].entry.seq)
    first, last = commits[0].entry.seq, commits[-1].entry.seq
    if first // FORGET_SLACK_ENTRIES != (last + 1) // FORGET_SLACK_ENTRIES:
        oldest = last - IDEMPOTENCY_WINDOW_ENTRIES
        connection.execute("DELETE FROM remembered WHERE seq < ?", (oldest,))
    write_meta(connection, meta)
    return copied, removed


def _write_contents(
    connection: sqlite3.Connection, commits: Sequence[Commit], is_re_embedding: bool
) -> None:
    """Write what entries change in the content of sets, none of which copies or removes a set."""
    changes: list[Change] = []
    for commit in commits:
        for change in (commit.change, *commit.change.others):
            changes.append(change)
            if change.opened or change.staged or change.closed:
                _write_import(connection, change, commit.entry)
    slots = _write_rows(connection, changes)
    if is_re_embedding:
        # A new vector of the old text must never be swapped in.
        connection.executemany("DELETE FROM slot_next WHERE slot = ?", [(each,) for each in slots])
    for change in changes:
        number = change.set_number
        if change.feedback or change.feedback_before:
            write_feedback(connection, change.feedback, change.feedback_before, number)
        if change.decision is not None:
            write_set_decision(connection, number, change.decision)
    write_set_facts(connection, changes)


def _write_rows(connection: sqlite3.Connection, changes: Sequence[Change]) -> list[int]:
    slots: dict[int, Sequence[object] | None] = {}
    routes: dict[int, tuple[object, ...] | None] = {}
    confidence: dict[int, float | None] = {}
    for change in changes:
        if change.set_number:
            _collect_stored(change, slots, routes, confidence)
            continue
        for route in chain(change.before, change.deleted):
            if route.confidence_min is not None:
                confidence[route.route_id] = None
        for route in change.put:
            if route.confidence_min is not None:
                confidence[route.route_id] = route.confidence_min
        for slot in change.freed:
            slots[slot] = None
        for write in change.writes:
            slots[write.slot] = write
        for route in change.deleted:
            routes[route.route_id] = None
        for route in change.put:
            routes[route.route_id] = route_row(route)
    # All old routes are deleted first: a name may have moved from one number to another,
    # and names are unique.
    connection.executemany("DELETE FROM route WHERE route_id = ?", [(each,) for each in routes])
    connection.executemany(INSERT_ROUTE, [each for each in routes.values() if each is not None])
    if confidence:
        write_confidence(connection, confidence)
    # Generators, not lists: sqlite3 then returns to Python between two rows, where other
    # threads get their turn.
    connection.executemany(
        "DELETE FROM slot WHERE slot = ?", ((each,) for each, write in slots.items() if not write)
    )
    changed = sorted(slots)
    connection.executemany(
        REPLACE_SLOT, (each for each in map(slots.__getitem__, changed) if each is not None)
    )
    return changed


def _collect_stored(
    change: Change,
    slots: dict[int, Sequence[object] | None],
    routes: dict[int, tuple[object, ...] | None],
    confidence: dict[int, float | None],
) -> None:
    """Collect the rows of a set that is not ``default``, under stored numbers."""
    number = change.set_number
    for slot in change.freed:
        slots[stored_number(number, slot)] = None
    for slot, owner, *fields in change.writes:
        slot = stored_number(number, slot)
        slots[slot] = (slot, stored_number(number, owner), *fields)
    for route in chain(change.before, change.deleted):
        if route.confidence_min is not None:
            confidence[stored_number(number, route.route_id)] = None
    for route in change.deleted:
        routes[stored_number(number, route.route_id)] = None
    for route in change.put:
        route_id = stored_number(number, route.route_id)
        routes[route_id] = route_row(route, number)
        if route.confidence_min is not None:
            confidence[route_id] = route.confidence_min


def _write_import(connection: sqlite3.Connection, change: Change, entry: Entry) -> None:
    number, seq = change.set_number, entry.seq
    if change.opened is not None:
        import_id = stored_key(number, change.opened.import_id)
        connection.execute(INSERT_IMPORT, import_row(import_id, change.opened.replace, seq))
    if change.staged is not None:
        staged = change.staged
        import_id = stored_key(number, staged.import_id)
        connection.execute(INSERT_STAGING, (import_id, staged.number, entry.frame))
        (is_replace,) = connection.execute(
            "SELECT is_replace FROM import_open WHERE import_id = ?", (import_id,)
        ).fetchone()
        connection.execute(
            "INSERT OR REPLACE INTO import_open VALUES (?, ?, ?, ?)",
            import_row(import_id, bool(is_replace), seq),
        )
    if change.closed is not None:
        import_id = stored_key(number, change.closed.begin.import_id)
        connection.execute("DELETE FROM staging WHERE import_id = ?", (import_id,))
        connection.execute("DELETE FROM import_open WHERE import_id = ?", (import_id,))


def _write_log(connection: sqlite3.Connection, commits: Sequence[Commit]) -> None:
    """Write op log and outcomes; a duplicate keeps its first outcome."""
    log_rows = []
    remembered_rows = []
    for commit in commits:
        entry, outcome = commit.entry, dump_outcome(commit.change.outcome)
        op_id = entry.proposal.op_id
        log_rows.append(
            (
                entry.seq,
                entry.epoch,
                op_id,
                entry.prev_chain,
                entry.chain,
                entry.time_us,
                entry.frame,
                outcome,
                commit.digest,
            )
        )
        if not commit.is_duplicate:
            request_hash = entry.proposal.request_hash
            remembered_rows.append(remembered_row(entry.seq, op_id, request_hash, outcome))
    connection.executemany(_INSERT_LOG, log_rows)
    write_seals(connection, commits)
    connection.executemany(INSERT_REMEMBERED, remembered_rows)


def _write_voters(connection: sqlite3.Connection, epoch: int, voters: tuple[str, ...]) -> None:
    *fields, _ = connection.execute("SELECT * FROM epoch WHERE epoch = ?", (epoch,)).fetchone()
    record = load_epoch(*fields)
    opened = replace(record.opened, voters=voters)
    connection.execute(_REPLACE_EPOCH, epoch_row(EpochRecord(record.epoch, opened)))


def write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    # An UPDATE, not a REPLACE: SQLite then leaves alone pages that do not change, such as
    # those of a long calibration.
    row = meta_row(meta)
    if connection.execute(_UPDATE_META, row).rowcount == 0:
        connection.execute(INSERT_META, row)


def write_fact(connection: sqlite3.Connection, key: str, value: str | None) -> None:
    """Write a fact of this node; None removes it."""
    if value is None:
        connection.execute("DELETE FROM node WHERE key = ?", (key,))
        return
    connection.execute(
        "INSERT OR REPLACE INTO node VALUES (?, ?, ?)", (key, value, checksum(key, value))
    )

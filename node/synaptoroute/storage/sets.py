"""Route sets beside ``default`` in the database: version 5 of the schema.

The rows, routes, imports and feedback of all sets share the tables of earlier versions, under
stored numbers and keys (see ``core.rows``).  The functions that write run inside the caller's
transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from synaptoroute.core.change import NO_DECISION, AliasRecord, Change, FittedDecision, SetRecord
from synaptoroute.core.mutation import SetLimits, SetTest, Settings
from synaptoroute.core.rows import SET_BITS, stored_key, stored_number
from synaptoroute.failpoints import failpoint
from synaptoroute.storage.levels import read_decision, write_decision
from synaptoroute.storage.records import settings_text

COPIED_SLOTS: Final = 512
"""Slots that one statement copies.

SQLite keeps what it reads and writes in one table aside; so few rows of that fit into memory.
"""
_NUMBERED: Final = (("slot_next", "slot"), ("route", "route_id"), ("route_decision", "route_id"))
_KEYED: Final = (("feedback", "item_id"), ("staging", "import_id"), ("import_open", "import_id"))
_LOCAL_MASK: Final = (1 << SET_BITS) - 1
_PUT_RECORD: Final = (
    "INSERT INTO route_set VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
    " name = excluded.name, limits = excluded.limits, created_epoch = excluded.created_epoch,"
    " created_seq = excluded.created_seq, epoch = excluded.epoch, seq = excluded.seq,"
    " forked_from = excluded.forked_from"
)
_PUT_ALIAS: Final = "INSERT OR REPLACE INTO alias VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_TEST: Final = "INSERT OR REPLACE INTO set_test VALUES (?, ?, ?)"
_DELETE_TEST: Final = "DELETE FROM set_test WHERE number = ? AND text = ?"
_SHIFTED: Final = "? | (slot & ?), ? | (route_id & ?), utterance, vector, row_hash"


def bounds(number: int) -> tuple[int, int]:
    """The lowest stored number of a set, and the lowest of the next set."""
    return stored_number(number, 0), stored_number(number + 1, 0)


def key_bounds(number: int) -> tuple[str, str]:
    """Two texts between which the stored keys of a set other than ``default`` lie."""
    prefix = stored_key(number, "")
    return prefix, f"{prefix[:-1]}\x20"


# --- parts of changes ---


def write_set_facts(connection: sqlite3.Connection, changes: Iterable[Change]) -> None:
    """Write what changes say about records, settings, tests and aliases, in order."""
    records: dict[int, SetRecord] = {}
    settings: dict[int, Settings] = {}
    for change in changes:
        number = change.set_number
        if change.set_record is not None:
            records[number] = change.set_record
        if change.settings is not None and number:
            settings[number] = change.settings
        if change.tests_before:
            gone = [(number, test.text) for test in change.tests_before]
            connection.executemany(_DELETE_TEST, gone)
        if change.tests:
            write_tests(connection, number, change.tests)
        if change.alias is not None:
            connection.execute(_PUT_ALIAS, alias_row(change.alias))
        elif change.alias_before is not None:
            connection.execute("DELETE FROM alias WHERE name = ?", (change.alias_before.name,))
    # One row a set, however many entries of the group changed it.
    for record in records.values():
        connection.execute(_PUT_RECORD, record_row(record))
    for number, held in settings.items():
        write_set_settings(connection, number, held)


def write_set_settings(connection: sqlite3.Connection, number: int, settings: Settings) -> None:
    connection.execute(
        "UPDATE route_set SET settings = ? WHERE number = ?", (settings_text(settings), number)
    )


def write_set_decision(
    connection: sqlite3.Connection, number: int, decision: FittedDecision
) -> None:
    """Replace the numbers behind the confidence of a set."""
    if number == 0:
        write_decision(connection, decision)
        return
    connection.execute("DELETE FROM set_decision WHERE number = ?", (number,))
    if decision.payload:
        connection.execute("INSERT INTO set_decision VALUES (?, ?, ?, ?)", (number, *decision))


# --- whole sets ---


def create_set(
    connection: sqlite3.Connection, record: SetRecord, settings: Settings | None = None
) -> None:
    """Write the record of a set, and its settings, which ``default`` has elsewhere."""
    text = "" if settings is None else settings_text(settings)
    connection.execute(_PUT_RECORD, record_row(record, text))


def fork_into(connection: sqlite3.Connection, change: Change, default: Settings) -> int:
    """Copy a set, without its imports and its review queue.

    Args:
        connection: Inside the caller's transaction.
        change: That of the entry.
        default: Settings of ``default`` before it.

    Returns:
        The number of rows.
    """
    source, record = change.forked_from, change.set_record
    assert source is not None, "the change copies no set: this is a bug"
    assert record is not None, "a new set has no record: this is a bug"
    number = record.number
    settings = settings_text(default) if source == 0 else read_settings_text(connection, source)
    connection.execute(_PUT_RECORD, record_row(record, settings))
    first, _ = bounds(number)
    low, high = bounds(source)
    shift = (first, _LOCAL_MASK)
    copied = 0
    for start, stop in _slices(connection, low, high):
        copied += connection.execute(
            f"INSERT INTO slot SELECT {_SHIFTED} FROM slot WHERE slot >= ? AND slot < ?"
            " ORDER BY slot",
            (*shift, *shift, start, stop),
        ).rowcount
        failpoint("fork.some")
    connection.execute(
        "INSERT INTO route SELECT ? | (route_id & ?), ? || substr(name, ?), threshold, metadata,"
        " payload, epoch, seq FROM route WHERE route_id >= ? AND route_id < ?",
        (*shift, stored_key(number, ""), len(stored_key(source, "")) + 1, low, high),
    )
    connection.execute(
        "INSERT INTO route_decision SELECT ? | (route_id & ?), confidence_min"
        " FROM route_decision WHERE route_id >= ? AND route_id < ?",
        (*shift, low, high),
    )
    connection.execute(
        "INSERT INTO set_test SELECT ?, text, route FROM set_test WHERE number = ?",
        (number, source),
    )
    decision = read_set_decision(connection, source)
    write_set_decision(connection, number, decision)
    return copied


def remove_set(connection: sqlite3.Connection, number: int) -> int:
    """Delete a set with everything in it; return how many rows it had."""
    low, high = bounds(number)
    removed = 0
    for start, stop in _slices(connection, low, high):
        removed += connection.execute(
            "DELETE FROM slot WHERE slot >= ? AND slot < ?", (start, stop)
        ).rowcount
        failpoint("removal.some")
    for table, column in _NUMBERED:
        connection.execute(f"DELETE FROM {table} WHERE {column} >= ? AND {column} < ?", (low, high))
    keys = key_bounds(number)
    for table, column in _KEYED:
        connection.execute(f"DELETE FROM {table} WHERE {column} >= ? AND {column} < ?", keys)
    for table in ("route_set", "set_decision", "set_test"):
        connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
    return removed


def _slices(connection: sqlite3.Connection, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Ranges of stored slots of a set, ``COPIED_SLOTS`` each, from the first to the last one."""
    first, last = connection.execute(
        "SELECT (SELECT min(slot) FROM slot WHERE slot >= ? AND slot < ?),"
        " (SELECT max(slot) FROM slot WHERE slot >= ? AND slot < ?)",
        (low, high, low, high),
    ).fetchone()
    if first is not None:
        for start in range(first, last + 1, COPIED_SLOTS):
            yield start, min(start + COPIED_SLOTS, high)


# --- rows ---


def record_row(record: SetRecord, settings: str = "") -> tuple[object, ...]:
    """Columns of ``route_set``."""
    return (
        record.number,
        record.name,
        limits_text(record.limits),
        *record.created,
        *record.revision,
        record.forked_from,
        settings,
    )


@lru_cache(maxsize=64)
def limits_text(limits: SetLimits) -> str:
    """Limits as a JSON object of those that are set."""
    named = {name: getattr(limits, name) for name in SetLimits.__dataclass_fields__}
    return json.dumps({name: each for name, each in named.items() if each}, separators=(",", ":"))


def alias_row(alias: AliasRecord) -> tuple[object, ...]:
    """Columns of ``alias``."""
    *fields, revision, history = alias
    text = json.dumps([list(change) for change in history], separators=(",", ":"))
    return (*fields, *revision, text)


def read_settings_text(connection: sqlite3.Connection, number: int) -> str:
    """Read the settings of a set that is not ``default``, as they are stored."""
    found = connection.execute("SELECT settings FROM route_set WHERE number = ?", (number,))
    return str(found.fetchone()[0])


def read_set_decision(connection: sqlite3.Connection, number: int) -> FittedDecision:
    if number == 0:
        return read_decision(connection)
    found = connection.execute(
        "SELECT payload, node, at_ms FROM set_decision WHERE number = ?", (number,)
    ).fetchone()
    return FittedDecision(*found) if found else NO_DECISION


def write_tests(connection: sqlite3.Connection, number: int, tests: Iterable[SetTest]) -> None:
    if rows := [(number, *test) for test in tests]:
        connection.executemany(_PUT_TEST, rows)


def write_aliases(connection: sqlite3.Connection, aliases: Iterable[AliasRecord]) -> None:
    if rows := [alias_row(alias) for alias in aliases]:
        connection.executemany(_PUT_ALIAS, rows)

"""The history of the route set: who wrote what and when, out of this node's op log.

The op log keeps the newest entries only.  An entry names its author, the name of an API key,
from level 2 of the log on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel

from synaptoroute.core.codec import describe_frame
from synaptoroute.core.mutation import (
    Audit,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    ReviseRoutes,
)
from synaptoroute.errors import CodecError, InvalidQuery, UnknownMutation
from synaptoroute.storage import LogRow, SQLiteStorage

HISTORY_ENTRIES_MAX: Final = 500
SCANNED_ENTRIES_MAX: Final = 8_192
SCANNED_BYTES_MAX: Final = 67_108_864
READ_ENTRIES: Final = 256
READ_BYTES: Final = 8_388_608
_IMPORTS: Final = (ImportBegin, ImportCommit, ImportAbort)


class HistoryEntry(BaseModel):
    """One entry of the log: who did what, and when.

    Attributes:
        version: Its ``epoch.seq``.
        at: When it was ordered, RFC 3339 in UTC.
        author: Name of the API key that wrote it; None for a client without a key, a node
            itself, or an entry below level 2 of the log.
        action: What was done, such as ``put_route``.
        route: The route that it names.
        import_id: The import that it belongs to.
        status: ``applied``, ``unchanged`` or ``rejected``.
        code: Error code of a rejection.
        count: Utterances added or removed, or routes imported.
        op_id: Identity of the write, 32 hexadecimal digits.
    """

    version: str
    at: str
    author: str | None
    action: str
    route: str | None = None
    import_id: str | None = None
    status: str
    code: str | None = None
    count: int = 0
    op_id: str


class HistoryPage(BaseModel):
    """A page of the history, newest first.

    Attributes:
        next_before: ``before`` of the next page; None at the end of what the node keeps.
    """

    entries: list[HistoryEntry]
    next_before: int | None


async def read_history(
    storage: SQLiteStorage, route: str | None, before_seq: int | None, limit: int
) -> HistoryPage:
    """Read a page of the history, newest first.

    Args:
        storage: The database of this node.
        route: Only changes of this route; None for all.
        before_seq: Only entries before this place; None for the newest.
        limit: How many entries to look for; a page may have fewer although there are more.
    """
    if not 1 <= limit <= HISTORY_ENTRIES_MAX:
        raise InvalidQuery(f"limit must be 1 to {HISTORY_ENTRIES_MAX}")
    return await asyncio.to_thread(_read, storage, route, before_seq, limit)


def _read(
    storage: SQLiteStorage, route: str | None, before_seq: int | None, limit: int
) -> HistoryPage:
    scan = _Scan(route)
    before, is_end = before_seq, False
    scanned = size_bytes = 0
    while not (is_end or scan.is_complete(limit)):
        rows = storage.read_log_back(before, entries_max=READ_ENTRIES, bytes_max=READ_BYTES)
        for row in rows:
            scan.add(row)
            size_bytes += len(row.frame)
            before = row.seq
            if scan.is_complete(limit):
                break
        scanned += len(rows)
        is_end = not rows or before == 1
        if scanned >= SCANNED_ENTRIES_MAX or size_bytes >= SCANNED_BYTES_MAX:
            break
    return HistoryPage(entries=scan.entries, next_before=None if is_end else before)


class _Scan:
    """Collects entries while the op log is read backwards."""

    def __init__(self, route: str | None) -> None:
        self._route = route
        self._found: list[tuple[int, HistoryEntry]] = []
        # Commits of imports that may have changed the route: their chunks come later, for
        # they stand before the commit.
        self._open: dict[str, tuple[int, HistoryEntry]] = {}

    def is_complete(self, limit: int) -> bool:
        return len(self._found) >= limit and not self._open

    @property
    def entries(self) -> list[HistoryEntry]:
        return [entry for _, entry in sorted(self._found, key=lambda each: -each[0])]

    def add(self, row: LogRow) -> None:
        try:
            kind, fields = describe_frame(row.frame)
        except (CodecError, UnknownMutation):
            return
        if kind is Audit:  # one a minute, and it changes nothing
            return
        if self._route is None:
            if kind is not ImportChunk:
                self._found.append((row.seq, entry_of(row, kind, fields)))
        elif kind is ImportChunk or kind in _IMPORTS:
            self._add_import(row, kind, fields)
        elif kind is ReviseRoutes:
            if self._route in _names_of(fields.get("routes", ())):
                self._found.append((row.seq, entry_of(row, kind, fields)))
        elif fields.get("name") == self._route:
            self._found.append((row.seq, entry_of(row, kind, fields)))

    def _add_import(self, row: LogRow, kind: type[Mutation], fields: dict[str, Any]) -> None:
        """Find out whether an import contains the route."""
        import_id = str(fields.get("import_id", ""))
        if kind is ImportCommit:
            if row.outcome.status == "applied":
                self._open[import_id] = (row.seq, entry_of(row, kind, fields))
            return
        commit = self._open.get(import_id)
        if commit is None:
            return
        if kind is ImportChunk:
            is_concerned = self._route in _names_of(fields.get("parts", ()))
        else:  # an import that replaces all routes also changes those that it does not name
            is_concerned = kind is ImportBegin and bool(fields.get("replace"))
        if is_concerned:
            self._found.append(commit)
        if is_concerned or kind is ImportBegin:
            del self._open[import_id]


def _names_of(parts: Sequence[dict[str, Any]]) -> set[str]:
    return {str(part.get("name")) for part in parts}


def entry_of(row: LogRow, kind: type[Mutation], fields: dict[str, Any]) -> HistoryEntry:
    """Describe an entry without utterances and vectors."""
    outcome = row.outcome
    return HistoryEntry(
        version=f"{row.epoch}.{row.seq}",
        at=datetime.fromtimestamp(row.time_us / 1e6, UTC).isoformat(timespec="milliseconds"),
        author=str(fields.get("author", "")) or None,
        action=_snake(kind.__name__),
        route=fields.get("name"),
        import_id=fields.get("import_id"),
        status=outcome.status,
        code=outcome.code,
        count=outcome.count,
        op_id=row.op_id.hex(),
    )


def _snake(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")

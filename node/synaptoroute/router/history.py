"""The history: who changed what and when, and what it was before, out of this node's op log.

The op log keeps the newest entries only.  An entry names its author, the name of an API key,
from level 2 of the log on, and its note from level 5 on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from synaptoroute.change_models import (
    HistoryChange,
    HistoryEntry,
    HistoryPage,
)
from synaptoroute.core.codec import describe_frame
from synaptoroute.core.mutation import (
    DEFAULT_SET,
    AddUtterances,
    Audit,
    Calibrate,
    CalibrateDecision,
    CommitPlan,
    DeleteAlias,
    DeleteRoute,
    DeleteSet,
    ForkSet,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PatchRoute,
    PutAlias,
    PutFeedback,
    PutRoute,
    PutSet,
    PutSettings,
    PutTests,
    RemoveUtterances,
    ReviseRoutes,
)
from synaptoroute.errors import CodecError, InvalidQuery, UnknownMutation
from synaptoroute.router.past_states import (
    SUBJECTS_MAX,
    PastStates,
    State,
    Subject,
)
from synaptoroute.storage import LogRow, SQLiteStorage

HISTORY_ENTRIES_MAX: Final = 500
SCANNED_ENTRIES_MAX: Final = 8_192
SCANNED_BYTES_MAX: Final = 67_108_864
READ_ENTRIES: Final = 256
READ_BYTES: Final = 8_388_608
CHANGES_BYTES_MAX: Final = 1_048_576
"""Bytes of all changes of a page, as JSON; the changes of the entries after them are left out."""
_COMMITS: Final = (ImportCommit, CommitPlan)
_IMPORTS: Final = (ImportBegin, *_COMMITS, ImportAbort)
_OF_ROUTES: Final = (PutRoute, DeleteRoute, AddUtterances, RemoveUtterances, PatchRoute)
_OF_SETS: Final = (PutSet, DeleteSet, ForkSet)
_OF_ALIASES: Final = (PutAlias, DeleteAlias)
_OF_CONTENT: Final = (
    *_OF_ROUTES,
    *_IMPORTS,
    ImportChunk,
    ReviseRoutes,
    PutSettings,
    PutTests,
    PutFeedback,
    Calibrate,
    CalibrateDecision,
)


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which entries of the history to show.

    Attributes:
        route: Only changes of this route; None for all.
        route_set: Only changes in this set; None for all sets.
        before_seq: Only entries before this place; None for the newest.
        limit: How many entries to look for, 1 to 500; a page may have fewer although there are
            more.
        has_changes: Whether to show what was before and after.
        is_visible: Whether the reader may see a set or an alias of this name; None for a reader
            who sees everything, changes of the cluster included.
    """

    route: str | None = None
    route_set: str | None = None
    before_seq: int | None = None
    limit: int = 100
    has_changes: bool = True
    is_visible: Callable[[str], bool] | None = None


async def read_history(storage: SQLiteStorage, query: HistoryQuery) -> HistoryPage:
    """Read a page of the history, newest first, from the database of this node."""
    if not 1 <= query.limit <= HISTORY_ENTRIES_MAX:
        raise InvalidQuery(f"limit must be 1 to {HISTORY_ENTRIES_MAX}")
    return await asyncio.to_thread(_read, storage, query)


def _read(storage: SQLiteStorage, query: HistoryQuery) -> HistoryPage:
    scan, past = _Scan(query), PastStates()
    before, is_end = query.before_seq, False
    next_before: int | None = None  # Place at which the page was complete
    scanned = size_bytes = 0
    while not is_end:
        rows = storage.read_log_back(before, entries_max=READ_ENTRIES, bytes_max=READ_BYTES)
        for row in rows:
            if not _add(row, scan, past, is_page=next_before is None):
                rows = []
                break
            size_bytes += len(row.frame)
            before = row.seq
            if next_before is None and scan.is_complete(query.limit):
                next_before = before
        scanned += len(rows)
        is_end = not rows or before == 1
        if next_before is not None and not _needs_more(scan, past, query):
            break
        if scanned >= SCANNED_ENTRIES_MAX or size_bytes >= SCANNED_BYTES_MAX:
            break
    entries = scan.entries
    if query.has_changes:
        show_changes(entries, past)
    at = before if next_before is None else next_before
    return HistoryPage(entries=entries, next_before=None if is_end and at == before else at)


def _add(row: LogRow, scan: _Scan, past: PastStates, *, is_page: bool) -> bool:
    """Take in the entry before those that were read; False if entries are missing between."""
    if not past.continues_at(row.seq):
        return False
    try:
        kind, fields = describe_frame(row.frame)
    except (CodecError, UnknownMutation):
        return True
    # A repeated write has the outcome of the first one, and no effect here.
    is_applied = row.outcome.status == "applied" and row.outcome.at.seq == row.seq
    past.add(row.seq, kind, fields, is_applied=is_applied)
    if is_page:
        scan.add(row, kind, fields)
    return True


def _needs_more(scan: _Scan, past: PastStates, query: HistoryQuery) -> bool:
    """Whether older entries may tell what was before those of the page."""
    return query.has_changes and not all(
        past.is_known(int(entry.version.partition(".")[2])) for entry in scan.entries
    )


def read_entry(storage: SQLiteStorage, epoch: int, seq: int) -> HistoryEntry | None:
    """Read one entry with what it changed; None if this node does not keep it."""
    query = HistoryQuery(before_seq=seq + 1, limit=1)
    page = _read(storage, query)
    found = page.entries[0] if page.entries else None
    return found if found is not None and found.version == f"{epoch}.{seq}" else None


def show_changes(entries: Sequence[HistoryEntry], past: PastStates) -> None:
    """Fill in what entries changed, the first ones first."""
    left_bytes = CHANGES_BYTES_MAX
    for entry in entries:
        seq = int(entry.version.partition(".")[2])
        subjects = past.subjects_of(seq)
        if subjects is None:
            continue
        entry.changes_total = len(subjects)
        shown = [_change_of(past, subject, seq) for subject in subjects[:SUBJECTS_MAX]]
        left_bytes -= len(json.dumps([each.model_dump() for each in shown]))
        if left_bytes < 0 and entry is not entries[0]:
            return
        entry.changes = shown


def _change_of(past: PastStates, subject: Subject, seq: int) -> HistoryChange:
    kind, name, route_set = subject
    try:
        before, after = past.before(subject, seq), past.after(subject, seq)
    except LookupError:
        return HistoryChange(kind=kind, name=name, route_set=route_set, is_known=False)
    if kind == "tests":
        before, after = _only_changed(before, after), _only_changed(after, before)
    return HistoryChange(kind=kind, name=name, route_set=route_set, before=before, after=after)


def _only_changed(tests: State, others: State) -> State:
    if tests is None:
        return None
    missing = object()
    known = others or {}
    return {text: route for text, route in tests.items() if known.get(text, missing) != route}


class _Scan:
    """Collects the entries of a page while the op log is read backwards."""

    def __init__(self, query: HistoryQuery) -> None:
        self._route = query.route
        self._query = query
        self._found: list[tuple[int, HistoryEntry]] = []
        # Commits of imports that may have changed the route: their chunks come later, for
        # they stand before the commit.
        self._open: dict[tuple[str, str], tuple[int, HistoryEntry]] = {}

    def is_complete(self, limit: int) -> bool:
        return len(self._found) >= limit and not self._open

    @property
    def entries(self) -> list[HistoryEntry]:
        return [entry for _, entry in sorted(self._found, key=lambda each: -each[0])]

    def add(self, row: LogRow, kind: type[Mutation], fields: dict[str, Any]) -> None:
        # An audit comes once a minute, and it changes nothing.
        if kind is Audit or not self._is_shown(kind, fields):
            return
        if self._route is None:
            if kind is not ImportChunk:
                self._found.append((row.seq, entry_of(row, kind, fields)))
        elif kind is ImportChunk or kind in _IMPORTS:
            self._add_import(row, kind, fields)
        elif kind is ReviseRoutes:
            if self._route in _names_of(fields.get("routes", ())):
                self._found.append((row.seq, entry_of(row, kind, fields)))
        elif kind in _OF_ROUTES and fields.get("name") == self._route:
            self._found.append((row.seq, entry_of(row, kind, fields)))

    def _is_shown(self, kind: type[Mutation], fields: dict[str, Any]) -> bool:
        """Whether the reader asks for the sets that an entry names, and may see them."""
        names = _sets_of(kind, fields)
        wanted, is_visible = self._query.route_set, self._query.is_visible
        if wanted is not None and wanted not in names:
            return False
        return is_visible is None or (bool(names) and all(map(is_visible, names)))

    def _add_import(self, row: LogRow, kind: type[Mutation], fields: dict[str, Any]) -> None:
        """Find out whether an import contains the route."""
        import_id = str(fields.get("route_set", "")), str(fields.get("import_id", ""))
        if kind in _COMMITS:
            if row.outcome.status == "applied":
                found = (row.seq, entry_of(row, kind, fields))
                if self._route in fields.get("removed", ()):
                    self._found.append(found)
                else:
                    self._open[import_id] = found
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


def _sets_of(kind: type[Mutation], fields: dict[str, Any]) -> list[str]:
    """Sets and aliases that an entry names, the one that it changes first; none for the cluster."""
    if kind in _OF_CONTENT:
        return [str(fields.get("route_set", "")) or DEFAULT_SET]
    if kind is ForkSet:
        return [str(fields["into"]), str(fields["name"])]
    if kind in _OF_SETS:
        return [str(fields["name"])]
    if kind in _OF_ALIASES:
        named = (fields.get(each) for each in ("name", "target", "shadow", "canary"))
        return [str(each) for each in named if each]
    return []


def entry_of(row: LogRow, kind: type[Mutation], fields: dict[str, Any]) -> HistoryEntry:
    """Describe an entry without utterances and vectors."""
    outcome, sets = row.outcome, _sets_of(kind, fields)
    is_alias = kind in _OF_ALIASES
    return HistoryEntry(
        version=f"{row.epoch}.{row.seq}",
        at=datetime.fromtimestamp(row.time_us / 1e6, UTC).isoformat(timespec="milliseconds"),
        author=str(fields.get("author", "")) or None,
        note=str(fields.get("note", "")) or None,
        action=_snake(kind.__name__),
        route_set=sets[0] if sets and not is_alias else None,
        route=fields["name"] if kind in _OF_ROUTES else None,
        alias=sets[0] if is_alias else None,
        import_id=fields.get("import_id"),
        status=outcome.status,
        code=outcome.code,
        count=outcome.count,
        op_id=row.op_id.hex(),
    )


def _snake(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")

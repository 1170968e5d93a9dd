"""Checks of a cluster's history from the outside.

A ``History`` is what clients saw: every write with its two moments, its answer and what it
asked for; every read with the version it was answered at.  The checks compare it with the
op logs and dumps of the nodes.  They return violations as sentences, none for a good history,
so that ``test_checkers`` can show that each of them bites.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

REACHED = frozenset({"applied", "unchanged"})
# A release before this one does not store whether an entry created its route.
_OUTCOME = """replace(outcome, ',"created"', ',""')"""
DUMPED = {
    "meta": "epoch, seq, chain, digest, fingerprint, dim, settings",
    "route": "route_id, name, threshold, metadata, payload, epoch, seq",
    "slot": "slot, route_id, utterance, vector, row_hash",
    "remembered": f"seq, op_id, request_hash, {_OUTCOME}",
    "import_open": "import_id, is_replace, touched_seq",
    "staging": "import_id, number, frame",
    "epoch": "epoch, epoch_id, base_seq, voters, fingerprint, dim",
    # Only at level 3 of the log
    "route_decision": "route_id, confidence_min",
    "decision": "payload, node, at_ms",
    "feedback": "item_id, text, route, was, at_ms, times, seq",
    # Only at level 5
    "route_set": "number, name, limits, created_epoch, created_seq, epoch, seq, forked_from,"
    " settings",
    "set_decision": "number, payload, node, at_ms",
    "set_test": "number, text, route",
    "alias": "name, target, shadow, shadow_share, canary, canary_share, epoch, seq, history",
}


@dataclass(frozen=True, order=True)
class Version:
    """A version, ``epoch.seq``."""

    epoch: int
    seq: int

    @classmethod
    def of(cls, text: str) -> Version:
        """Parse a version."""
        epoch, _, seq = text.partition(".")
        return cls(int(epoch), int(seq))


@dataclass(frozen=True)
class Write:
    """One write as its client saw it.

    Attributes:
        op_id: Its identity, hexadecimal.
        began: When it was sent, by the clock of this process.
        ended: When the answer came.
        status: HTTP status.
        outcome: ``applied``, ``unchanged``, ``pending``, or a problem's code.
        at: Its place, where the answer names one.
        route: Name of the route.
        if_match: The revision that it was conditional on.
        client: Who asked: reads and writes of one client form a session.
    """

    op_id: str
    began: float
    ended: float
    status: int
    outcome: str
    at: Version | None
    route: str = ""
    if_match: Version | None = None
    client: str = ""

    @property
    def is_acknowledged(self) -> bool:
        """Whether the answer said that the write is applied."""
        return self.outcome in REACHED and self.at is not None


@dataclass(frozen=True)
class Read:
    """One read: its client, its times, and the version of its answer."""

    client: str
    began: float
    ended: float
    at: Version
    min_version: Version | None = None


@dataclass
class History:
    """Writes and reads as clients saw them; any thread appends."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    failed_queries: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wrote(self, write: Write) -> Write:
        """Add a write."""
        with self._lock:
            self.writes.append(write)
        return write

    def read(self, read: Read) -> None:
        """Add a read."""
        with self._lock:
            self.reads.append(read)

    @property
    def acknowledged(self) -> list[Write]:
        """The writes whose clients were told that they are applied."""
        return [write for write in self.writes if write.is_acknowledged]


@dataclass(frozen=True)
class LogEntry:
    """One entry of a node's op log."""

    at: Version
    op_id: str
    prev_chain: str
    chain: str
    is_applied: bool


def op_log_of(path: Path) -> list[LogEntry]:
    """Read the op log of a node's database, also while it runs."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
        rows = raw.execute(
            "SELECT o.epoch, o.seq, o.op_id, o.prev_chain, o.chain, r.seq IS NOT NULL"
            " FROM oplog o LEFT JOIN remembered r ON r.seq = o.seq ORDER BY o.seq"
        ).fetchall()
    return [LogEntry(Version(e, s), op.hex(), p, c, bool(own)) for e, s, op, p, c, own in rows]


def dump_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Read the tables that must be equal on all nodes."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
        raw.execute("BEGIN")
        held = {name for (name,) in raw.execute("SELECT name FROM sqlite_schema")}
        return {
            table: raw.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
            if table in held
            else []
            for table, columns in DUMPED.items()
        }


def differences(views: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the facts that differ between nodes; ``views`` maps nodes to facts."""
    found = []
    names = sorted({fact for view in views.values() for fact in view})
    for fact in names:
        values = {node: view.get(fact) for node, view in views.items()}
        if len({repr(value) for value in values.values()}) > 1:
            shown = ", ".join(f"{node}: {str(value)[:80]}" for node, value in values.items())
            found.append(f"{fact} differs ({shown})")
    return found


def forks(logs: Mapping[str, Sequence[LogEntry]]) -> list[str]:
    """Return places with two histories, broken chains, and holes."""
    found = []
    chain_at: dict[Version, tuple[str, str]] = {}
    for node, log in logs.items():
        for before, after in pairwise(log):
            if after.at.seq != before.at.seq + 1:
                found.append(f"{node} has a hole between {before.at} and {after.at}")
            elif after.prev_chain != before.chain:
                found.append(f"{node} breaks its chain at {after.at}")
        for entry in log:
            other, chain = chain_at.setdefault(entry.at, (node, entry.chain))
            if chain != entry.chain:
                found.append(f"{node} and {other} hold two histories at {entry.at}")
    return found


def lost_or_doubled(history: History, log: Sequence[LogEntry]) -> list[str]:
    """Return acknowledged writes that are missing in the log, or that took effect twice."""
    found = []
    effects = Counter(entry.op_id for entry in log if entry.is_applied)
    held = {entry.at: entry.op_id for entry in log}
    oldest = log[0].at if log else Version(0, 0)
    for write in history.acknowledged:
        assert write.at is not None
        if write.at < oldest:
            continue  # the op log has let go of it; the dump still shows its effect
        if held.get(write.at) != write.op_id:
            found.append(f"the acknowledged write {write.op_id} is not at {write.at}")
    found += [f"{op_id} took effect {count} times" for op_id, count in effects.items() if count > 1]
    return found


def out_of_order(history: History) -> list[str]:
    """Return writes whose order in the log contradicts real time."""
    found = []
    newest: Version | None = None
    events = [(write.ended, 1, write) for write in history.acknowledged]
    events += [(write.began, 0, write) for write in history.acknowledged]
    floor_of: dict[int, Version | None] = {}
    attempts = Counter(write.op_id for write in history.writes)
    for _, is_end, write in sorted(events, key=lambda event: (event[0], event[1])):
        assert write.at is not None
        if not is_end:
            floor_of[id(write)] = newest
            continue
        floor = floor_of[id(write)]
        if floor is not None and write.at <= floor and attempts[write.op_id] == 1:
            found.append(f"{write.op_id} is at {write.at}, behind {floor} which ended before")
        newest = write.at if newest is None else max(newest, write.at)
    return found


def unserial(history: History) -> list[str]:
    """Return conditional writes that did not replace the state that they named."""
    found = []
    by_route: dict[str, list[Write]] = defaultdict(list)
    for write in history.acknowledged:
        if write.route and write.outcome == "applied":
            by_route[write.route].append(write)
    for route, writes in by_route.items():
        writes.sort(key=lambda write: write.at or Version(0, 0))
        for before, after in pairwise(writes):
            if after.if_match is not None and after.if_match != before.at:
                found.append(
                    f"{route}: the write at {after.at} saw {after.if_match}, "
                    f"but {before.at} came between"
                )
    return found


def broken_sessions(history: History) -> list[str]:
    """Return clients that missed their own writes, or saw an older state after a newer one.

    Only reads that named a version promise anything through a load balancer.
    """
    found = []
    by_client: dict[str, list[Read]] = defaultdict(list)
    for read in history.reads:
        by_client[read.client].append(read)
        if read.min_version is not None and read.at < read.min_version:
            found.append(f"{read.client} asked for {read.min_version} and got {read.at}")
    for client, reads in by_client.items():
        reads.sort(key=lambda read: read.began)
        for before, after in pairwise(reads):
            if after.min_version is not None and before.ended <= after.began < after.ended:
                known = max(before.at, before.min_version or before.at)
                if after.min_version >= known and after.at < before.at:
                    found.append(f"{client} saw {before.at}, then {after.at}")
    for write in history.acknowledged:
        assert write.at is not None
        for read in by_client.get(write.client, ()):
            named = read.min_version
            is_after = bool(write.client) and read.began >= write.ended
            if is_after and named is not None and named >= write.at > read.at:
                found.append(f"{write.client} does not see its write at {write.at}")
    return found


def violations(
    history: History,
    logs: Mapping[str, Sequence[LogEntry]],
    views: Mapping[str, Mapping[str, object]],
) -> list[str]:
    """Return all violations."""
    longest: Iterable[LogEntry] = max(logs.values(), key=len, default=())
    return [
        *differences(views),
        *forks(logs),
        *lost_or_doubled(history, list(longest)),
        *out_of_order(history),
        *unserial(history),
        *broken_sessions(history),
    ]

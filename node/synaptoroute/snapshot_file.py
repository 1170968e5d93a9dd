"""The content root of a snapshot file, computed without a node and without arrays.

The coordinator and ``synaptoroute restore`` compare it with what the voters certify.  The file
may come from anywhere, so its schema and its numbers are checked before they are used.  Its own
checksums are not: they only find accidents, which change the root as well.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from synaptoroute.core.change import (
    EpochRecord,
    FeedbackItem,
    FittedDecision,
    Outcome,
    Remembered,
    RouteRecord,
    Snapshot,
    StagedImport,
)
from synaptoroute.core.codec import decode_proposal, digest_of
from synaptoroute.core.content import root_of
from synaptoroute.core.digest import next_chain, row_hash
from synaptoroute.core.mutation import (
    IDEMPOTENCY_WINDOW_ENTRIES,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    Position,
    Revision,
    Settings,
)
from synaptoroute.core.validation import CAPACITY_SLOTS_MAX
from synaptoroute.errors import ProtocolError, StorageCorrupt

FINALIZED_SCHEMA: Final = (
    # Seals of the entries of the op log, see ``sequencer.wire``.
    "CREATE TABLE seal (seq INTEGER PRIMARY KEY, seal BLOB NOT NULL) STRICT",
    # Facts that every node has: the level of the log, the keys of its voters.
    "CREATE TABLE cluster (key TEXT PRIMARY KEY, value TEXT NOT NULL, sum INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID",
)
"""Tables of version 2 of the schema, see ``storage.levels``."""
DECISION_SCHEMA: Final = (
    # Fields of routes that few routes have.
    "CREATE TABLE route_decision (route_id INTEGER PRIMARY KEY, confidence_min REAL NOT NULL)"
    " STRICT",
    # The numbers of the newest fit, as ``decision.calibration`` writes them.
    "CREATE TABLE decision (only INTEGER PRIMARY KEY CHECK (only = 1), payload BLOB NOT NULL,"
    " node TEXT NOT NULL, at_ms INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT",
    # The review queue, see ``core.feedback``; the digest covers it.
    "CREATE TABLE feedback (item_id TEXT PRIMARY KEY, text TEXT NOT NULL, route TEXT, was TEXT,"
    " at_ms INTEGER NOT NULL, times INTEGER NOT NULL, seq INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID",
)
"""Tables of version 3 of the schema."""
SCHEMA_STEPS: Final = (FINALIZED_SCHEMA, DECISION_SCHEMA)
"""The tables that versions 2, 3, ... add, in this order."""
_DECISION_VERSION: Final = 3
_MALFORMED: Final = (
    sqlite3.Error,
    ProtocolError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class FileContent:
    """Content of a snapshot file."""

    position: Position
    root: str  # 64 hexadecimal digits
    voters: tuple[str, ...]
    voter_keys: Mapping[str, str]  # Public keys by name, as far as they are known
    voter_links: tuple[str, ...] = ()  # The chain of the voters, see ``trust.voters``


def read_content(path: Path) -> FileContent:
    """Compute the content root of a snapshot file, row by row; blocks.

    Raises:
        StorageCorrupt: It is malformed, or its op log does not match its hash chain.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            version = _check_schema(connection)
            _check_numbers(connection)
            return _read_content(connection, version)
    except _MALFORMED as error:
        raise StorageCorrupt(
            f"the snapshot cannot be trusted: {error}", source=str(path)
        ) from error


def _check_schema(connection: sqlite3.Connection) -> int:
    """Refuse a file with other tables; return the version of its schema."""
    # A view or a trigger of a malicious file would run with the reader's own statements.
    query = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    script = files("synaptoroute").joinpath("storage", "schema.sql").read_text("utf-8")
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
        for statement in "\n".join(lines).split(";\n"):
            blank.execute(statement)
        found = connection.execute(query).fetchall()
        for version, statements in enumerate(((), *SCHEMA_STEPS), start=1):
            for statement in statements:
                blank.execute(statement)
            if found == blank.execute(query).fetchall():
                return version
        raise ValueError("it has another schema")


def _check_numbers(connection: sqlite3.Connection) -> None:
    # The tree of the root is as large as the highest number, so a forged number is refused.
    for table, column in (("slot", "slot"), ("route", "route_id")):
        lowest, highest = connection.execute(
            f"SELECT min({column}), max({column}) FROM {table}"
        ).fetchone()
        if lowest is not None and not 0 <= lowest <= highest < CAPACITY_SLOTS_MAX:
            raise ValueError(f"a {column} is out of range")


def _read_content(connection: sqlite3.Connection, version: int) -> FileContent:
    facts = dict(connection.execute("SELECT key, value FROM cluster")) if version > 1 else {}
    ((epoch, seq, chain, fingerprint, dim, settings),) = connection.execute(
        "SELECT epoch, seq, chain, fingerprint, dim, settings FROM meta"
    ).fetchall()
    position = Position(epoch, seq, chain)
    check_chains(connection, position)
    rows = connection.execute("SELECT slot, route_id, utterance, vector FROM slot")
    snapshot = Snapshot(
        position=position,
        settings=load_settings(settings),
        routes=tuple(_routes(connection, version)),
        row_hashes={row[0]: row_hash(*row) for row in rows},
        remembered=tuple(_remembered(connection, seq)),
        imports=tuple(_imports(connection)),
        decision=_decision(connection) if version >= _DECISION_VERSION else FittedDecision(),
        epochs=tuple(_epochs(connection)),
        feedback=tuple(_feedback(connection)) if version > 2 else (),
        level=int(facts.get("level", "1")),
        voter_keys=tuple(sorted(json.loads(facts.get("voter_keys", "{}")).items())),
    )
    voters = snapshot.epochs[-1].opened.voters if snapshot.epochs else ()
    root = root_of(snapshot, fingerprint, dim)
    links = tuple(json.loads(facts.get("voter_links", "[]")))
    return FileContent(position, root, voters, dict(snapshot.voter_keys), links)


def load_settings(text: str) -> Settings:
    """Read settings as a database stores them: an array, with newer fields in an object at its end.

    Raises:
        TypeError: A field is unknown or missing.
        ValueError: It is not JSON.
    """
    fields: list[Any] = json.loads(text)
    more: dict[str, Any] = fields.pop() if isinstance(fields[-1], dict) else {}
    if "ignore" in more:
        more["ignore"] = tuple(more["ignore"])
    return Settings(*fields, **more)


def check_chains(connection: sqlite3.Connection, position: Position) -> None:
    """Check that each entry of the op log is the one that its hash chain names; reads all of it.

    The last chain is that of the position, so a certified position covers the whole op log.

    Raises:
        ValueError: An entry does not match.
        ProtocolError: An entry is malformed.
    """
    before: str | None = None
    last: tuple[int, int, str] | None = None
    rows = connection.execute("SELECT epoch, seq, prev_chain, chain, frame FROM oplog ORDER BY seq")
    for epoch, seq, prev_chain, chain, frame in rows:
        is_next = before is None or prev_chain == before
        if not is_next or next_chain(prev_chain, epoch, seq, digest_of(frame)) != chain:
            raise ValueError(f"entry {seq} of the op log does not match its chain")
        decode_proposal(frame)  # its header, which the chain covers, holds the hash of the rest
        before, last = chain, (epoch, seq, chain)
    if last not in (None, (position.epoch, position.seq, position.chain)):
        raise ValueError("the op log does not end at the position")


def _decision(connection: sqlite3.Connection) -> FittedDecision:
    found = connection.execute("SELECT payload, node, at_ms FROM decision").fetchone()
    return FittedDecision(*found) if found else FittedDecision()


def _routes(connection: sqlite3.Connection, version: int) -> Iterator[RouteRecord]:
    confidence: dict[int, float] = {}
    if version >= _DECISION_VERSION:
        confidence.update(connection.execute("SELECT route_id, confidence_min FROM route_decision"))
    # Without slots and texts: the root covers them by the rows, which name their owner.
    for route_id, name, threshold, metadata, payload, epoch, seq in connection.execute(
        "SELECT route_id, name, threshold, metadata, payload, epoch, seq FROM route"
    ):
        at = Revision(epoch, seq)
        own = confidence.pop(route_id, None)
        yield RouteRecord(route_id, name, (), (), threshold, metadata, payload, at, own)
    if confidence:
        raise ValueError("a route that does not exist has a confidence")


def _remembered(connection: sqlite3.Connection, seq: int) -> Iterator[Remembered]:
    for at_seq, op_id, request_hash, text in connection.execute(
        "SELECT seq, op_id, request_hash, outcome FROM remembered"
        " WHERE seq BETWEEN ? AND ? ORDER BY seq",
        (seq - IDEMPOTENCY_WINDOW_ENTRIES, seq),
    ):
        status, epoch, place, revision, code, message, count = json.loads(text)
        held = None if revision is None else Revision(*revision)
        outcome = Outcome(status, Revision(epoch, place), held, code, message, count)
        yield Remembered(op_id, at_seq, request_hash, outcome)


def _imports(connection: sqlite3.Connection) -> Iterator[StagedImport]:
    chunks: dict[str, list[ImportChunk]] = {}
    for (frame,) in connection.execute("SELECT frame FROM staging ORDER BY import_id, number"):
        chunk = decode_proposal(frame).mutation
        if not isinstance(chunk, ImportChunk):
            raise ValueError("a staged entry is not a chunk of an import")
        chunks.setdefault(chunk.import_id, []).append(chunk)
    for import_id, is_replace, touched_seq in connection.execute(
        "SELECT import_id, is_replace, touched_seq FROM import_open"
    ):
        begin = ImportBegin(import_id, bool(is_replace))
        yield StagedImport(begin, tuple(chunks.pop(import_id, ())), touched_seq)
    if chunks:
        raise ValueError("chunks are staged for an import that is not open")


def _feedback(connection: sqlite3.Connection) -> Iterator[FeedbackItem]:
    for row in connection.execute(
        "SELECT item_id, text, route, was, at_ms, times, seq FROM feedback ORDER BY item_id"
    ):
        yield FeedbackItem(*row)


def _epochs(connection: sqlite3.Connection) -> Iterator[EpochRecord]:
    for epoch, epoch_id, base_seq, voters, fingerprint, dim in connection.execute(
        "SELECT epoch, epoch_id, base_seq, voters, fingerprint, dim FROM epoch ORDER BY epoch"
    ):
        names = tuple(json.loads(voters))
        yield EpochRecord(epoch, OpenEpoch(epoch_id, base_seq, names, fingerprint, dim))

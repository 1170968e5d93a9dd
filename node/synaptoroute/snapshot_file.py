"""The content root of a snapshot file, computed without a node and without arrays.

The coordinator and ``synaptoroute restore`` compare it with what the voters certify.  The file
may come from anywhere, so its schema and its numbers are checked before they are used.  Its own
checksums are not: they only find accidents, which change the root as well.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from synaptoroute.core.change import (
    NO_DECISION,
    AliasChange,
    AliasRecord,
    EpochRecord,
    FeedbackItem,
    FittedDecision,
    Outcome,
    Remembered,
    RouteRecord,
    SetRecord,
    SetState,
    Snapshot,
    StagedImport,
)
from synaptoroute.core.codec import decode_proposal, digest_of
from synaptoroute.core.content import root_of
from synaptoroute.core.digest import next_chain, stored_row_hash
from synaptoroute.core.mutation import (
    IDEMPOTENCY_WINDOW_ENTRIES,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    Position,
    Revision,
    SetLimits,
    SetTest,
    Settings,
)
from synaptoroute.core.rows import local_of, set_number_of, split_key, stored_number
from synaptoroute.core.sets import SETS_MAX
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
SETS_SCHEMA: Final = (
    # Every route set but ``default``; that one has a record only if something changed in it at
    # level 5, and its settings in ``meta``.
    "CREATE TABLE route_set (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " limits TEXT NOT NULL, created_epoch INTEGER NOT NULL, created_seq INTEGER NOT NULL,"
    " epoch INTEGER NOT NULL, seq INTEGER NOT NULL, forked_from TEXT NOT NULL,"
    " settings TEXT NOT NULL) STRICT",
    # As ``decision``, of the other sets.
    "CREATE TABLE set_decision (number INTEGER PRIMARY KEY, payload BLOB NOT NULL,"
    " node TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT",
    "CREATE TABLE set_test (number INTEGER NOT NULL, text TEXT NOT NULL, route TEXT,"
    " PRIMARY KEY (number, text)) STRICT, WITHOUT ROWID",
    "CREATE TABLE alias (name TEXT PRIMARY KEY, target TEXT NOT NULL, shadow TEXT NOT NULL,"
    " shadow_share REAL NOT NULL, canary TEXT NOT NULL, canary_share REAL NOT NULL,"
    " epoch INTEGER NOT NULL, seq INTEGER NOT NULL, history TEXT NOT NULL)"
    " STRICT, WITHOUT ROWID",
)
"""Tables of version 5 of the schema; the digest covers all of them."""
SCHEMA_STEPS: Final = (FINALIZED_SCHEMA, DECISION_SCHEMA, (), SETS_SCHEMA)
"""The tables that versions 2, 3, ... add, in this order."""
_DECISION_VERSION: Final = 3
_SETS_VERSION: Final = 5
_NO_LIMITS: Final = SetLimits()
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


def _check_numbers(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Refuse numbers beyond the capacity, and rows of sets that do not exist."""
    # The tree of the root is as large as the highest number, so a forged number is refused.
    for table, column in (("slot", "slot"), ("route", "route_id")):
        found = 0
        for number in numbers:
            low = stored_number(number, 0)
            (count,) = connection.execute(
                f"SELECT count(*) FROM {table} WHERE {column} >= ? AND {column} < ?",
                (low, low + CAPACITY_SLOTS_MAX),
            ).fetchone()
            found += count
        if connection.execute(f"SELECT count(*) FROM {table}").fetchone() != (found,):
            raise ValueError(f"a {column} is out of range")


def _read_content(connection: sqlite3.Connection, version: int) -> FileContent:
    facts = dict(connection.execute("SELECT key, value FROM cluster")) if version > 1 else {}
    ((epoch, seq, chain, fingerprint, dim, settings),) = connection.execute(
        "SELECT epoch, seq, chain, fingerprint, dim, settings FROM meta"
    ).fetchall()
    position = Position(epoch, seq, chain)
    check_chains(connection, position)
    has_sets = version >= _SETS_VERSION
    sets = read_sets(connection) if has_sets else {}
    _check_numbers(connection, {0, *sets})
    confidence = _confidence(connection) if version >= _DECISION_VERSION else {}
    parts = SetParts(
        routes=_routes(connection, confidence),
        row_hashes=_row_hashes(connection),
        imports=_imports(connection),
        feedback=read_feedback(connection) if version >= _DECISION_VERSION else {},
        decisions=read_decisions(connection) if has_sets else {},
        tests=read_tests(connection) if has_sets else {},
    )
    if version >= _DECISION_VERSION:
        parts.decisions[0] = _decision(connection)
    snapshot = Snapshot(
        position=position,
        settings=load_settings(settings),
        remembered=tuple(_remembered(connection, seq)),
        epochs=tuple(_epochs(connection)),
        level=int(facts.get("level", "1")),
        voter_keys=tuple(sorted(json.loads(facts.get("voter_keys", "{}")).items())),
        aliases=read_aliases(connection) if has_sets else (),
    )
    snapshot = with_sets(snapshot, sets, parts)
    voters = snapshot.epochs[-1].opened.voters if snapshot.epochs else ()
    root = root_of(snapshot, fingerprint, dim)
    links = tuple(json.loads(facts.get("voter_links", "[]")))
    return FileContent(position, root, voters, dict(snapshot.voter_keys), links)


# --- route sets ---


@dataclass(frozen=True, slots=True)
class SetParts:
    """Contents of route sets, by the number of the set."""

    routes: dict[int, tuple[RouteRecord, ...]]
    row_hashes: dict[int, dict[int, bytes]]
    imports: dict[int, tuple[StagedImport, ...]]
    feedback: dict[int, tuple[FeedbackItem, ...]]
    decisions: dict[int, FittedDecision]
    tests: dict[int, tuple[SetTest, ...]]


def with_sets(
    snapshot: Snapshot, sets: Mapping[int, tuple[SetRecord, str]], parts: SetParts
) -> Snapshot:
    """Put the contents of all sets into a snapshot; takes them out of ``parts``.

    Raises:
        ValueError: Something belongs to a set that does not exist.
    """
    own = _contents(parts, 0)
    record = sets[0][0] if 0 in sets else None
    states = tuple(
        SetState(record=found, settings=load_settings(settings), **_contents(parts, number))
        for number, (found, settings) in sets.items()
        if number
    )
    for field in fields(parts):
        if left := getattr(parts, field.name):
            raise ValueError(f"{field.name} belong to route sets that do not exist: {min(left)}")
    return replace(snapshot, record=record, sets=states, **own)


def _contents(parts: SetParts, number: int) -> dict[str, Any]:
    return {
        "routes": parts.routes.pop(number, ()),
        "row_hashes": parts.row_hashes.pop(number, {}),
        "imports": parts.imports.pop(number, ()),
        "feedback": parts.feedback.pop(number, ()),
        "decision": parts.decisions.pop(number, NO_DECISION),
        "tests": parts.tests.pop(number, ()),
    }


def read_sets(connection: sqlite3.Connection) -> dict[int, tuple[SetRecord, str]]:
    """Read the record of each set, and its settings as they are stored, by number, ascending."""
    found = {}
    for number, name, limits, *places, forked_from, settings in connection.execute(
        "SELECT number, name, limits, created_epoch, created_seq, epoch, seq, forked_from, settings"
        " FROM route_set ORDER BY number"
    ):
        if not 0 <= number < SETS_MAX:
            raise ValueError("the number of a route set is out of range")
        created, revision = Revision(*places[:2]), Revision(*places[2:])
        held = _NO_LIMITS if limits == "{}" else SetLimits(**json.loads(limits))
        found[number] = SetRecord(number, name, held, created, revision, forked_from), settings
    return found


def read_tests(connection: sqlite3.Connection) -> dict[int, tuple[SetTest, ...]]:
    """Read the tests of each set that has some, in order of text."""
    tests: dict[int, list[SetTest]] = {}
    for number, text, route in connection.execute(
        "SELECT number, text, route FROM set_test ORDER BY number, text"
    ):
        tests.setdefault(number, []).append(SetTest(text, route))
    return {number: tuple(held) for number, held in tests.items()}


def read_decisions(connection: sqlite3.Connection) -> dict[int, FittedDecision]:
    """Read the numbers behind the confidence of the sets other than ``default``."""
    rows = connection.execute("SELECT number, payload, node, at_ms FROM set_decision")
    return {number: FittedDecision(*fields) for number, *fields in rows}


def read_aliases(connection: sqlite3.Connection) -> tuple[AliasRecord, ...]:
    """Read the aliases, in order of name."""
    aliases = []
    for (
        name,
        target,
        shadow,
        shadow_share,
        canary,
        canary_share,
        epoch,
        seq,
        text,
    ) in connection.execute(
        "SELECT name, target, shadow, shadow_share, canary, canary_share, epoch, seq, history"
        " FROM alias ORDER BY name"
    ):
        history = [AliasChange(Revision(*at), *rest) for at, *rest in json.loads(text)]
        aliases.append(
            AliasRecord(
                name,
                target,
                shadow,
                shadow_share,
                canary,
                canary_share,
                Revision(epoch, seq),
                tuple(history),
            )
        )
    return tuple(aliases)


def read_feedback(connection: sqlite3.Connection) -> dict[int, tuple[FeedbackItem, ...]]:
    """Read the review queue of each set that has one, in order of identity."""
    items: dict[int, list[FeedbackItem]] = {}
    for key, *values in connection.execute(
        "SELECT item_id, text, route, was, at_ms, times, seq FROM feedback ORDER BY item_id"
    ):
        number, item_id = split_key(key)
        items.setdefault(number, []).append(FeedbackItem(item_id, *values))
    return {number: tuple(held) for number, held in items.items()}


def _row_hashes(connection: sqlite3.Connection) -> dict[int, dict[int, bytes]]:
    hashes: dict[int, dict[int, bytes]] = {}
    for slot, owner, text, vector in connection.execute(
        "SELECT slot, route_id, utterance, vector FROM slot"
    ):
        number = set_number_of(slot)
        if set_number_of(owner) != number:
            raise ValueError("a slot belongs to a route of another route set")
        hashed = stored_row_hash(slot, owner, text, vector)
        hashes.setdefault(number, {})[local_of(slot)] = hashed
    return hashes


@lru_cache(maxsize=8)  # Most route sets have the settings that a new one gets
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


def _confidence(connection: sqlite3.Connection) -> dict[int, float]:
    return dict(connection.execute("SELECT route_id, confidence_min FROM route_decision"))


def _routes(
    connection: sqlite3.Connection, confidence: dict[int, float]
) -> dict[int, tuple[RouteRecord, ...]]:
    routes: dict[int, list[RouteRecord]] = {}
    # Without slots and texts: the root covers them by the rows, which name their owner.
    for route_id, key, threshold, metadata, payload, epoch, seq in connection.execute(
        "SELECT route_id, name, threshold, metadata, payload, epoch, seq FROM route"
    ):
        number, name = split_key(key)
        if set_number_of(route_id) != number:
            raise ValueError(f"the route {name!r} belongs to two route sets")
        own, at = confidence.pop(route_id, None), Revision(epoch, seq)
        route = RouteRecord(local_of(route_id), name, (), (), threshold, metadata, payload, at, own)
        routes.setdefault(number, []).append(route)
    if confidence:
        raise ValueError("a route that does not exist has a confidence")
    return {number: tuple(held) for number, held in routes.items()}


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


def _imports(connection: sqlite3.Connection) -> dict[int, tuple[StagedImport, ...]]:
    chunks = read_chunks(connection)
    imports: dict[int, list[StagedImport]] = {}
    for key, is_replace, touched_seq in connection.execute(
        "SELECT import_id, is_replace, touched_seq FROM import_open"
    ):
        number, import_id = split_key(key)
        begin = ImportBegin(import_id, bool(is_replace))
        staged = StagedImport(begin, tuple(chunks.pop(key, ())), touched_seq)
        imports.setdefault(number, []).append(staged)
    if chunks:
        raise ValueError("chunks are staged for an import that is not open")
    return {number: tuple(held) for number, held in imports.items()}


def read_chunks(connection: sqlite3.Connection) -> dict[str, list[ImportChunk]]:
    """Read the staged chunks of each import, by its stored key, in order of number."""
    chunks: dict[str, list[ImportChunk]] = {}
    for key, frame in connection.execute(
        "SELECT import_id, frame FROM staging ORDER BY import_id, number"
    ):
        chunk = decode_proposal(frame).mutation
        if not isinstance(chunk, ImportChunk) or split_key(key)[1] != chunk.import_id:
            raise ValueError("a staged entry is not a chunk of its import")
        chunks.setdefault(key, []).append(chunk)
    return chunks


def _epochs(connection: sqlite3.Connection) -> Iterator[EpochRecord]:
    for epoch, epoch_id, base_seq, voters, fingerprint, dim in connection.execute(
        "SELECT epoch, epoch_id, base_seq, voters, fingerprint, dim FROM epoch ORDER BY epoch"
    ):
        names = tuple(json.loads(voters))
        yield EpochRecord(epoch, OpenEpoch(epoch_id, base_seq, names, fingerprint, dim))

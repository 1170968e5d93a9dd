"""Route sets in the database: copied and removed as a whole, verified as everything else."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from histories import (
    DIM,
    FINGERPRINT,
    NEXT,
    NEXT_DIM,
    History,
    assert_holds,
    boot,
    decided,
    held_vectors,
    opened,
    put,
    vector,
)
from set_histories import steps
from synaptoroute.core.change import SlotWrite
from synaptoroute.core.content import root_of
from synaptoroute.core.digest import stored_row_hash
from synaptoroute.core.feedback import FeedbackSettings, write_feedback_settings
from synaptoroute.core.imports import row_count_of
from synaptoroute.core.mutation import (
    CalibrateDecision,
    DeleteAlias,
    DeleteRoute,
    DeleteSet,
    Finalize,
    ForkSet,
    ImportBegin,
    ImportChunk,
    Mutation,
    PutFeedback,
    PutSet,
    PutSettings,
    PutTests,
    SetTest,
    Settings,
)
from synaptoroute.core.rows import local_of, set_number_of
from synaptoroute.errors import StorageCorrupt
from synaptoroute.snapshot_file import read_content
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit

PREVIOUS_RELEASE = Path(__file__).parent / "data" / "level_4.sqlite.gz"
"""Written by commit cbf1e77 from ``rich_history`` and a route, a setting and an item more."""
PREVIOUS_ROOT = "06407f7577c60d599496d52894f169510c793b216f459c850ee0a9512ea32f04"
NUMBERED = {
    "slot": "slot >> 32",
    "route": "route_id >> 32",
    "route_decision": "route_id >> 32",
    "route_set": "number",
    "set_decision": "number",
    "set_test": "number",
}
KEYED = {"route": "name", "feedback": "item_id", "staging": "import_id", "import_open": "import_id"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


@pytest.fixture
def storage(path: Path) -> Iterator[SQLiteStorage]:
    with closing(opened(path)) as storage:
        yield storage


def written(storage: SQLiteStorage) -> History:
    """Carry out ``steps``, an entry a transaction."""
    history = History()
    for name, mutation in steps():
        storage.commit(history.write(mutation, route_set=name))
    return history


def traces_of(path: Path, number: int) -> list[str]:
    """The tables that hold anything of a set."""
    with closing(sqlite3.connect(path)) as raw:
        found = [
            table
            for table, column in NUMBERED.items()
            if raw.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (number,)).fetchone()
        ]
        prefix = f"\x1f{number}\x1f"
        for table, column in KEYED.items():
            where = f"substr({column}, 1, ?) = ?"
            row = raw.execute(f"SELECT 1 FROM {table} WHERE {where}", (len(prefix), prefix))
            if row.fetchone():
                found.append(table)
    return found


def test_one_transaction_keeps_the_order_of_writes_and_copies(
    storage: SQLiteStorage, path: Path
) -> None:
    """A copy has what was written before it and nothing of what came after it."""
    history = History()
    commits = history.write(Finalize(5), put("a", 4), decided("b", 1), CalibrateDecision(b"fit"))
    commits += history.write(PutSettings(Settings(topk=7)), PutTests((SetTest("x", "a"),)))
    commits += history.write(ForkSet("default", "copy"), put("a", 2, 9), DeleteRoute("b"))
    commits += history.write(PutSettings(Settings(topk=8)), CalibrateDecision(b"later"))
    commits += history.write(put("a", 6, 3), route_set="copy")
    commits += history.write(ForkSet("copy", "copy@2"), DeleteSet("copy"), PutSet("third"))
    commits += history.write(put("c", 3, 4), route_set="third")
    storage.commit(commits)
    storage.close()
    stored = boot(path)

    assert_holds(stored, history)

    third, copy = stored.snapshot.sets
    assert ("third", "copy@2") == (third.record.name, copy.record.name)
    assert (7, b"fit", (SetTest("x", "a"),)) == (
        copy.settings.topk,
        copy.decision.payload,
        copy.tests,
    )
    assert ["a", "b"] == [route.name for route in copy.routes]


def test_removed_set_leaves_nothing(storage: SQLiteStorage, path: Path) -> None:
    """Neither rows nor texts nor imports of it are left, in whatever table."""
    history = written(storage)
    settings = Settings(feedback=write_feedback_settings(FeedbackSettings()))
    storage.commit(history.write(PutSettings(settings), route_set="new"))
    chunk = ImportChunk("i", 0, (put("f", 2, 5),))
    more: list[Mutation] = [
        decided("g", 6),
        CalibrateDecision(b"fit"),
        PutTests((SetTest("x", "a"),)),
    ]
    more.append(PutFeedback("0" * 16, "said", "g", None, 5))
    storage.commit(history.write(*more, ImportBegin("i"), chunk, route_set="new"))
    number = history.replica.sets.numbers["new"]

    assert {*NUMBERED, *KEYED} == set(traces_of(path, number))

    storage.commit(history.write(DeleteAlias("live"), DeleteSet("new")))

    assert [] == traces_of(path, number)
    storage.close()
    assert_holds(boot(path), history)


def test_checkpoint_of_a_copy_waits_until_it_is_visible(storage: SQLiteStorage, path: Path) -> None:
    """The rows are durable in the write-ahead log; the file gets them when the node is asked to."""
    history = History()
    storage.commit(history.write(Finalize(5), put("a", 3_000), put("b", 20_000)))
    before = path.stat().st_size
    storage.commit(history.write(ForkSet("default", "copy")))

    assert storage.owes_checkpoint
    assert before == path.stat().st_size

    storage.settle()

    assert not storage.owes_checkpoint
    assert path.stat().st_size > 1.5 * before

    storage.commit(history.write(put("c", 3)))

    assert not storage.owes_checkpoint
    storage.close()
    assert_holds(boot(path), history)


def test_open_import_of_a_set_is_read_back(storage: SQLiteStorage, path: Path) -> None:
    """Two sets may have an import of one name."""
    history = written(storage)
    chunk = ImportChunk("i", 0, (put("f", 2, 5),))
    for name in ("", "new", "draft@2"):
        storage.commit(history.write(ImportBegin("i", bool(name)), chunk, route_set=name))
    storage.close()
    stored = boot(path)

    assert_holds(stored, history)
    counts = [state.imports[0].row_count for state in stored.snapshot.sets]
    assert [row_count_of(chunk)] * 2 == counts


def test_rows_of_a_set_are_repaired(storage: SQLiteStorage) -> None:
    """Slots and owners are as the database stores them."""
    history = written(storage)
    number = history.replica.sets.numbers["draft@2"]
    row = next(each for each in storage.rows() if set_number_of(each.slot) == number)
    changed = vector(99)
    hashed = stored_row_hash(row.slot, row.owner, row.utterance, changed)
    digest = history.replica.sets.digest_anew({number: {local_of(row.slot): hashed}})
    write = SlotWrite(row.slot, row.owner, row.utterance, changed, hashed)
    stored = storage.repair_rows([write], digest)

    assert digest == stored.digest
    assert {**history.vectors, row.slot: changed} == held_vectors(stored)


def test_vectors_of_all_sets_are_replaced(storage: SQLiteStorage, path: Path) -> None:
    """A change of the encoder of a database without a cluster has every set."""
    history = written(storage)
    embedding = storage.re_embedding
    embedding.begin(NEXT, NEXT_DIM)
    while missing := embedding.missing(1_000):
        embedding.put([(slot, vector(slot % 1_000, NEXT_DIM)) for slot, _ in missing])
    swapped = embedding.finish()
    storage.close()
    stored = storage.open(fingerprint=NEXT, dim=NEXT_DIM)

    assert stored.snapshot == swapped.snapshot
    assert held_vectors(stored) == {
        slot: vector(slot % 1_000, NEXT_DIM) for slot in history.vectors
    }
    before = history.replica.snapshot().sets
    assert [each.routes for each in before] == [each.routes for each in stored.snapshot.sets]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE route_set SET name = 'other' WHERE name = 'new'",
        "UPDATE route_set SET limits = '{\"routes_max\":9}' WHERE name = 'new'",
        "UPDATE route_set SET seq = seq + 1 WHERE name = 'new'",
        "UPDATE route_set SET settings = replace(settings, 'adaptive', 'blend')",
        "UPDATE route_set SET settings = '[]' WHERE name = 'new'",
        "UPDATE route_set SET limits = 'null' WHERE name = 'new'",
        "UPDATE route_set SET number = 20000 WHERE name = 'new'",
        "UPDATE route_set SET number = 77 WHERE name = 'new'",
        "DELETE FROM route_set WHERE name = 'new'",
        "DELETE FROM route_set WHERE number = 0",
        "UPDATE set_test SET route = 'b' WHERE text = 'who'",
        "UPDATE set_test SET number = 0 WHERE number > 0 AND text = 'x'",
        "DELETE FROM set_test WHERE number = 0 AND text = 'who'",
        "INSERT INTO set_decision VALUES (1, x'00', '', 0)",
        "UPDATE alias SET shadow_share = 0.5",
        "UPDATE alias SET history = '[]'",
        "UPDATE alias SET history = replace(hex(zeroblob(50000)), '0', '[')",
        "DELETE FROM alias",
        "DELETE FROM slot WHERE slot = (SELECT max(slot) FROM slot)",
        "UPDATE slot SET slot = slot + (9 << 32) WHERE slot = (SELECT max(slot) FROM slot)",
        "UPDATE slot SET route_id = route_id & 4294967295 WHERE slot >> 32 = 1",
        "UPDATE route SET route_id = route_id + (5 << 32) WHERE route_id >> 32 = 1",
        "UPDATE route SET name = 'x' WHERE route_id >> 32 = 1",
    ],
)
def test_whatever_is_changed_of_a_set_is_found(
    storage: SQLiteStorage, path: Path, statement: str
) -> None:
    """The file is moved aside, and a snapshot of the same content has another root."""
    history = written(storage)
    if "set_test" in statement:
        more = PutTests((SetTest("x", None),))
        storage.commit(history.write(more, route_set="new"))
    root = root_of(history.replica.snapshot(), *storage.encoder)
    copy = path.with_name("snapshot")
    storage.snapshot_to(copy)
    storage.close()
    for file in (path, copy):
        with closing(sqlite3.connect(file)) as raw:
            assert raw.execute(statement).rowcount >= 1
            raw.commit()

    with pytest.raises(StorageCorrupt):
        boot(path)
    with suppress(StorageCorrupt):
        assert root != read_content(copy).root
    with closing(opened(path.with_name("other"))) as other, pytest.raises(StorageCorrupt):
        other.install(copy)


def test_database_of_the_release_before_opens_unchanged(path: Path) -> None:
    """Its bytes, its digest and its root stay, until the log is raised to level 5."""
    content = gzip.decompress(PREVIOUS_RELEASE.read_bytes())
    path.write_bytes(content)
    with closing(opened(path)) as storage:
        storage.close()
        stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
        copy = path.with_name("snapshot")
        storage.snapshot_to(copy)
    assert content == path.read_bytes()
    assert (4, PREVIOUS_ROOT) == (stored.snapshot.level, read_content(copy).root)
    assert root_of(stored.snapshot, FINGERPRINT, DIM) == PREVIOUS_ROOT
    assert "退款" in {route.name for route in stored.snapshot.routes}

    history = History(stored.snapshot)
    history.vectors = held_vectors(stored)
    with closing(opened(path)) as storage:
        (refused,) = history.write(PutSet("support"))
        storage.commit([refused])
        storage.commit(history.write(Finalize(5), ForkSet("default", "copy")))
        storage.commit(history.write(put("a", 3, 7), route_set="copy"))
    assert "not_finalized" == refused.change.outcome.code
    assert_holds(boot(path), history)


def test_thousand_sets_are_read_back(storage: SQLiteStorage, path: Path) -> None:
    """Numbers are given again, and rows of a set follow each other."""
    history = History()
    storage.commit(history.write(Finalize(5), *(PutSet(f"s{n}") for n in range(1_000))))
    for name in ("s3", "s999", "s500"):
        storage.commit(history.write(put("a", 30), route_set=name))
    storage.commit(history.write(DeleteSet("s3"), PutSet("again")))
    storage.close()
    stored = boot(path)

    assert_holds(stored, history)
    assert (4, 2) == (history.replica.sets.numbers["again"], stored.routes_count)
    slots, vectors = stored.rows_of(stored.snapshot.sets[499].record.number + 1)
    assert (30, DIM) == (len(slots), vectors.shape[1])
    assert [*range(30)] == slots.tolist()

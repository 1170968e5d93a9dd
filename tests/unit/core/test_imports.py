"""Imports: invisible until the commit, then visible all at once."""

from __future__ import annotations

import struct

import pytest

from replicas import SMALL, ShadowedTable, fresh, log_of, proposal, replay, table_state
from strategies import CAPACITY_SLOTS
from synaptoroute.core import imports as imports_module
from synaptoroute.core.imports import CHUNKS_MAX, IMPORTS_OPEN_MAX
from synaptoroute.core.mutation import (
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PutRoute,
    PutSettings,
    Revision,
    Settings,
)

pytestmark = pytest.mark.unit


def vector(x: float) -> bytes:
    """A row of two dimensions."""
    return struct.pack("<2f", x, 1)


def part(name: str, *texts: str, x: float = 0, **fields: object) -> PutRoute:
    """A route, or a part of one."""
    return PutRoute(name, texts, (vector(x),) * len(texts), **fields)  # type: ignore[arg-type]


class Importing(ShadowedTable):
    """A table with what tests of imports look at."""

    def __init__(self, settings: Settings = SMALL) -> None:
        super().__init__(settings)

    def rejected(self, *mutations: Mutation) -> str:
        """Apply mutations, the last of which is rejected and changes nothing; its code."""
        for mutation in mutations[:-1]:
            self.do(mutation)
        before = table_state(self.table)
        change = self.do(mutations[-1])
        assert "rejected" == change.outcome.status
        assert before == table_state(self.table)
        return str(change.outcome.code)


@pytest.fixture
def world() -> Importing:
    """A table with one route."""
    made = Importing()
    made.do(part("old", "o1", "o2"))
    return made


def test_staged_chunks_are_invisible(world: Importing) -> None:
    """They change the digest, but no route or row."""
    before = table_state(world.table)
    world.do(ImportBegin("i"), ImportChunk("i", 0, (part("new", "n1"),)))
    after = table_state(world.table)

    for unseen in ("routes", "row_hashes", "slots", "route_ids", "buckets"):
        assert before[unseen] == after[unseen]
    assert before["digest"] != after["digest"]


def test_commit_makes_all_routes_visible_at_once(world: Importing) -> None:
    """One change contains them, in order of name, and closes the import."""
    world.do(ImportBegin("i"), ImportChunk("i", 1, (part("b", "b1"),)))
    world.do(ImportChunk("i", 0, (part("c", "c1"), part("a", "a1", "a2"))))
    change = world.do(ImportCommit("i", 2))

    assert ["a", "b", "c"] == [route.name for route in change.put]
    assert ["a", "b", "c", "old"] == sorted(world.table.routes)
    assert [2, 3, 4, 5] == [write.slot for write in change.writes]
    assert {Revision(1, world.seq)} == {route.revision for route in change.put}
    assert 3 == change.outcome.count
    assert change.closed is not None
    assert {} == world.table.imports


def test_parts_of_a_route_are_joined_in_order_of_their_chunks(world: Importing) -> None:
    """The fields of the first part count, and so does the first vector of a text."""
    world.do(
        ImportBegin("i"),
        ImportChunk("i", 1, (part("r", "b", "c", x=1, threshold=0.9, payload="2"),)),
        ImportChunk("i", 0, (part("r", "a", "b", threshold=0.1, payload="1"), part("r", "d"))),
        ImportCommit("i", 2),
    )
    route = world.table.routes["r"]

    assert ("a", "b", "d", "c") == route.utterances
    assert (0.1, "1") == (route.threshold, route.payload)
    assert vector(0) == world.shadow.rows[route.slots[1]][2]
    assert vector(1) == world.shadow.rows[route.slots[3]][2]


def test_import_of_existing_routes_changes_none_of_them(world: Importing) -> None:
    """It only drops its chunks; revisions stay."""
    revision = world.table.routes["old"].revision
    world.do(ImportBegin("i"), ImportChunk("i", 0, (part("old", "o1", "o2"),)))
    change = world.do(ImportCommit("i", 1))

    assert ((), (), ()) == (change.put, change.writes, change.freed)
    assert ("applied", 0) == (change.outcome.status, change.outcome.count)
    assert change.closed is not None
    assert revision == world.table.routes["old"].revision


def test_replacing_import_removes_other_routes(world: Importing) -> None:
    """At the commit; routes in the import are kept or changed."""
    world.do(part("gone", "g1", "g2"), ImportBegin("i", replace=True))
    world.do(ImportChunk("i", 0, (part("old", "o2", "o3"),)))
    assert ["gone", "old"] == sorted(world.table.routes)
    change = world.do(ImportCommit("i", 1))

    assert ["old"] == list(world.table.routes)
    assert ["gone"] == [route.name for route in change.deleted]
    assert ("o2", "o3") == world.table.routes["old"].utterances
    assert 2 == change.outcome.count


def test_replacing_import_reuses_rows_of_a_full_tensor() -> None:
    """The rows of removed routes are reused for new ones."""
    world = Importing()
    world.do(*(part(f"old{i}", *(f"{i}-{j}" for j in range(4))) for i in range(3)))
    world.do(ImportBegin("i", replace=True))
    world.do(ImportChunk("i", 0, (part("new", *(f"n{j}" for j in range(CAPACITY_SLOTS))),)))
    world.do(ImportCommit("i", 1))

    assert tuple(range(CAPACITY_SLOTS)) == world.table.routes["new"].slots


def test_capacity_is_checked_at_the_commit(world: Importing) -> None:
    """Other writes may have taken the slots; the import stays open and can be committed later."""
    chunk = ImportChunk("i", 0, (part("new", *(f"n{j}" for j in range(8))),))
    world.do(ImportBegin("i"), chunk, part("other", "x1", "x2", "x3"))

    assert "capacity_exceeded" == world.rejected(ImportCommit("i", 1))

    world.do(DeleteRoute("other"))

    assert "applied" == world.do(ImportCommit("i", 1)).outcome.status


def test_staged_rows_are_limited_by_the_capacity(world: Importing) -> None:
    """The limit is for all open imports together."""
    half = [f"n{j}" for j in range(CAPACITY_SLOTS // 2)]
    world.do(ImportBegin("i"), ImportBegin("j"))
    world.do(ImportChunk("i", 0, (part("a", *half),)), ImportChunk("j", 0, (part("a", *half),)))

    assert "capacity_exceeded" == world.rejected(ImportChunk("j", 1, (part("b", "x"),)))

    world.do(ImportAbort("i"))

    assert "applied" == world.do(ImportChunk("j", 1, (part("b", "x"),))).outcome.status


def test_repeated_chunk_changes_nothing(world: Importing) -> None:
    """A resumed import may send it again."""
    world.do(ImportBegin("i"), ImportChunk("i", 0, (part("a", "a1"),)))
    before = table_state(world.table)
    change = world.do(ImportChunk("i", 0, (part("a", "other"),)))

    assert "unchanged" == change.outcome.status
    assert before == table_state(world.table)


def test_import_can_be_opened_again(world: Importing) -> None:
    """The outcome counts its chunks; opening it in another mode is rejected."""
    world.do(ImportBegin("i"), ImportChunk("i", 0, ()))
    change = world.do(ImportBegin("i"))

    assert ("unchanged", 1) == (change.outcome.status, change.outcome.count)
    assert "import_rejected" == world.rejected(ImportBegin("i", replace=True))


def test_import_can_be_resumed_from_a_snapshot() -> None:
    """Staged chunks are part of the state."""
    begin = [ImportBegin("i"), ImportChunk("i", 1, (part("b", "b1"),))]
    rest = [ImportChunk("i", 0, (part("a", "a1"),)), ImportCommit("i", 2)]
    replayed = fresh()
    replay(replayed, log_of(proposal(each, i) for i, each in enumerate(begin)))
    restored = fresh(replayed.snapshot())
    tail = log_of((proposal(each, 9 + i) for i, each in enumerate(rest)), replayed.position)

    assert replay(replayed, tail) == replay(restored, tail)
    assert ["a", "b"] == sorted(restored.table.routes)


@pytest.mark.parametrize("chunk_count", [0, 1, 3, CHUNKS_MAX, (1 << 53) - 1])
def test_commit_with_a_wrong_count_is_rejected(world: Importing, chunk_count: int) -> None:
    """Quickly, even if the count is huge; the chunks stay."""
    world.do(ImportBegin("i"), *(ImportChunk("i", n, ()) for n in range(2)))

    assert "import_rejected" == world.rejected(ImportCommit("i", chunk_count))
    assert "applied" == world.do(ImportCommit("i", 2)).outcome.status


def test_error_names_missing_chunks(world: Importing) -> None:
    """The first three."""
    world.do(ImportBegin("i"), ImportChunk("i", 1, ()), ImportChunk("i", 5, ()))
    message = world.do(ImportCommit("i", 6)).outcome.message

    assert "[0, 2, 3]" in message


def test_commit_with_extra_chunks_is_rejected(world: Importing) -> None:
    world.do(ImportBegin("i"), ImportChunk("i", 0, ()), ImportChunk("i", 7, ()))

    assert "import_rejected" == world.rejected(ImportCommit("i", 1))
    assert "import_rejected" == world.rejected(ImportCommit("i", 2))


def test_abort_drops_the_chunks(world: Importing) -> None:
    """The state is as if the import had never been opened."""
    before = table_state(world.table)
    world.do(ImportBegin("i"), ImportChunk("i", 0, (part("a", "a1"),)))
    change = world.do(ImportAbort("i"))

    assert 1 == change.outcome.count
    assert before == table_state(world.table)


@pytest.mark.parametrize(
    "mutation", [ImportChunk("i", 0, ()), ImportCommit("i", 0), ImportAbort("i")]
)
def test_import_that_is_not_open_is_rejected(world: Importing, mutation: Mutation) -> None:
    """For a chunk, a commit and an abort."""
    assert "import_rejected" == world.rejected(mutation)


def test_empty_replacing_import_removes_every_route(world: Importing) -> None:
    world.do(ImportBegin("i", replace=True), ImportCommit("i", 0))

    assert {} == world.table.routes
    assert 0 == world.table.slots_used


def test_open_imports_are_limited(world: Importing) -> None:
    """Another one is rejected until one is closed."""
    world.do(*(ImportBegin(f"i{n}") for n in range(IMPORTS_OPEN_MAX)))

    assert "import_rejected" == world.rejected(ImportBegin("more"))

    world.do(ImportCommit("i0", 0))

    assert "applied" == world.do(ImportBegin("more")).outcome.status


def test_chunk_numbers_are_limited(world: Importing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last number is one below the limit."""
    monkeypatch.setattr(imports_module, "CHUNKS_MAX", 3)
    world.do(ImportBegin("i"), ImportChunk("i", 2, ()))

    assert "import_rejected" == world.rejected(ImportChunk("i", 3, ()))


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (PutRoute("r", (), ()), "invalid_route"),
        (PutRoute("r", ("a", "a"), (vector(0),) * 2), "invalid_route"),
        (PutRoute("r", ("a",), ()), "invalid_vector"),
        (PutRoute("r", ("a",), (vector(0) * 2,)), "invalid_vector"),
    ],
)
def test_malformed_part_is_rejected_at_staging(world: Importing, bad: PutRoute, code: str) -> None:
    """Not at the commit, where it would spoil the whole import."""
    assert code == world.rejected(ImportBegin("i"), ImportChunk("i", 0, (part("a", "x"), bad)))


def test_commit_uses_the_current_capacity(world: Importing) -> None:
    """Settings may change while an import is open."""
    world.do(ImportBegin("i"), ImportChunk("i", 0, (part("a", "1", "2", "3"),)))
    world.do(PutSettings(Settings(capacity_slots=4)))

    assert "capacity_exceeded" == world.rejected(ImportCommit("i", 1))


def test_chunks_are_ordered_by_number(world: Importing) -> None:
    """In whatever order they arrive; the newest entry is remembered."""
    world.do(ImportBegin("i"), *(ImportChunk("i", n, (part("a", str(n)),)) for n in (3, 0, 2, 1)))
    staged = world.table.imports["i"]

    assert [0, 1, 2, 3] == [chunk.number for chunk in staged.chunks]
    assert (world.seq, 4) == (staged.touched_seq, staged.row_count)


def test_reverted_chunk_restores_touched_seq(world: Importing) -> None:
    """Otherwise an abandoned import would look active."""
    world.do(ImportBegin("i"), ImportChunk("i", 1, ()))
    before = table_state(world.table)
    world.table.revert(world.do(ImportChunk("i", 0, ())))

    assert before == table_state(world.table)

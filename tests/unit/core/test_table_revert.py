"""Route table: revert and restore give back the same table."""

from __future__ import annotations

import pytest

from replicas import SMALL, World, proposal, route, table_state, vector
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
)
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.unit

REVERTED: list[Mutation] = [
    route("new", "1", "2"),
    route("a", "1", "9"),
    route("a", "7", "8", "9", threshold=0.1),
    DeleteRoute("a"),
    AddUtterances("a", ("9",), (vector(),)),
    RemoveUtterances("a", ("1",)),
    PatchRoute("a", threshold=0.9),
    PutSettings(Settings(capacity_slots=40)),
    ImportBegin("j"),
    ImportChunk("i", 1, (route("x", "1"),)),
    ImportCommit("i", 1),
    ImportAbort("i"),
    OpenEpoch("e", 5),
]


@pytest.fixture
def world() -> World:
    """An empty table of twelve slots."""
    return World()


@pytest.mark.parametrize("mutation", REVERTED, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("capacity_slots", [5, 30])
@pytest.mark.parametrize("is_replacing", [False, True])
def test_revert_restores_the_table(
    mutation: Mutation, capacity_slots: int, is_replacing: bool
) -> None:
    """Rows, fields, imports, free numbers and sums, also on a full tensor."""
    world = World(capacity_slots)
    world.do(route("a", "1", "2"))
    world.do(route("b", "1", "2"))
    world.do(ImportBegin("i", is_replacing))
    world.do(ImportChunk("i", 0, (route("c", "1"), route("a", "1", "3"))))
    before = table_state(world.table)
    first = world.table.apply(proposal(mutation, 99), Revision(1, 99))
    world.table.revert(first)

    assert before == table_state(world.table)
    assert first == world.table.apply(proposal(mutation, 99), Revision(1, 99))


def test_restored_table_equals_the_original(world: World) -> None:
    """It is restored from routes, row hashes and imports."""
    world.do(route("a", "1", "2"))
    world.do(route("b", "1", "2"))
    world.do(ImportBegin("i"))
    world.do(ImportChunk("i", 0, (route("c", "1"),)))
    world.do(DeleteRoute("a"))
    table = world.table
    restored = RouteTable.restore(
        table.settings,
        2,
        tuple(table.routes.values()),
        dict(table.row_hashes),
        tuple(table.imports.values()),
    )

    assert table_state(table) == table_state(restored)


def test_empty_table_has_the_digest_of_its_settings() -> None:
    """Two empty nodes with different settings have different digests."""
    assert RouteTable(SMALL).digest.hex() != RouteTable().digest.hex()
    assert 0 == RouteTable(SMALL).slots_used

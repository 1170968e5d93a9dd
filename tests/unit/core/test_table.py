"""Route table: which route owns which slots depends on the log alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicas import World, proposal, route, table_state, vector
from synaptoroute.core.change import Outcome
from synaptoroute.core.mutation import (
    AddUtterances,
    Calibrate,
    DeleteRoute,
    ImportChunk,
    Mutation,
    PatchRoute,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
)
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.unit


@pytest.fixture
def world() -> World:
    """An empty table of twelve slots."""
    return World()


def test_routes_take_the_lowest_free_slots(world: World) -> None:
    """And the lowest free route id."""
    world.do(route("a", "1", "2"))
    world.do(route("b", "1"))
    world.do(route("c", "1", "2", "3"))
    change = world.do(DeleteRoute("b"))
    assert (2,) == change.freed
    world.do(route("d", "1", "2"))

    assert ((0, 1), (3, 4, 5), (2, 6)) == tuple(world.slots(name) for name in "acd")
    assert [0, 2, 1] == [world.table.routes[name].route_id for name in "acd"]


def test_only_the_put_of_a_new_route_creates_it(world: World) -> None:
    assert world.do(route("a", "1")).outcome.created
    assert not world.do(route("a", "2")).outcome.created
    assert not world.do(AddUtterances("a", ("3",), (vector(),))).outcome.created
    assert not world.do(DeleteRoute("a")).outcome.created
    assert world.do(route("a", "1")).outcome.created
    assert not world.do(route("a", "1")).outcome.created
    assert not world.do(route("a", "5"), if_none_match=True).outcome.created


def test_new_slots_are_taken_before_old_ones_are_freed(world: World) -> None:
    """A query that still sees the old row must not find a new one in its slot."""
    world.do(route("a", "1", "2", x=0))
    change = world.do(route("a", "1", "2", x=1))

    assert [2, 3] == [write.slot for write in change.writes]
    assert (0, 1) == change.freed


def test_put_rewrites_only_the_row_that_differs(world: World) -> None:
    """One changed vector costs one row."""
    world.do(PutRoute("a", ("1", "2", "3"), (vector(0), vector(1), vector(2))))
    change = world.do(PutRoute("a", ("1", "2", "3"), (vector(0), vector(9), vector(2))))

    assert [(3, "2")] == [(write.slot, write.utterance) for write in change.writes]
    assert (1,) == change.freed
    assert (0, 2, 3) == world.slots("a")
    assert ("1", "3", "2") == world.table.routes["a"].utterances
    assert 1 == change.outcome.count


def test_put_on_a_full_tensor_reuses_its_own_slots() -> None:
    """Free slots first, then its own old ones, never those of another route."""
    world = World(capacity_slots=5)
    world.do(route("a", "1", "2", "3", x=0))
    world.do(route("b", "1"))
    change = world.do(route("a", "1", "2", "3", x=1))

    assert [0, 1, 4] == [write.slot for write in change.writes]
    assert (2,) == change.freed
    assert (3,) == world.slots("b")

    world.do(route("c", "1"))
    change = world.do(route("a", "1", "2", "3", x=2))

    assert [0, 1, 4] == [write.slot for write in change.writes]
    assert () == change.freed


def test_route_over_the_capacity_is_rejected() -> None:
    """Its own old rows count as free."""
    world = World(capacity_slots=3)
    world.do(route("a", "1", "2"))

    assert "capacity_exceeded" == world.code(route("b", "1", "2"))
    assert "capacity_exceeded" == world.code(route("a", "3", "4", "5", "6"))
    assert "capacity_exceeded" == world.code(AddUtterances("a", ("3", "4"), (vector(),) * 2))
    assert world.code(route("a", "3", "4", "5")) is None


def test_unchanged_put_keeps_its_revision(world: World) -> None:
    """Even with its utterances in another order."""
    world.do(route("a", "1", "2", threshold=0.0))
    first = world.at
    outcome = world.do(route("a", "2", "1", threshold=-0.0)).outcome

    assert Outcome("unchanged", world.at, first) == outcome
    assert first == world.table.routes["a"].revision


@pytest.mark.parametrize("fields", [{"threshold": 0.1}, {"metadata": '{"a":1}'}, {"payload": "1"}])
def test_put_of_another_field_rewrites_no_row(world: World, fields: dict[str, Any]) -> None:
    """The revision changes, the rows stay."""
    world.do(route("a", "1"))
    change = world.do(route("a", "1", **fields))

    assert ((), ()) == (change.writes, change.freed)
    assert world.at == world.table.routes["a"].revision


def test_add_keeps_existing_rows(world: World) -> None:
    """Existing texts keep their vectors."""
    world.do(route("a", "1", "2"))
    change = world.do(AddUtterances("a", ("2", "3"), (vector(9), vector(9))))

    assert [(2, "3")] == [(write.slot, write.utterance) for write in change.writes]
    assert 1 == change.outcome.count
    assert "unchanged" == world.do(AddUtterances("a", ("3",), (vector(0),))).outcome.status


def test_remove_frees_rows_but_never_the_last(world: World) -> None:
    """A route needs an utterance."""
    world.do(route("a", "1", "2", "3"))
    change = world.do(RemoveUtterances("a", ("1", "3", "1")))

    assert (0, 2) == change.freed
    assert 2 == change.outcome.count
    assert "invalid_route" == world.code(RemoveUtterances("a", ("2",)))
    assert "unchanged" == world.do(RemoveUtterances("a", ())).outcome.status


def test_error_names_the_first_missing_utterance(world: World) -> None:
    """In order of code points: the order of a set differs between nodes."""
    world.do(route("a", "1"))
    texts = tuple(f"text {n}" for n in range(50))
    outcome = world.do(RemoveUtterances("a", ("1", *reversed(texts)))).outcome

    assert ("utterance_not_found", "the route 'a' has no utterance 'text 0'") == (
        outcome.code,
        outcome.message,
    )


def test_patch_changes_only_the_given_fields(world: World) -> None:
    """None is a value of a threshold; KEEP leaves it as it is."""
    world.do(route("a", "1", threshold=0.5, metadata='{"a":1}', payload="1"))
    world.do(PatchRoute("a", payload="2"))
    assert (0.5, '{"a":1}', "2") == fields_of(world)
    world.do(PatchRoute("a", threshold=None))
    assert (None, '{"a":1}', "2") == fields_of(world)

    assert "unchanged" == world.do(PatchRoute("a")).outcome.status
    assert "unchanged" == world.do(PatchRoute("a", threshold=None)).outcome.status


def fields_of(world: World) -> tuple[Any, ...]:
    """Fields of the route ``a``."""
    stored = world.table.routes["a"]
    return stored.threshold, stored.metadata, stored.payload


@pytest.mark.parametrize(
    "mutation",
    [
        DeleteRoute("a"),
        AddUtterances("a", ("1",), (vector(),)),
        RemoveUtterances("a", ("1",)),
        PatchRoute("a", threshold=0.1),
    ],
)
def test_route_that_does_not_exist_is_not_found(world: World, mutation: Mutation) -> None:
    assert "route_not_found" == world.code(mutation)
    assert "precondition_failed" == world.code(mutation, if_match=Revision(1, 1))


@pytest.mark.parametrize(
    "mutation",
    [
        route("a", "2"),
        DeleteRoute("a"),
        AddUtterances("a", ("2",), (vector(),)),
        RemoveUtterances("a", ("1",)),
        PatchRoute("a", threshold=0.1),
    ],
)
def test_preconditions_are_checked_at_apply(world: World, mutation: Mutation) -> None:
    """Against the current route; the rejection contains its revision."""
    world.do(route("a", "1", "x"))
    stands = world.at
    for conditions in ({"if_match": Revision(1, 99)}, {"if_none_match": True}):
        outcome = world.do(mutation, **conditions).outcome
        assert ("precondition_failed", stands) == (outcome.code, outcome.revision)

    assert "applied" == world.do(mutation, if_match=stands).outcome.status
    assert "precondition_failed" == world.code(mutation, if_match=stands)


def test_if_none_match_creates_once(world: World) -> None:
    assert world.code(route("a", "1"), if_none_match=True) is None
    assert "precondition_failed" == world.code(route("a", "1"), if_none_match=True)
    world.do(DeleteRoute("a"))
    assert world.code(route("a", "1"), if_none_match=True) is None


def test_capacity_can_be_raised_and_lowered(world: World) -> None:
    """Down to the highest slot in use, which falls when its route is deleted."""
    world.do(route("a", "1"))
    world.do(route("b", *"123456"))

    assert "capacity_exceeded" == world.code(PutSettings(Settings(capacity_slots=6)))
    assert world.code(PutSettings(Settings(capacity_slots=7))) is None
    assert "capacity_exceeded" == world.code(route("c", "1"))

    world.do(DeleteRoute("b"))
    change = world.do(PutSettings(Settings(capacity_slots=1)))

    assert Settings(capacity_slots=1) == change.settings == world.table.settings
    assert "capacity_exceeded" == world.code(route("c", "1"))
    world.do(PutSettings(Settings(capacity_slots=2)))
    assert world.code(route("c", "1")) is None


def test_lowest_capacity_is_the_same_for_a_restored_table(world: World) -> None:
    """Earlier slots do not count: a snapshot does not contain them."""
    for name in "abc":
        world.do(route(name, "1", "2"))
    world.do(DeleteRoute("c"))
    world.do(DeleteRoute("a"))
    table = world.table
    restored = RouteTable.restore(
        table.settings, 2, tuple(table.routes.values()), dict(table.row_hashes), ()
    )
    lowered = proposal(PutSettings(Settings(capacity_slots=4)), 99)

    assert table.apply(lowered, Revision(1, 9)) == restored.apply(lowered, Revision(1, 9))
    assert 4 == table.settings.capacity_slots
    assert table_state(table) == table_state(restored)


def test_calibration_ends_with_its_settings(world: World) -> None:
    """A change of aggregation, threshold or cascade drops it, other changes keep it."""
    off = Settings(capacity_slots=12, cascade=False)
    world.do(PutSettings(off))
    assert "unchanged" == world.do(Calibrate("{}")).outcome.status
    on = Settings(capacity_slots=12, cascade=True)
    world.do(PutSettings(on))
    world.do(Calibrate('{"a":1}'))
    assert "unchanged" == world.do(PutSettings(on)).outcome.status
    assert '{"a":1}' == world.table.settings.calibration
    world.do(PutSettings(replace(on, capacity_slots=11)))
    assert '{"a":1}' == world.table.settings.calibration

    for other in (
        replace(on, threshold=0.1),
        replace(on, aggregation="max"),
        replace(on, topk=9),
        replace(on, cascade=False),
        replace(on, cascade="auto"),
    ):
        world.do(PutSettings(on))
        change = world.do(Calibrate('{"a":2}'))
        world.do(PutSettings(other))
        assert "" == world.table.settings.calibration
        assert change.settings == replace(on, calibration='{"a":2}')


def test_equal_settings_are_unchanged(world: World) -> None:
    assert "unchanged" == world.do(PutSettings(Settings(capacity_slots=12))).outcome.status
    assert "invalid_request" == world.code(PutSettings(Settings(topk=0)))


@pytest.mark.parametrize(
    "mutation",
    [
        PutRoute("a", (), ()),
        PutRoute("a", ("1", "1"), (vector(), vector())),
        PutRoute("a", ("1",), (vector()[:4],)),
        route("a", "1", threshold=float("nan")),
        route("a", "1", metadata="{"),
        route("\ud800", "1"),
        route("a", "\ud800"),
        route("a", "1", payload='"\ud800"'),
    ],
)
def test_malformed_route_is_rejected_before_anything_changes(
    world: World, mutation: Mutation
) -> None:
    """Nothing raises in the middle of a change."""
    world.do(route("a", "1", "2"))

    assert "rejected" == world.do(mutation).outcome.status
    chunk = ImportChunk("i", 0, (mutation,))  # type: ignore[arg-type]
    assert "rejected" == world.do(chunk).outcome.status

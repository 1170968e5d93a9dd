"""Plans change routes, settings and tests at one place of the log, if nothing that they saw did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicas import World, fresh, log_of, proposal, replay, route, table_state, vector
from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.levels import NAMES_LEVEL, SETS_LEVEL, is_at_level, level_of
from synaptoroute.core.mutation import (
    AddUtterances,
    Calibrate,
    CommitPlan,
    DeleteRoute,
    ImportBegin,
    ImportChunk,
    Mutation,
    Proposal,
    PutFeedback,
    PutSet,
    PutSettings,
    PutTests,
    Revision,
    SetLimits,
    SetTest,
    Settings,
)
from synaptoroute.core.seen import seen_of
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.unit

WANTED = Settings(capacity_slots=12, topk=7)
RUN = "plan/1"


@pytest.fixture
def world() -> World:
    """Routes ``a``, ``b``, ``c``, two tests, and an import of ``a`` and ``d``."""
    world = World()
    for mutation in (
        route("a", "1", "2"),
        route("b", "3"),
        route("c", "4"),
        PutTests((SetTest("t", "a"), SetTest("u", None))),
        ImportBegin(RUN),
        ImportChunk(RUN, 0, (route("a", "1", "9"), route("d", "5", "6"))),
    ):
        assert "applied" == world.do(mutation).outcome.status
    return world


def plan_of(table: RouteTable, **fields: Any) -> CommitPlan:
    """A plan that puts ``a`` and ``d``, removes ``b``, and saw the table."""
    given = {
        "removed": ("b",),
        "settings": WANTED,
        "tests": (SetTest("t", "d"), SetTest("v", "a")),
        "tests_removed": ("u",),
        **fields,
    }
    plan = CommitPlan(RUN, 1, "", **given)
    texts = [*(test.text for test in plan.tests), *plan.tests_removed]
    settings = None if plan.settings is None else table.settings
    names = {"a", "d", *plan.removed}
    return replace(plan, seen=seen_of(table.routes, names, settings, table.tests, texts))


def test_everything_changes_at_one_place(world: World) -> None:
    change = world.do(plan_of(world.table))
    table = world.table

    assert ("applied", 3) == (change.outcome.status, change.outcome.count)
    assert {"a", "c", "d"} == table.routes.keys()
    assert {"1", "9"} == set(table.routes["a"].utterances)
    assert WANTED == table.settings
    assert {"t": "d", "v": "a"} == {text: test.route for text, test in table.tests.items()}
    assert not table.imports
    assert world.at == table.routes["d"].revision
    restored = RouteTable.restore(
        table.settings, 2, tuple(table.routes.values()), dict(table.row_hashes), (),
        tests=tuple(table.tests.values()),
    )  # fmt: skip
    assert table_state(restored) == table_state(table)


@pytest.mark.parametrize(
    "meanwhile",
    [
        AddUtterances("a", ("7",), (vector(),)),
        DeleteRoute("a"),
        AddUtterances("b", ("7",), (vector(),)),
        DeleteRoute("b"),
        route("d", "7"),
        PutSettings(Settings(capacity_slots=12, topk=9)),
        PutTests((SetTest("t", None),)),
        PutTests((SetTest("v", "c"),)),
        PutTests(removed=("u",)),
    ],
    ids=repr,
)
def test_plan_is_refused_if_what_it_saw_changed(world: World, meanwhile: Mutation) -> None:
    """Nothing of it is applied, and the import stays open."""
    plan = plan_of(world.table)
    assert "applied" == world.do(meanwhile).outcome.status

    assert "precondition_failed" == world.code(plan)
    assert RUN in world.table.imports
    assert "applied" == world.do(plan_of(world.table, removed=())).outcome.status


@pytest.mark.parametrize(
    "meanwhile",
    [
        route("c", "4", "7"),
        route("e", "7"),
        PutTests((SetTest("other", None),)),
        PutFeedback("0" * 16, "text", "a", None, 1),
    ],
    ids=repr,
)
def test_changes_beside_a_plan_do_not_refuse_it(world: World, meanwhile: Mutation) -> None:
    plan = plan_of(world.table)
    world.do(meanwhile)

    assert "applied" == world.do(plan).outcome.status


def test_calibration_of_the_cascade_does_not_refuse_a_plan(world: World) -> None:
    world.do(PutSettings(Settings(capacity_slots=12, cascade=True)))
    plan = plan_of(world.table)
    assert "applied" == world.do(Calibrate('{"at":"1.1"}')).outcome.status

    assert "applied" == world.do(plan).outcome.status


def test_settings_that_a_plan_leaves_alone_do_not_refuse_it(world: World) -> None:
    plan = plan_of(world.table, settings=None)
    world.do(PutSettings(Settings(capacity_slots=12, topk=9)))

    assert "applied" == world.do(plan).outcome.status
    assert 9 == world.table.settings.topk


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"removed": ("a",)}, "invalid_request"),
        ({"removed": ("c", "b")}, "invalid_request"),
        ({"removed": ("ghost",)}, "route_not_found"),
        ({"removed": ("/",)}, "invalid_request"),
        ({"settings": Settings(capacity_slots=1)}, "capacity_exceeded"),
        ({"settings": Settings(capacity_slots=12, topk=0)}, "invalid_request"),
        ({"tests": (SetTest("u", "a"),)}, "invalid_request"),
        ({"tests": (SetTest("t", "a"), SetTest("t", "b"))}, "invalid_request"),
        ({"tests": (SetTest("", "a"),)}, "invalid_request"),
    ],
)
def test_malformed_plan_is_refused_whole(world: World, fields: dict[str, Any], code: str) -> None:
    found = world.code(plan_of(world.table, **fields))

    assert found == code or (code, found) == ("invalid_request", "invalid_route")


def test_plan_needs_its_import(world: World) -> None:
    plan = plan_of(world.table)

    assert "import_rejected" == world.code(replace(plan, chunk_count=2))
    assert "import_rejected" == world.code(replace(plan, import_id="other"))


def test_plan_without_routes_needs_no_import(world: World) -> None:
    table = world.table
    seen = seen_of(table.routes, ("b",), table.settings, {}, ())
    plan = CommitPlan("", 0, seen, ("b",), WANTED)

    assert "invalid_route" == world.code(replace(plan, chunk_count=1))
    assert "applied" == world.do(plan).outcome.status
    assert WANTED == world.table.settings
    assert {"a", "c"} == world.table.routes.keys()
    assert RUN in world.table.imports


def test_revert_restores_the_table(world: World) -> None:
    before = table_state(world.table)
    each = proposal(plan_of(world.table), 99)
    first = world.table.apply(each, Revision(1, 99))
    world.table.revert(first)

    assert before == table_state(world.table)
    assert first == world.table.apply(each, Revision(1, 99))


def test_frame_reads_back_equal(world: World) -> None:
    for plan in (plan_of(world.table), plan_of(world.table, settings=None, tests=())):
        each = Proposal(b"i" * 16, plan, route_set="support", note="why")

        assert each == decode_proposal(encode_proposal(each))


def test_plan_needs_the_level_of_route_sets(world: World) -> None:
    plan = plan_of(world.table)

    assert SETS_LEVEL == level_of(plan)
    assert not is_at_level(plan, NAMES_LEVEL)


def test_limits_of_a_set_hold_for_a_plan() -> None:
    """And the plan is one of the set that the entry names."""
    replica = fresh()
    replay(replica, log_of([]))

    def do(mutation: Mutation, route_set: str = "support") -> str:
        each = proposal(mutation, replica.position.seq, route_set=route_set)
        (commit,) = replay(replica, log_of([each], after=replica.position))
        return commit.change.outcome.code or commit.change.outcome.status

    do(PutSet("support", SetLimits(routes_max=1)), "")
    do(ImportBegin(RUN))
    do(ImportChunk(RUN, 0, (route("a", "1"), route("b", "2"))))
    seen = seen_of({}, ("a", "b"), None, {}, ())

    assert "limit_exceeded" == do(CommitPlan(RUN, 1, seen))
    do(PutSet("support", SetLimits(routes_max=2)), "")
    assert "applied" == do(CommitPlan(RUN, 1, seen))
    table = replica.sets.table_of("support")
    assert table is not None
    assert {"a", "b"} == table.routes.keys()
    assert not replica.sets.default.routes

"""The review queue: bounded, counted, resolved together with the routes, and undone exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicas import EMPTY, fresh, log_of, replay, table_state
from synaptoroute.core.change import Outcome
from synaptoroute.core.content import ContentRoot, root_of
from synaptoroute.core.feedback import (
    FeedbackSettings,
    item_id_of,
    read_feedback_settings,
    write_feedback_settings,
)
from synaptoroute.core.mutation import (
    Mutation,
    Proposal,
    PutFeedback,
    PutRoute,
    PutSettings,
    ReviseRoutes,
    Revision,
    RouteRevision,
    Settings,
)
from synaptoroute.core.replica import Replica
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.unit

ON = write_feedback_settings(FeedbackSettings(items_max=2))
VECTOR = bytes(7) + b"?"
SETTINGS = Settings(capacity_slots=12, feedback=ON)


def said(text: str, route: str | None = None, was: str | None = None) -> PutFeedback:
    return PutFeedback(item_id_of(text, route, was), text, route, was, 1_000)


def table_of(*mutations: Mutation) -> tuple[RouteTable, list[Outcome]]:
    """A table after the mutations, and their outcomes."""
    table, outcomes = RouteTable(dim=2), []
    for seq, mutation in enumerate(mutations, 1):
        change = table.apply(Proposal(bytes(16), mutation), Revision(1, seq))
        outcomes.append(change.outcome)
    return table, outcomes


def test_queue_is_off_by_default() -> None:
    assert "" == Settings().feedback
    assert "feedback_off" == table_of(said("x"))[1][0].code


def test_same_feedback_is_one_item_that_counts() -> None:
    table, _ = table_of(PutSettings(SETTINGS), said("x"), replace(said("x"), at_ms=500), said("y"))

    assert [2, 1] == [table.feedback[said(text).item_id].times for text in ("x", "y")]
    first = table.feedback[said("x").item_id]
    assert (1_000, 3) == (first.at_ms, first.seq)


def test_full_queue_refuses_new_items_and_counts_known_ones() -> None:
    puts = [said(text) for text in ("x", "y", "z", "x")]
    table, outcomes = table_of(PutSettings(SETTINGS), *puts)

    assert [None, None, "feedback_full", None] == [each.code for each in outcomes[1:]]
    assert 2 == len(table.feedback)


def test_feedback_names_a_route_that_exists() -> None:
    assert "route_not_found" == table_of(PutSettings(SETTINGS), said("x", "a"))[1][1].code


def test_revision_changes_several_routes_and_resolves_items_at_once() -> None:
    item = said("x")
    table, outcomes = table_of(
        PutSettings(SETTINGS),
        PutRoute("a", ("one",), (VECTOR,)),
        item,
        ReviseRoutes(
            (
                RouteRevision("a", ("x",), (VECTOR,), revision=Revision(1, 2), threshold=0.25),
                RouteRevision("b", ("two",), (VECTOR,), is_new=True),
            ),
            (item.item_id,),
        ),
    )

    assert ("applied", 2) == (outcomes[3].status, outcomes[3].count)
    assert {"one", "x"} == set(table.routes["a"].utterances)
    assert (0.25, Revision(1, 4)) == (table.routes["a"].threshold, table.routes["b"].revision)
    assert {} == table.feedback


@pytest.mark.parametrize(
    ("revision", "code"),
    [
        (ReviseRoutes((), ("0" * 16,)), "feedback_not_found"),
        (ReviseRoutes((RouteRevision("b", ("x",), (VECTOR,)),)), "route_not_found"),
        (ReviseRoutes((RouteRevision("a", ("x",), (VECTOR,), True),)), "precondition_failed"),
        (ReviseRoutes((RouteRevision("b", is_new=True),)), "invalid_route"),
        (
            ReviseRoutes((RouteRevision("a", ("x",), (VECTOR,), revision=Revision(1, 9)),)),
            "precondition_failed",
        ),
        (ReviseRoutes((RouteRevision("a", ("x",), ()),)), "invalid_vector"),
        (ReviseRoutes((RouteRevision("b"), RouteRevision("a"))), "invalid_request"),
        (ReviseRoutes((), ("x",)), "invalid_request"),
    ],
)
def test_revision_that_cannot_be_applied_whole_changes_nothing(
    revision: ReviseRoutes, code: str
) -> None:
    before = (PutSettings(SETTINGS), PutRoute("a", ("one",), (VECTOR,)), said("y"))
    both = replace(revision, routes=revision.routes)
    table, outcomes = table_of(*before, both)

    assert code == outcomes[-1].code
    assert table_state(table_of(*before)[0]) == table_state(table)


def test_queue_that_is_switched_off_is_emptied() -> None:
    off = PutSettings(replace(SETTINGS, feedback=""))
    table, _ = table_of(PutSettings(SETTINGS), said("x"), off)

    assert {} == table.feedback
    assert table_of(off)[0].digest.hex() == table.digest.hex()


def test_changes_of_the_queue_are_undone_exactly() -> None:
    table, _ = table_of(PutSettings(SETTINGS), said("x"), said("y"))
    before = table_state(table)
    for mutation in (
        said("x"),
        ReviseRoutes((), tuple(sorted(each.item_id for each in (said("x"), said("y"))))),
        PutSettings(replace(SETTINGS, feedback="")),
    ):
        change = table.apply(Proposal(bytes(16), mutation), Revision(1, 9))
        assert "applied" == change.outcome.status
        assert before != table_state(table)
        table.revert(change)
        assert before == table_state(table)


def test_content_root_covers_the_queue() -> None:
    replica, root = fresh(), ContentRoot(EMPTY, "f", 2)
    mutations = (
        PutSettings(SETTINGS),
        said("x"),
        said("y"),
        ReviseRoutes((), (said("x").item_id,)),
    )
    roots = set()
    for commit in replay(
        replica, log_of([Proposal(bytes([n] * 16), each) for n, each in enumerate(mutations, 1)])
    ):
        root.apply(commit)
        roots.add(root.hex())
    state = replica.snapshot()

    assert root.hex() == root_of(state, "f", 2) != root_of(replace(state, feedback=()), "f", 2)
    item = state.feedback[0]
    for changed in (item._replace(text="z"), item._replace(was="a"), item._replace(route="none")):
        assert root_of(replace(state, feedback=(changed,)), "f", 2) not in roots
    assert replica.digest == Replica(state, dim=2).digest


@pytest.mark.parametrize(
    "text",
    ["{}", "null", "[]", "x", ON.replace("2", "0"), ON.replace("2", "true"), ON + " ",
     ON.replace("30.0", "30"), ON.replace("30.0", "-1.0"), ON.replace("30.0", "NaN"),
     ON.replace("[]", '[""]'), ON.replace("[]", str(["a" * 257]).replace("'", '"')),
     ON.replace('{"', '{"a":1,"')],
)  # fmt: skip
def test_malformed_settings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_feedback_settings(text)
    outcome = table_of(PutSettings(replace(SETTINGS, feedback=text)))[1][0]
    assert "invalid_request" == outcome.code


def test_settings_are_read_as_they_are_written() -> None:
    settings = FeedbackSettings(5, 0.25, True, ("email", r"\d+"))

    assert settings == read_feedback_settings(write_feedback_settings(settings))
    assert read_feedback_settings(write_feedback_settings(None)) is None

"""Plans of route folders: what is created, changed, deleted and kept, and how it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from synaptoroute.cli.set_plan import PresentSet, SetPlan, plan_lines, plan_set, summary_line
from synaptoroute.core.mutation import SetLimits
from synaptoroute.importers import FileRefused
from synaptoroute.importers.folder import RouteFolder
from synaptoroute.models import Route

pytestmark = pytest.mark.unit


def route(name: str, *utterances: str, **fields: Any) -> Route:
    return Route(name=name, utterances=list(utterances or ("hello",)), **fields)


def present(*routes: Route, **fields: Any) -> PresentSet:
    return PresentSet(
        routes={each.name: each for each in routes},
        revisions={each.name: f"1.{number}" for number, each in enumerate(routes)},
        **fields,
    )


def planned(before: PresentSet, *routes: Route, prune: bool = False, **fields: Any) -> SetPlan:
    return plan_set("support", before, RouteFolder(routes=list(routes), **fields), prune=prune)


def test_equal_set_and_folder_have_an_empty_plan() -> None:
    """The order of texts, and a number that is written as an integer, do not count."""
    before = present(
        route("a", "x", "y", threshold=1.0, negatives=["p", "q"]),
        settings={"topk": 3, "confidence_min": 0.5},
        tests={"t": "a"},
        limits=SetLimits(routes_max=3),
    )
    same = route("a", "y", "x", threshold=1, negatives=["q", "p"])
    plan = planned(
        before, same, settings={"topk": 3}, tests={"t": "a"}, limits=SetLimits(routes_max=3)
    )

    assert plan.is_empty
    assert 1 == plan.unchanged
    assert [] == list(plan_lines(plan))


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        ({"payload": 1}, {"payload": 1.0}, ()),
        ({"payload": {"n": 1}}, {"payload": {"n": 1.0}}, ("payload",)),
        ({"payload": 1}, {"payload": True}, ("payload",)),
        ({"payload": None}, {"payload": False}, ("payload",)),
        ({"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2, "a": 1}}, ()),
        ({"threshold": 0.4}, {}, ("threshold",)),
        ({}, {"description": "what it is"}, ("description",)),
        ({"confidence_min": 0.0}, {}, ("confidence_min",)),
    ],
)
def test_fields_are_compared_as_json_values(
    before: dict[str, Any], after: dict[str, Any], names: tuple[str, ...]
) -> None:
    plan = planned(present(route("a", **before)), route("a", **after))

    assert names == tuple(value.name for change in plan.routes for value in change.values)


def test_changes_name_each_text() -> None:
    before = present(route("a", "x", "y", negatives=["p"]))
    (change,) = planned(before, route("a", "y", "z", negatives=["q"])).routes

    assert ("change", "1.0") == (change.action, change.revision)
    assert (("z",), ("x",)) == (change.utterances_added, change.utterances_removed)
    assert (("q",), ("p",)) == (change.negatives_added, change.negatives_removed)


def test_nothing_is_deleted_without_prune() -> None:
    before = present(route("a"), route("b", "other"), tests={"t": "a", "u": "b"})
    plan = planned(before, route("a"), tests={"t": "a"})
    pruned = planned(before, route("a"), tests={"t": "a"}, prune=True)

    assert plan.is_empty
    assert (("b",), 1) == (plan.kept_routes, plan.kept_tests)
    assert [("b", "delete", "1.1")] == [
        (each.name, each.action, each.revision) for each in pruned.routes
    ]
    assert {"u": "b"} == pruned.tests.removed


def test_folder_without_tests_keeps_those_of_the_set() -> None:
    plan = planned(present(route("a"), tests={"t": "a"}), route("a"), prune=True)

    assert plan.is_empty


def test_settings_that_are_not_named_stay() -> None:
    before = present(settings={"topk": 3, "confidence_min": 0.5})
    plan = planned(before, settings={"confidence_min": 0.6})

    assert [("confidence_min", 0.5, 0.6)] == [
        (each.name, each.before, each.after) for each in plan.settings
    ]


def test_every_named_setting_is_set_where_the_present_ones_are_unknown() -> None:
    """A null setting as well: a log that is founded brings settings of its own."""
    plan = planned(PresentSet(exists=False), settings={"confidence_min": None})

    assert ["confidence_min"] == [each.name for each in plan.settings]


def test_set_that_is_not_there_is_created() -> None:
    plan = planned(PresentSet(exists=False), route("a"))

    assert plan.creates_set
    assert not plan.is_empty
    assert "+ set support" == next(plan_lines(plan))
    assert not planned(PresentSet(exists=False)).is_empty


def test_test_of_an_unknown_route_is_refused() -> None:
    """Unless the set keeps the route."""
    before = present(route("b"))

    planned(before, route("a"), tests={"t": "b", "u": None})
    for arguments in ({"tests": {"t": "c"}}, {"tests": {"t": "b"}, "prune": True}):
        with pytest.raises(FileRefused, match="not in the folder") as caught:
            planned(before, route("a"), **arguments)
        assert "unknown_route" == caught.value.code


def test_document_has_every_change() -> None:
    before = present(route("a"), route("b"), settings={"topk": 3}, tests={"t": "a", "u": "a"})
    plan = planned(
        before,
        route("a", "new"),
        route("c", payload=7),
        settings={"topk": 4},
        tests={"t": "c", "v": None},
        limits=SetLimits(routes_max=9),
        prune=True,
    )
    document = plan.document()

    assert [("a", "change"), ("b", "delete"), ("c", "create")] == [
        (each["route"], each["action"]) for each in document["routes"]
    ]
    assert [{"name": "topk", "before": 3, "after": 4}] == document["settings"]
    assert [{"name": "routes_max", "before": 0, "after": 9}] == document["limits"]
    assert [("change", "t"), ("create", "v"), ("delete", "u")] == [
        (each["action"], each["text"]) for each in document["tests"]
    ]
    assert {
        "create": 1, "change": 1, "delete": 1, "unchanged": 0, "settings": 1,
        "tests_create": 1, "tests_change": 1, "tests_delete": 1,
    } == document["summary"]  # fmt: skip


def test_lines_are_limited_and_begin_with_a_mark() -> None:
    plan = planned(
        present(), route("a", *(f"text {number}" for number in range(90)), negatives=["not this"]),
        tests={f"query {number}": "a" for number in range(90)},
    )  # fmt: skip
    lines = list(plan_lines(plan, texts_max=10))

    assert {"+", " "} == {line[0] for line in lines}
    assert ["      and 81 more texts", "  and 80 more tests"] == [
        line for line in lines if " more " in line
    ]


def test_summary_says_what_stays() -> None:
    before = present(route("a"), route("b"))

    assert "1 other routes stay (--prune deletes them)" in summary_line(
        planned(before, route("a", "new"))
    )
    assert "nothing to do" in summary_line(planned(before, route("a"), route("b")))

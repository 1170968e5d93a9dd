"""Rows of a large change that are written and summed before it is visible."""

from __future__ import annotations

import numpy as np
import pytest

from route_sets import DIM, Node, arrays, put, unit_rows
from synaptoroute.core.change import Change
from synaptoroute.core.mutation import (
    ImportBegin,
    ImportChunk,
    ImportCommit,
    PutRoute,
    Revision,
    Settings,
)
from synaptoroute.tensor.rows import Slots
from synaptoroute.tensor.text_index import text_keys

pytestmark = pytest.mark.unit

SLICE = 7


def fill(node: Node, change: Change, at: Revision) -> None:
    """Fill a change slice by slice, as the scorer does."""
    slots, vectors = arrays(change)
    owners = np.array([write.owner for write in change.writes], np.int64)
    for start in range(0, len(slots), SLICE):
        part = slice(start, start + SLICE)
        keys = text_keys([write.utterance for write in change.writes[part]])
        node.tensor.fill(slots[part], vectors[part], at, owners[part], keys)


def imported(node: Node, *parts: PutRoute) -> Change:
    """Plan an import; its begin and chunk change nothing that a query sees."""
    for mutation in (ImportBegin("i", False), ImportChunk("i", 0, parts)):
        node.tensor.apply(node.plan(mutation), node.at)
    return node.plan(ImportCommit("i", 1))


def test_apply_of_a_filled_import_sums_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many rows it has, that step reads none of them."""
    node = Node()
    node.put("a", range(5))
    change = imported(node, put("b", range(10, 40)), put("c", range(50, 59)))
    before = node.tensor.checksum()
    fill(node, change, node.at)
    between = node.tensor.checksum()
    summed: list[int] = []
    add_rows = node.tensor._centroids.add_rows

    def watched(ids: Slots, slots: Slots, sign: float = 1.0) -> None:
        summed.append(len(slots))
        add_rows(ids, slots, sign)

    monkeypatch.setattr(node.tensor._centroids, "add_rows", watched)
    node.tensor.apply(change, node.at, filled=True)

    assert before == between
    assert [0] == summed
    node.assert_as_rebuilt()


def test_existing_routes_are_summed_when_they_change() -> None:
    """The import writes old and new routes, and rows of old ones anew."""
    node = Node()
    node.put("a", range(5))
    node.put("b", range(10, 13))
    change = imported(node, put("a", range(3, 9)), put("c", range(20, 40)))
    fill(node, change, node.at)
    node.tensor.apply(change, node.at, filled=True)

    node.assert_as_rebuilt()


def test_full_tensor_sums_rows_that_it_could_not_fill() -> None:
    """A new route that takes slots of old ones has only some of its rows staged."""
    node = Node(Settings(capacity_slots=12))
    node.put("a", range(9))
    for mutation in (ImportBegin("i", True), ImportChunk("i", 0, (put("b", range(20, 30)),))):
        node.tensor.apply(node.plan(mutation), node.at)
    change = node.plan(ImportCommit("i", 1))
    fill(node, change, node.at)
    node.tensor.apply(change, node.at, filled=True)

    node.assert_as_rebuilt()


def test_small_staged_route_is_summed_once() -> None:
    """Staged sums are not deferred as well."""
    node = Node()
    change = node.plan(put("a", range(4)))
    fill(node, change, node.at)
    node.tensor.apply(change, node.at, filled=True)
    while node.tensor.is_behind:
        node.tensor.prepare()

    node.assert_as_rebuilt()


def test_staged_sums_are_dropped_if_another_change_comes_first() -> None:
    """Whether it comes before the staged change or instead of it."""
    node = Node()
    first = node.plan(put("a", range(4)))
    first_at = node.at
    second = node.plan(put("b", range(10, 24)))
    fill(node, second, node.at)
    node.tensor.apply(first, first_at, filled=True)
    node.tensor.apply(second, node.at, filled=True)
    node.assert_as_rebuilt()

    third = node.plan(put("c", range(30, 44)))
    fill(node, third, Revision(1, 99))
    fill(node, third, node.at)
    node.tensor.apply(third, node.at, filled=True)
    node.assert_as_rebuilt()


def test_rows_are_staged_in_an_empty_tensor() -> None:
    """No route is live yet, and none has a place."""
    node = Node()
    change = imported(node, put("a", range(30)))
    fill(node, change, node.at)
    node.tensor.apply(change, node.at, filled=True)

    assert unit_rows(1, DIM, 3)[0].tobytes() in node.rows.values()
    node.assert_as_rebuilt()

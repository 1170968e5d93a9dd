"""Tensors of small route sets: little memory, growth by copying, and copies of a whole tensor."""

from __future__ import annotations

import random

import numpy as np
import pytest

from route_sets import DIM, START, Node, arrays, put, row, unit_rows
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    Mutation,
    RemoveUtterances,
    Settings,
)
from synaptoroute.scoring import QuerySpec, Ranking, Scratch, rank
from synaptoroute.tensor import Tensor
from synaptoroute.tensor.rows import DORMANT_ROWS

pytestmark = pytest.mark.unit

QUERIES = unit_rows(5, DIM, 77)


class SmallNode(Node):
    """A node whose route set is one of many."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.tensor = Tensor(DIM, self.table.settings, is_small=True)


def rankings(tensor: Tensor) -> list[Ranking]:
    """Rankings of a batch and of lone queries, in float32 and in bytes."""
    specs = [QuerySpec(3)] * len(QUERIES)
    found = rank(tensor, QUERIES, specs)
    for query in QUERIES:
        found += rank(tensor, query[np.newaxis], specs[:1])
        found += rank(tensor, query[np.newaxis], specs[:1], Scratch(None, 0))
    return found


def random_mutation(node: Node, numbers: random.Random) -> Mutation:
    """A change of a few routes of up to forty utterances."""
    name = f"r{numbers.randrange(30)}"
    seed = numbers.randrange(10_000)
    known = node.table.routes.get(name)
    if known is None or numbers.random() < 0.3:
        return put(name, range(seed, seed + numbers.randrange(1, 40)))
    if numbers.random() < 0.3:
        return DeleteRoute(name)
    if numbers.random() < 0.5 and len(known.utterances) > 1:
        return RemoveUtterances(name, known.utterances[:1])
    return AddUtterances(name, (f"more {seed}",), (row(seed).tobytes(),))


@pytest.mark.parametrize("seed", range(8))
def test_small_tensor_has_the_bytes_and_rankings_of_any_other(seed: int) -> None:
    """Whatever it grew from, with a view before every change or not."""
    numbers = random.Random(seed)
    node, large = SmallNode(), Tensor(DIM)
    for step in range(60):
        change = node.plan(random_mutation(node, numbers))
        for tensor in (node.tensor, large):
            tensor.apply(change, node.at)
        if step % 7 == 0:
            assert rankings(large) == rankings(node.tensor)
    assert large.checksum() == node.tensor.checksum()
    node.assert_as_rebuilt()


def test_rows_staged_while_a_small_tensor_grows_do_not_change_its_view() -> None:
    node = SmallNode()
    node.put("a", range(3))
    before = rankings(node.tensor)
    change = node.plan(put("b", range(100, 100 + DORMANT_ROWS + 5)))
    node.tensor.fill(*arrays(change), node.at)

    assert before == rankings(node.tensor)
    node.tensor.apply(change, node.at, filled=True)
    node.assert_as_rebuilt()


def test_bytes_are_made_once_a_small_tensor_is_large() -> None:
    node, large = SmallNode(), Tensor(DIM)
    for start in range(0, 2 * DORMANT_ROWS, DORMANT_ROWS // 2):
        change = node.plan(put(f"r{start}", range(start, start + DORMANT_ROWS // 2)))
        node.tensor.apply(change, node.at)
        large.apply(change, node.at)
    while node.tensor.is_behind or large.is_behind:
        node.tensor.prepare()
        large.prepare()
    stop = node.tensor.view().slot_stop
    small_spans, spans = (each.view().quantized.spans(stop) for each in (node.tensor, large))
    assert small_spans is not None
    assert spans is not None
    joined = [
        np.concatenate([span.rows() for span in each])[:stop] for each in (small_spans, spans)
    ]
    np.testing.assert_array_equal(*joined)


def test_empty_small_tensor_reserves_no_rows() -> None:
    tensor = Tensor(384, is_small=True)
    tensor.view()

    assert 0 == tensor._rows.capacity_rows == len(tensor._owners)


@pytest.mark.parametrize("node_class", [Node, SmallNode])
@pytest.mark.parametrize("rows", [0, 3, 700, DORMANT_ROWS + 10])
def test_copy_has_the_same_bytes_and_goes_its_own_way(node_class: type[Node], rows: int) -> None:
    """Neither tensor sees what happens to the other."""
    node = node_class()
    for start in range(0, rows, 70):
        node.put(f"r{start}", range(start, min(rows, start + 70)))
    while node.tensor.is_behind:
        node.tensor.prepare()
    before, rankings_before = node.tensor.checksum(), rankings(node.tensor)
    copied = node.tensor.copy()

    assert not copied.is_behind
    assert before == copied.checksum()
    assert rankings_before == rankings(copied)
    change = node.plan(put("r0", range(9_000, 9_005)))
    node.tensor.apply(change, node.at)
    assert before == copied.checksum()
    copied.apply(change, node.at)
    assert node.tensor.checksum() == copied.checksum() != before
    assert rankings(node.tensor) == rankings(copied)
    assert START < copied.revision

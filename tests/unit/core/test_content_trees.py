"""Hash trees: equal items give equal roots, and copies are independent."""

from __future__ import annotations

import random

import pytest

from synaptoroute.core.content_trees import ITEM_BYTES, SparseTree, Tree

pytestmark = pytest.mark.unit


def items(count: int, share: float) -> dict[int, bytes]:
    draw = random.Random(count)
    return {n: draw.randbytes(ITEM_BYTES) for n in range(count) if draw.random() < share}


def filled(held: dict[int, bytes]) -> SparseTree:
    tree = SparseTree()
    for number, item in held.items():
        tree.put(number, item)
    return tree


@pytest.mark.parametrize(("count", "share"), [(0, 1.0), (1, 1.0), (64, 0.5), (3_000, 0.9)])
def test_sparse_copy_of_a_tree_has_its_items(count: int, share: float) -> None:
    """A copy of ``default`` has the root that a set with the same rows has."""
    held, tree = items(count, share), Tree()
    for number, item in held.items():
        tree.put(number, item)
    for number in range(0, count, 5):
        tree.drop(number)
        held.pop(number, None)

    assert tree.sparse().root() == filled(held).root()


def test_root_does_not_depend_on_what_was_there_before() -> None:
    held = items(500, 1.0)
    tree = filled({**held, **{n: bytes([1] * ITEM_BYTES) for n in (3, 700, 9_000)}})
    tree.root()
    tree.put(3, held[3])
    tree.drop(700)
    tree.drop(9_000)
    tree.drop(10_000)

    assert tree.root() == filled(dict(reversed(held.items()))).root()


def test_copies_share_nothing_that_changes() -> None:
    tree = filled(items(500, 1.0))
    before = tree.root()
    copy = tree.copy()
    copy.put(7, bytes([1] * ITEM_BYTES))
    copy.drop(450)

    assert tree.root() == before != copy.root()


def test_empty_tree_is_as_one_whose_items_were_dropped() -> None:
    tree = filled(items(3, 1.0))
    tree.root()
    for number in range(3):
        tree.drop(number)

    assert tree.root() == SparseTree().root()
    assert not tree

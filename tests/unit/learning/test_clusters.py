"""Clusters are deterministic, bounded in similarity, and ordered by size."""

from __future__ import annotations

import numpy as np
import pytest

from synaptoroute.learning.clusters import TEXTS_MAX, cluster

pytestmark = pytest.mark.unit


def near(centre: int, count: int, seed: int, dim: int = 32) -> np.ndarray:
    """Unit vectors near one axis."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(0.0, 0.05, (count, dim))
    rows[:, centre] += 1.0
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_groups_are_found_and_the_largest_comes_first() -> None:
    vectors = np.concatenate([near(0, 4, 1), near(5, 9, 2), near(9, 1, 3)])
    found = cluster(vectors, [1] * len(vectors))

    assert [9, 4, 1] == [len(each.members) for each in found]
    assert set(range(4, 13)) == set(found[0].members)
    assert all(0.8 < each.similarity <= 1.0 for each in found)


def test_weights_decide_the_order() -> None:
    vectors = np.concatenate([near(0, 4, 1), near(5, 2, 2)])

    assert [2, 4] == [len(each.members) for each in cluster(vectors, [1, 1, 1, 1, 10, 1])]


def test_order_of_equal_inputs_is_stable() -> None:
    vectors = np.concatenate([near(place, 5, place) for place in range(8)])
    again = [cluster(vectors, [1] * 40) for _ in range(3)]

    assert again[0] == again[1] == again[2]
    assert sorted(range(40)) == sorted(index for each in again[0] for index in each.members)


def test_texts_that_differ_stay_alone() -> None:
    vectors = np.eye(6, dtype=np.float32)

    assert [(0,), (1,), (2,), (3,), (4,), (5,)] == [
        each.members for each in cluster(vectors, [1] * 6)
    ]


def test_equal_texts_are_one_cluster() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32)[:1], 7, axis=0)

    assert [tuple(range(7))] == [each.members for each in cluster(vectors, [1] * 7)]


def test_no_texts_give_no_clusters() -> None:
    assert [] == cluster(np.zeros((0, 4), np.float32), [])


def test_most_texts_are_clustered_in_seconds() -> None:
    """Random directions: nothing is similar, which is the slowest to prove; it must end."""
    draw = np.random.default_rng(3)
    rows = draw.normal(size=(TEXTS_MAX, 32))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = cluster(vectors, [1] * TEXTS_MAX, similarity_min=0.2)

    assert TEXTS_MAX == sum(len(each.members) for each in found)

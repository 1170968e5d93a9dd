"""A lone query of a small route set: the ranking that it has in a batch, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from route_sets import loaded, unit_rows
from synaptoroute.core.mutation import Aggregation, Settings
from synaptoroute.scoring import DecisionRule, QuerySpec, Scratch, rank
from synaptoroute.scoring.lone import rank_small
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit

DIM = 48
ROUTES = 30


def small_set(seed: int, aggregation: Aggregation = "blend", routes: int = ROUTES) -> Tensor:
    """Routes with three to seven utterances, that are not beside each other."""
    owners = [number % routes for number in range(3 * routes)]
    owners += [number for number in range(routes) for _ in range(number % 5)]
    settings = Settings(aggregation=aggregation, threshold=0.2)
    return loaded(unit_rows(len(owners), DIM, seed), owners, settings)


def asked(seed: int, count: int = 40) -> np.ndarray:
    return unit_rows(count, DIM, seed)


@pytest.mark.parametrize("aggregation", ["blend", "max"])
def test_plan_gives_the_ranking_of_a_batch(aggregation: Aggregation) -> None:
    tensor, scratch = small_set(1, aggregation), Scratch()
    view = tensor.view()
    rule = DecisionRule.of(view, view.calibration)
    queries, specs = asked(2), [QuerySpec(1 + number % 3) for number in range(40)]

    together = rank(tensor, queries, specs, scratch)
    alone = [
        rank_small(view, query, spec, scratch, rule)
        for query, spec in zip(queries, specs, strict=True)
    ]

    assert together == alone


@pytest.mark.parametrize("is_in_order", [True, False])
def test_utterances_that_are_equally_near_give_the_ranking_of_a_batch(*, is_in_order: bool) -> None:
    """Routes have one utterance, two that are equal, and two within the error of the scan."""
    rows = unit_rows(3 * ROUTES, DIM, 11)
    rows[1::3] = rows[::3]
    rows[2::3] = np.nextafter(rows[::3], np.float32(1.0))
    owners = [place // 3 for place in range(3 * ROUTES)]
    owners[-1] = ROUTES
    order = (
        np.arange(len(rows)) if is_in_order else np.random.default_rng(12).permutation(len(rows))
    )
    settings = Settings(aggregation="max", threshold=0.2)
    tensor = loaded(rows[order], [owners[place] for place in order], settings)
    view = tensor.view()
    rule = DecisionRule.of(view, view.calibration)
    queries = np.concatenate([rows[::3][:10], asked(13, 10)])

    together = rank(tensor, queries, [QuerySpec()] * len(queries))
    alone = [rank_small(view, query, QuerySpec(), Scratch(), rule) for query in queries]

    assert together == alone


def test_one_scratch_serves_route_sets_in_turn() -> None:
    """Arrays kept for one route set answer neither for another set nor for an earlier state."""
    sets = [small_set(seed, routes=routes) for seed, routes in ((3, 30), (4, 30), (5, 17))]
    kept, queries = Scratch(), asked(6)
    wanted = [rank(each, queries, [QuerySpec()] * len(queries)) for each in sets]
    for number, query in enumerate(queries):
        for each, rankings in zip(sets, wanted, strict=True):
            assert [rankings[number]] == rank(each, query[np.newaxis], [QuerySpec()], kept)


@pytest.mark.parametrize("aggregation", ["mean", "centroid", "topk"])
def test_other_aggregations_have_no_plan(aggregation: Aggregation) -> None:
    view = small_set(7, aggregation).view()
    rule = DecisionRule.of(view, view.calibration)

    assert rank_small(view, asked(8)[0], QuerySpec(), Scratch(), rule) is None


def test_set_without_routes_has_no_plan() -> None:
    tensor = Tensor(DIM)

    assert [1, 0] == [len(rank(tensor, asked(9, 1), [QuerySpec()])), tensor.view().live_count]

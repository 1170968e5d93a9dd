"""Tests of negatives in the engine."""

from __future__ import annotations

import numpy as np
import pytest

from naive_scoring import naive_rank
from route_sets import record, rows_by_slot, unit_rows
from synaptoroute.core.mutation import AGGREGATIONS, Aggregation, Revision, Settings
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.scoring.negatives import penalty
from synaptoroute.tensor import Tensor

DIM = 16
ROUTES = 30


def tensor_of(aggregation: Aggregation, negatives_of: dict[int, int]) -> Tensor:
    """Thirty routes of four rows; some have one negative, the row at the given slot."""
    rows = unit_rows(ROUTES * 4 + len(negatives_of), DIM, 2)
    settings = Settings(aggregation=aggregation, threshold=-5.0)
    records = [record(route, range(4 * route, 4 * route + 4)) for route in range(ROUTES)]
    for place, (route, near) in enumerate(sorted(negatives_of.items())):
        slot = ROUTES * 4 + place
        rows[slot] = rows[near]
        records[route] = records[route]._replace(negatives=("no",), negative_slots=(slot,))
    tensor = Tensor(DIM, settings)
    tensor.load(np.arange(len(rows)), rows, records, settings, Revision(1, 1))
    return tensor


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_rankings_equal_the_reference(aggregation: Aggregation) -> None:
    tensor = tensor_of(aggregation, {route: 4 * (route - 1) for route in range(1, ROUTES, 2)})
    routes, vectors = list(tensor.routes.values()), rows_by_slot(tensor)
    asked = np.concatenate([tensor.vectors_of(np.arange(0, 120, 7)), unit_rows(20, DIM, 9)])
    specs = [QuerySpec(1 + place % 5) for place in range(len(asked))]
    for scratch in (Scratch(), Scratch(bytes_rows_min=0)):
        found = rank(tensor, asked, specs, scratch)
        for query, spec, ranking in zip(asked, specs, found, strict=True):
            expected = naive_rank(vectors, routes, tensor.settings, query, spec)
            assert ranking == expected
            assert rank(tensor, query[np.newaxis], [spec], scratch) == [expected]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_text_of_a_negative_does_not_get_the_route(aggregation: Aggregation) -> None:
    plain, lowered = tensor_of(aggregation, {}), tensor_of(aggregation, {7: 0})
    foreign = plain.vectors_of(np.array([0]))
    before, after = (
        {score.route_id: score for score in rank(each, foreign, [QuerySpec(ROUTES)])[0].top}
        for each in (plain, lowered)
    )
    assert after[7].score < before[7].score - 0.8
    assert {route: score for route, score in after.items() if route != 7} == {
        route: score for route, score in before.items() if route != 7
    }


def test_query_nearer_to_an_example_is_scored_as_before() -> None:
    plain, lowered = tensor_of("blend", {}), tensor_of("blend", {7: 0})
    own = plain.vectors_of(np.array([28, 29, 30, 31]))
    specs = [QuerySpec(ROUTES)] * 4
    assert rank(lowered, own, specs) == rank(plain, own, specs)


def test_penalty_grows_with_the_lead_and_is_continuous() -> None:
    nearest, largest = np.meshgrid(np.linspace(-1, 1, 401), np.linspace(-1, 1, 401))
    found = penalty(nearest, largest)
    assert not found[nearest <= largest].any()
    assert (np.diff(found, axis=1) >= 0.0).all()
    assert (np.diff(found, axis=0) <= 1e-12).all()
    assert np.abs(np.diff(found, axis=0)).max() <= 17.5 * 0.005
    assert np.abs(np.diff(found, axis=1)).max() <= 25.5 * 0.005
    assert penalty(np.array(1.0), np.array(0.95)) > 0.8

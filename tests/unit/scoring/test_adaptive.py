"""Tests of the adaptive score and of confidence in the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from naive_scoring import naive_rank
from route_sets import loaded, record, rows_by_slot, unit_rows
from synaptoroute.core.change import Change, FittedDecision, Outcome, RouteRecord, SlotWrite
from synaptoroute.core.mutation import Aggregation, Revision, Settings
from synaptoroute.decision import BEST_ROUTES, DecisionCalibration, fit_decision
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

DIM = 24
ROUTES = 40
EACH = 6
SETTINGS = Settings(aggregation="adaptive", threshold=None, confidence_min=0.5)


def route_set(seed: int = 0) -> tuple[NDArray[np.float32], list[int]]:
    random = np.random.default_rng(seed)
    middles = np.repeat(np.random.default_rng(7).standard_normal((ROUTES, DIM)), EACH, axis=0)
    rows = middles + 0.7 * np.geomspace(3.0, 0.2, DIM) * random.standard_normal(middles.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(ROUTES), EACH).tolist()


def fitted(kind: Aggregation = "adaptive") -> DecisionCalibration:
    rows, owners = route_set()
    found = fit_decision(rows, np.array(owners), kind)
    assert found is not None
    return found


def tensor_with(settings: Settings, calibration: DecisionCalibration | None) -> Tensor:
    rows, owners = route_set()
    return loaded(rows, owners, settings, b"" if calibration is None else calibration.dump())


def queries(count: int = 30) -> NDArray[np.float32]:
    rows, _ = route_set(seed=3)
    foreign = unit_rows(10, DIM, 5)
    return np.concatenate([rows[:: len(rows) // (count - 10)][: count - 10], foreign])


@pytest.mark.parametrize("kind", ["adaptive", "blend", "max", "mean", "centroid", "topk"])
@pytest.mark.parametrize("threshold", [None, 0.6])
def test_rankings_equal_the_reference(kind: Aggregation, threshold: float | None) -> None:
    settings = replace(SETTINGS, aggregation=kind, threshold=threshold)
    calibration = fitted(kind)
    tensor = tensor_with(settings, calibration)
    routes, vectors = list(tensor.routes.values()), rows_by_slot(tensor)
    asked = queries()
    specs = [QuerySpec(limit) for limit in (1, 3, 12)] * 10
    for scratch in (Scratch(), Scratch(bytes_rows_min=0)):
        found = rank(tensor, asked, specs, scratch)
        for query, spec, ranking in zip(asked, specs, found, strict=True):
            assert ranking == naive_rank(vectors, routes, settings, query, spec, calibration)
            assert rank(tensor, query[np.newaxis], [spec], scratch) == [ranking]


def test_answers_do_not_depend_on_batch_place_or_limit() -> None:
    tensor = tensor_with(SETTINGS, fitted())
    asked = queries()
    alone = [rank(tensor, query[np.newaxis], [QuerySpec()])[0] for query in asked]
    order = np.random.default_rng(0).permutation(len(asked))
    mixed = rank(tensor, asked[order], [QuerySpec(1 + place % 15) for place in range(len(order))])
    for place, ranking in zip(order.tolist(), mixed, strict=True):
        assert ranking.best == alone[place].best
        assert ranking.p_none == alone[place].p_none
        assert ranking.top[0] == alone[place].top[0]
    assert any(ranking.best for ranking in alone)
    assert not all(ranking.best for ranking in alone)


def test_filter_shares_the_probability_among_its_routes() -> None:
    tensor = tensor_with(SETTINGS, fitted())
    query = queries()[:1]
    whole = rank(tensor, query, [QuerySpec(BEST_ROUTES)])[0]
    chosen = frozenset(score.route_id for score in whole.top[1:3])
    part = rank(tensor, query, [QuerySpec(BEST_ROUTES, chosen)])[0]
    assert [score.route_id for score in part.top] == [s.route_id for s in whole.top[1:3]]
    assert [score.score for score in part.top] == [score.score for score in whole.top[1:3]]
    assert part.p_none is not None
    shares = [score.confidence or 0.0 for score in part.top]
    assert sum(shares) + part.p_none == pytest.approx(1.0)


def test_lower_route_without_a_least_confidence_passes_at_any_rank() -> None:
    rows, owners = route_set()
    settings = replace(SETTINGS, aggregation="blend", confidence_min=0.999999)
    records = [record(route, range(route * EACH, (route + 1) * EACH)) for route in range(ROUTES)]
    tensor = Tensor(DIM, settings)
    query = queries()[:1]
    last = rank(loaded(rows, owners, settings), query, [QuerySpec(ROUTES)])[0].top[-1].route_id
    records[last] = records[last]._replace(confidence_min=0.0)
    tensor.load(np.arange(len(rows)), rows, records, settings, Revision(1, 1),
                decision=fitted("blend").dump())  # fmt: skip
    for limit in (1, 5, ROUTES):
        ranking = rank(tensor, query, [QuerySpec(limit)])[0]
        assert ranking.best is not None
        assert ranking.best.route_id == last


def test_threshold_of_an_adaptive_score_is_one_of_blend() -> None:
    calibration, query = fitted(), queries()[:1]
    blended = rank(tensor_with(replace(SETTINGS, aggregation="blend"), None), query, [QuerySpec()])
    settings = replace(SETTINGS, confidence_min=None, threshold=0.0)
    best = rank(tensor_with(settings, calibration), query, [QuerySpec()])[0].best
    assert best is not None
    assert best.judged == blended[0].top[0].score != best.score
    for threshold, passes in ((best.judged, True), (best.judged + 1e-6, False)):
        settings = replace(settings, threshold=threshold)
        found = rank(tensor_with(settings, calibration), query, [QuerySpec()])[0]
        assert (found.best == best._replace(threshold=threshold)) is passes


def test_numbers_of_another_encoder_or_aggregation_do_not_apply() -> None:
    query = queries()[:1]
    plain = rank(tensor_with(SETTINGS, None), query, [QuerySpec(5)])
    other = replace(fitted(), fingerprint="ab")
    assert rank(tensor_with(SETTINGS, other), query, [QuerySpec(5)]) == plain
    assert rank(tensor_with(SETTINGS, fitted("max")), query, [QuerySpec(5)]) == plain
    tensor = tensor_with(SETTINGS, other)
    tensor.use_encoder("ab")
    adapted = rank(tensor, query, [QuerySpec(5)])[0]
    assert adapted.p_none is not None
    assert adapted.top[0].score != plain[0].top[0].score


def changed(tensor: Tensor, route: int, vector: NDArray[np.float32], slot: int) -> Change:
    """A change that adds a row to a route."""
    before = tensor.record_of(route)
    grown = before._replace(
        slots=(*before.slots, slot), utterances=(*before.utterances, f"text {slot}")
    )
    write = SlotWrite(slot, route, f"text {slot}", vector.tobytes(), b"")
    return Change(
        Outcome("applied", Revision(1, 2)), writes=(write,), before=(before,), put=(grown,)
    )


def test_terms_after_writes_and_new_numbers_are_those_of_a_boot() -> None:
    """A write touches its route; numbers that were derived on another thread are the same."""
    rows, owners = route_set()
    extra = unit_rows(4, DIM, 11)
    calibration = fitted()
    tensor = loaded(rows, owners, SETTINGS)
    tensor.view()
    tensor.apply(changed(tensor, 3, extra[0], len(rows)), Revision(1, 2))
    numbers = FittedDecision(calibration.dump())
    derived = tensor.derive_terms(numbers.payload)
    assert derived is not None
    terms, route_ids = derived
    for start in range(0, len(route_ids), 7):
        part = route_ids[start : start + 7]
        terms.write(part, *tensor.sums_of(part))
    terms.is_complete = True
    change = Change(Outcome("applied", Revision(1, 3)), decision=numbers)
    tensor.apply(change, Revision(1, 3), terms=terms)
    tensor.apply(changed(tensor, 5, extra[1], len(rows) + 1), Revision(1, 4))
    tensor.view()
    tensor.apply(changed(tensor, 5, extra[2], len(rows) + 2), Revision(1, 5))

    records: list[RouteRecord] = sorted(tensor.routes.values(), key=lambda each: each.route_id)
    booted = Tensor(DIM, SETTINGS)
    every = np.concatenate([rows, extra[:3]])
    booted.load(
        np.arange(len(every)), every, records, SETTINGS, Revision(1, 5),
        decision=calibration.dump(),
    )  # fmt: skip
    asked, specs = queries(), [QuerySpec(4)] * 30
    assert rank(tensor, asked, specs) == rank(booted, asked, specs)
    mine, fresh = tensor.view().adaptive, booted.view().adaptive
    assert mine is not None
    assert fresh is not None
    np.testing.assert_array_equal(mine.offsets, fresh.offsets)
    ids = np.arange(ROUTES)
    np.testing.assert_array_equal(mine.vectors.read(ids), fresh.vectors.read(ids))


def test_dropped_numbers_bring_back_blend() -> None:
    tensor = tensor_with(SETTINGS, fitted())
    change = Change(Outcome("applied", Revision(1, 2)), decision=FittedDecision(b""))
    tensor.apply(change, Revision(1, 2))
    query = queries()[:1]
    assert rank(tensor, query, [QuerySpec(3)]) == rank(
        tensor_with(SETTINGS, None), query, [QuerySpec(3)]
    )

"""Tests of the fit on a route set."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from synaptoroute.decision.calibration import CALIBRATION_BYTES_MAX, Kind, read_decision_calibration
from synaptoroute.decision.fitting import (
    JUDGED_MAX,
    calibration_error,
    cohesions,
    fit_decision,
    level_of,
    terms_of,
)
from synaptoroute.decision.metric import read_metric, score_terms
from synaptoroute.decision.probability import confidences
from synaptoroute.exact import to_grid

KINDS: tuple[Kind, ...] = ("blend", "max", "mean", "centroid", "topk")


def route_set(
    routes: int = 20, each: int = 8, dim: int = 32, noise: float = 0.9, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw rows that differ within a route along some directions more than along others."""
    random = np.random.default_rng(seed)
    scales = np.geomspace(3.0, 0.2, dim)
    middles = np.repeat(np.random.default_rng(99).standard_normal((routes, dim)), each, axis=0)
    rows = middles + noise * scales * random.standard_normal(middles.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(routes), each)


def test_fit_is_repeatable_and_fits_an_entry() -> None:
    rows, owners = route_set()
    first = fit_decision(rows, owners, "adaptive", at="1.5", fingerprint="ab")
    assert first is not None
    second = fit_decision(rows.copy(), owners.copy(), "adaptive", at="1.5", fingerprint="ab")
    assert second == first
    content = first.dump()
    assert len(content) <= CALIBRATION_BYTES_MAX
    assert read_decision_calibration(content) == first
    assert (first.at, first.fingerprint, first.routes, first.utterances) == ("1.5", "ab", 20, 160)


def test_largest_dimension_fits_an_entry() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((60, 4_096)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = fit_decision(rows, np.repeat(np.arange(6), 10), "blend")
    assert found is not None
    assert len(found.dump()) <= CALIBRATION_BYTES_MAX


@pytest.mark.parametrize("kind", KINDS)
def test_other_aggregations_have_numbers_without_a_metric(kind: Kind) -> None:
    rows, owners = route_set()
    found = fit_decision(rows, owners, kind)
    assert found is not None
    assert found.weights is None
    assert found.metric == b""
    assert found.inside_mean > found.outside_mean
    assert 0.0 <= found.ece <= 1.0
    assert [point.confidence_min for point in found.curve] == pytest.approx(
        [step / 20 for step in range(21)]
    )


def test_adaptive_score_ranks_better_than_its_parts() -> None:
    rows, owners = route_set(each=8)
    asked, labels = route_set(each=30, seed=7)
    found = fit_decision(rows, owners, "adaptive")
    assert found is not None
    assert found.weights is not None
    queries = asked.astype(np.float64)
    starts = np.searchsorted(owners, np.arange(20))
    sums = np.add.reduceat(to_grid(rows), starts, axis=0)
    vectors, offsets = score_terms(sums, np.full(20, 8.0), found.weights, read_metric(found.metric))
    largest = np.maximum.reduceat(queries @ rows.T, starts, axis=1)
    scores = found.weights.largest * largest + queries @ vectors.T + offsets
    blended = terms_of(rows, owners, queries, "blend", 3)[..., 0]
    right = scores.argmax(axis=1) == labels
    assert right.mean() > (blended.argmax(axis=1) == labels).mean() + 0.05
    assert right.mean() > (largest.argmax(axis=1) == labels).mean() + 0.05
    # What the fit says about itself holds for queries that it has not seen.
    cohesion = cohesions(rows, owners)
    best = -np.sort(-scores, axis=1)[:, :8]
    near = cohesion[scores.argmax(axis=1)].tolist()
    sure = np.array(
        [
            confidences(row, found, 0.001, cohesion=each)[0][0]
            for row, each in zip(best.tolist(), near, strict=True)
        ]
    )
    assert calibration_error(sure, right) < 0.12
    assert found.accuracy == pytest.approx(right.mean(), abs=0.1)


def test_wrong_labels_do_not_make_it_unsure() -> None:
    rows, owners = route_set(noise=0.3, each=10)
    asked, labels = route_set(noise=0.3, each=20, seed=7)
    mixed = owners.copy()
    wrong = np.random.default_rng(3).permutation(len(owners))[:20]
    mixed[wrong] = np.random.default_rng(4).integers(0, 20, 20)
    order = np.argsort(mixed, kind="stable")
    rows, owners = rows[order], mixed[order]
    found = fit_decision(rows, owners, "blend")
    assert found is not None
    assert found.accuracy < 0.95
    scores = terms_of(rows, owners, asked.astype(np.float64), "blend", 3)[..., 0]
    best = -np.sort(-scores, axis=1)[:, :8]
    sure = np.array([confidences(row, found, 0.001)[0][0] for row in best.tolist()])
    right = scores.argmax(axis=1) == labels
    assert right.mean() > 0.98
    assert sure.mean() > 0.85


def test_too_little_to_judge_is_none() -> None:
    rows, owners = route_set()
    assert fit_decision(rows[:0], owners[:0], "adaptive") is None
    assert fit_decision(rows[:16], owners[:16], "adaptive") is None  # two routes
    assert fit_decision(rows[::8], owners[::8], "adaptive") is None  # one utterance each
    assert fit_decision(rows, owners, "adaptive") is not None


def test_few_utterances_keep_the_score_of_blend() -> None:
    rows, owners = route_set(each=2, routes=40)
    kept = np.ones(len(rows), np.bool_)
    kept[::4] = False  # half of the routes have one utterance
    found = fit_decision(rows[kept], owners[kept], "adaptive")
    assert found is not None
    assert found.weights is None
    assert found.aggregation == "adaptive"


def test_gaps_between_route_ids_change_nothing() -> None:
    rows, owners = route_set()
    dense = fit_decision(rows, owners, "adaptive")
    assert fit_decision(rows, owners * 7 + 3, "adaptive") == dense


def test_uneven_routes_are_judged() -> None:
    rows, owners = route_set(routes=12, each=40)
    keep = np.concatenate([np.flatnonzero(owners == route)[: 1 + 3 * route] for route in range(12)])
    found = fit_decision(rows[keep], owners[keep], "adaptive")
    assert found is not None
    assert found.weights is not None


def test_judgements_are_bounded() -> None:
    rows, owners = route_set(routes=100, each=12, dim=16)
    found = fit_decision(rows, owners, "blend")
    assert found is not None
    assert found.utterances == 1_200 > JUDGED_MAX


def test_level_is_the_logarithm_of_the_sum() -> None:
    scores = np.array([[0.5, 0.4, 0.1], [0.0, -1.0, 0.2]])
    expected = np.log(np.exp(20.0 * scores).sum(axis=1)) / 20.0
    np.testing.assert_allclose(level_of(scores, 20.0), expected)


def test_cohesion_is_the_mean_similarity_of_pairs() -> None:
    rows, owners = route_set(routes=3, each=5)
    found = cohesions(rows, owners)
    own = rows[:5].astype(np.float64)
    pairs = (own @ own.T)[np.triu_indices(5, 1)]
    assert found[0] == pytest.approx(pairs.mean(), abs=1e-6)
    assert np.isnan(cohesions(rows[:1], owners[:1])).all()

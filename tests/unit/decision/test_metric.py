"""Tests of the metric and of the terms of the adaptive score."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from synaptoroute.decision.metric import (
    SEPARATION,
    Metric,
    ScoreWeights,
    dense_metric,
    fit_metric,
    read_metric,
    score_terms,
    square_of,
    within_covariance,
)
from synaptoroute.exact import to_grid

WEIGHTS = ScoreWeights(0.15, 0.4, -0.2, 0.65, -0.3)


def route_set(
    routes: int = 12, each: int = 6, dim: int = 48, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    middles = np.repeat(random.standard_normal((routes, dim)), each, axis=0)
    rows = middles + 0.8 * random.standard_normal(middles.shape) * np.linspace(0.1, 2.0, dim)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(routes), each)


def fitted(**options: int) -> tuple[Metric, NDArray[np.float64], NDArray[np.float64]]:
    rows, owners = route_set(**options)
    counts = np.bincount(owners).astype(np.float64)
    sums = np.add.reduceat(to_grid(rows), np.searchsorted(owners, np.arange(len(counts))), axis=0)
    within = within_covariance(square_of(rows), sums, counts)
    metric = fit_metric(within)
    assert metric is not None
    return metric, sums, counts


def dense(metric: Metric) -> NDArray[np.float64]:
    kept = metric.directions.astype(np.float64)
    kept /= np.linalg.norm(kept, axis=0)
    return metric.scale * (np.eye(metric.dim) - (kept * metric.gains) @ kept.T)


def test_metric_is_the_difference_of_two_inverses() -> None:
    rows, owners = route_set(routes=40)
    counts = np.bincount(owners).astype(np.float64)
    sums = np.add.reduceat(rows, np.arange(0, len(rows), 6), axis=0, dtype=np.float64)
    within = within_covariance(square_of(rows), sums, counts)
    means = sums / 6.0
    apart = rows - np.repeat(means, 6, axis=0)
    np.testing.assert_allclose(within.matrix, apart.T @ apart / (len(rows) - 40), atol=1e-6)
    # The means of routes differ by the rows within them as well.
    expected = np.cov(means.T, bias=True) - within.matrix / 6.0
    np.testing.assert_allclose(within.between, expected, atol=1e-6)

    def inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = matrix / (np.trace(matrix) / len(matrix))
        share = within.shrinkage
        return np.linalg.inv((1.0 - share) * scaled + share * np.eye(len(matrix)))

    whole = inverse(within.matrix) - SEPARATION * inverse(within.matrix + within.between)
    whole /= 1.0 - SEPARATION
    metric = fit_metric(within)
    assert metric is not None
    assert np.abs(dense(metric) - whole).max() < 0.05 * np.abs(whole).max()
    found, noise = dense_metric(within)
    np.testing.assert_allclose(found, dense(metric), atol=1e-12)
    assert noise == pytest.approx(metric.noise)
    assert noise == pytest.approx(float((whole * within.matrix).sum()), rel=0.05)


def test_product_is_that_of_float64_within_its_steps() -> None:
    metric, sums, counts = fitted()
    means = sums / counts[:, np.newaxis]
    np.testing.assert_allclose(metric.apply(means), means @ dense(metric), atol=1e-5)


def test_product_has_equal_bits_in_any_order_and_batch() -> None:
    metric, sums, counts = fitted(routes=70, dim=96)
    means = sums / counts[:, np.newaxis]
    whole = metric.apply(means)
    order = np.random.default_rng(1).permutation(len(means))
    np.testing.assert_array_equal(metric.apply(means[order]), whole[order])
    for row, expected in zip(means, whole, strict=True):
        np.testing.assert_array_equal(metric.apply(row[np.newaxis])[0], expected)
    # The order of components is the order of addition in the first product, the order of
    # directions that in the second.
    components = np.random.default_rng(2).permutation(metric.dim)
    kept = np.random.default_rng(3).permutation(len(metric.gains))
    mixed = Metric(
        metric.scale,
        metric.noise,
        metric.gains[kept],
        np.ascontiguousarray(metric.directions[components][:, kept]),
    )
    np.testing.assert_array_equal(mixed.apply(means[:, components]), whole[:, components])


def test_sums_of_the_products_stay_exact_at_the_largest_dimension() -> None:
    random = np.random.default_rng(4)
    directions = random.choice(np.array([-127, 127], np.int8), (8_192, 12))
    metric = Metric(1.0, 0.0, np.full(12, 0.5), directions)
    means = np.sign(random.standard_normal((3, 8_192))) / np.sqrt(8_192)
    steps = np.rint(means * 2.0**24).astype(np.int64)
    exact = steps.astype(object) @ directions.astype(object)
    found = (steps.astype(np.float64) @ directions.astype(np.float64)).astype(np.int64)
    assert (found == exact.astype(np.int64)).all()
    order = random.permutation(8_192)
    mixed = Metric(1.0, 0.0, metric.gains, np.ascontiguousarray(directions[order]))
    np.testing.assert_array_equal(mixed.apply(means[:, order]), metric.apply(means)[:, order])


def test_terms_are_those_of_the_formula() -> None:
    metric, sums, counts = fitted()
    vectors, offsets = score_terms(sums, counts, WEIGHTS, metric)
    means = sums / counts[:, np.newaxis]
    applied = means @ dense(metric)
    centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    expected = 0.4 * centroids - 0.2 * means + 0.65 * applied
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    lengths = (means * applied).sum(axis=1)
    np.testing.assert_allclose(offsets, -0.3 * (lengths - metric.noise / counts), atol=1e-5)
    assert vectors.dtype == np.float32


def test_terms_of_a_route_do_not_depend_on_other_routes() -> None:
    metric, sums, counts = fitted()
    vectors, offsets = score_terms(sums, counts, WEIGHTS, metric)
    for at in range(len(sums)):
        part = slice(at, at + 1)
        vector, offset = score_terms(sums[part], counts[part], WEIGHTS, metric)
        np.testing.assert_array_equal(vector[0], vectors[at])
        assert offset[0] == offsets[at]


def test_opposite_rows_have_finite_terms() -> None:
    metric, sums, _ = fitted()
    vectors, offsets = score_terms(np.zeros_like(sums[:1]), np.array([2.0]), WEIGHTS, metric)
    assert not vectors.any()
    assert np.isfinite(offsets).all()


def test_bytes_are_read_back() -> None:
    metric, _, _ = fitted()
    read = read_metric(metric.dump())
    assert read is not None
    assert read.dump() == metric.dump()
    np.testing.assert_array_equal(read.directions, metric.directions)


def test_other_bytes_are_refused() -> None:
    metric, _, _ = fitted()
    content = metric.dump()
    assert read_metric(b"") is None
    assert read_metric(content[:-1]) is None
    assert read_metric(content + b"\0") is None
    beyond = Metric(metric.scale, metric.noise, np.full(len(metric.gains), 1.5), metric.directions)
    assert read_metric(beyond.dump()) is None
    lowest = metric.directions.copy()
    lowest[0, 0] = -128
    assert read_metric(Metric(metric.scale, 0.0, metric.gains, lowest).dump()) is None
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        assert read_metric(Metric(scale, 0.0, metric.gains, metric.directions).dump()) is None


def test_set_of_single_utterances_has_no_metric() -> None:
    rows, _ = route_set(each=1)
    within = within_covariance(square_of(rows), rows.astype(np.float64), np.ones(len(rows)))
    assert fit_metric(within) is None

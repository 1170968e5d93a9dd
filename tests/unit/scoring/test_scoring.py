"""Scoring against the naive reference: equal to the last bit, in any batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from naive_scoring import naive_rank
from route_sets import START, loaded, record, rows_by_slot, unit_rows
from synaptoroute.core.mutation import AGGREGATIONS, Aggregation, Settings
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.scoring import (
    QuerySpec,
    Ranking,
    RouteScore,
    Scratch,
    rank,
)
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit

DIM = 384
Rows = NDArray[np.float32]


def expected(tensor: Tensor, query: Rows, spec: QuerySpec) -> Ranking:
    """Rank one query with the reference implementation."""
    routes = list(tensor.routes.values())
    return naive_rank(rows_by_slot(tensor), routes, tensor.settings, query, spec)


@pytest.fixture(autouse=True, params=["bytes", "float32"])
def scans_are_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test twice: scans of bytes, scans of float32."""
    if request.param == "bytes":
        monkeypatch.setattr(request.module, "scratch", byte_scratch)


def byte_scratch() -> Scratch:
    """Scratch memory that scans bytes, however few the rows."""
    return Scratch(integer_product(), bytes_rows_min=0)


def scratch() -> Scratch:
    """Scratch memory of the kind under test."""
    return Scratch()


def ask(tensor: Tensor, query: Rows, spec: QuerySpec | None = None) -> Ranking:
    """Rank one query alone."""
    return answers(tensor, query[np.newaxis], [spec or QuerySpec()])[0]


def answers(
    tensor: Tensor, queries: Rows, specs: Sequence[QuerySpec], kept: Scratch | None = None
) -> list[Ranking]:
    """Rank a batch after all rows are quantized."""
    while not tensor.view().quantized.is_ready:
        tensor.prepare()
    return rank(tensor, queries, specs, kept or scratch())


def near(rows: Rows, seed: int, noise: float = 0.7) -> Rows:
    """Unit queries near some rows."""
    moved = rows + noise * unit_rows(len(rows), rows.shape[1], seed)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def nudged(row: Rows, count: int) -> Rows:
    """Copies of a row that differ in single last bits, so that float32 cannot order them."""
    rows = np.repeat(row[np.newaxis], count, axis=0)
    for index in range(1, count):
        rows[index, index] = np.nextafter(rows[index, index], np.float32(np.sign(index % 2 - 0.5)))
    return rows


def names(scores: Sequence[RouteScore]) -> list[int]:
    return [score.route_id for score in scores]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_ranking_equals_the_reference(aggregation: Aggregation) -> None:
    """Winner, list, runner-up, slots and every digit of every score."""
    rows = unit_rows(120, DIM)
    settings = Settings(aggregation=aggregation, topk=4, threshold=0.3)
    tensor = loaded(rows, [slot * 7 % 13 for slot in range(120)], settings)
    queries = near(rows[::6], 5)
    specs = [QuerySpec(1 + index % 4) for index in range(len(queries))]
    wanted = [expected(tensor, query, spec) for query, spec in zip(queries, specs, strict=True)]

    assert wanted == answers(tensor, queries, specs)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_ranking_does_not_depend_on_the_batch(aggregation: Aggregation) -> None:
    """Alone, in batches of 2 to 64, at any place: equal bit for bit, near-ties included."""
    rows = np.concatenate([unit_rows(4_200, DIM), nudged(unit_rows(1, DIM, 9)[0], 40)])
    owners = [slot % 150 for slot in range(4_200)] + [150 + index // 2 for index in range(40)]
    tensor = loaded(rows, owners, Settings(aggregation=aggregation, threshold=0.4))
    queries = np.concatenate([near(rows[:62], 6), rows[-1:], near(rows[-1:], 7)])
    specs = [QuerySpec(1 + index % 3) for index in range(64)]
    alone = [ask(tensor, query, spec) for query, spec in zip(queries, specs, strict=True)]
    kept = scratch()

    assert alone == answers(tensor, queries, specs, kept)
    assert alone[::-1] == answers(tensor, queries[::-1].copy(), specs[::-1], kept)
    for size in (2, 3, 5, 8, 16, 31):
        for start in (0, 64 - size):
            part = slice(start, start + size)
            assert alone[part] == answers(tensor, queries[part], specs[part], kept)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_scores_one_bit_apart_are_ranked_exactly(aggregation: Aggregation) -> None:
    """float32 products cannot distinguish these routes; the reference can."""
    rows = nudged(unit_rows(1, DIM, 11)[0], 30)
    tensor = loaded(rows, list(range(30)), Settings(aggregation=aggregation, threshold=-1.0))
    for query in near(rows[:5], 12, 0.3):
        wanted = expected(tensor, query, QuerySpec(30))

        assert wanted == ask(tensor, query, QuerySpec(30))
        assert len({score.score for score in wanted.top}) > 5


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_utterances_one_bit_apart_are_ranked_exactly(aggregation: Aggregation) -> None:
    """The matched utterance is the most similar one, also among near-copies."""
    rows = nudged(unit_rows(1, DIM, 13)[0], 40)
    settings = Settings(aggregation=aggregation, topk=5, threshold=-1.0)
    tensor = loaded(rows, [slot % 2 for slot in range(40)], settings)
    queries = near(rows[:20], 14, 0.3)
    wanted = [expected(tensor, query, QuerySpec(2)) for query in queries]

    assert wanted == answers(tensor, queries, [QuerySpec(2)] * 20)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_equal_scores_are_ordered_by_slot(aggregation: Aggregation) -> None:
    """Several routes hold the same texts: the lowest slot wins, whatever the route id."""
    rows = np.repeat(unit_rows(1, DIM, 3), 12, axis=0)
    owners = [5, 5, 5, 2, 2, 2, 0, 0, 0, 4, 4, 4]
    tensor = loaded(rows, owners, Settings(aggregation=aggregation, threshold=-1.0))
    ranking = ask(tensor, near(rows[:1], 4)[0], QuerySpec(4))

    assert [5, 2, 0, 4] == names(ranking.top)
    assert [0, 3, 6, 9] == [score.slot for score in ranking.top]
    assert 1 == len({score.score for score in ranking.top})
    assert ranking.runner_up == ranking.top[1]


def test_score_equal_to_its_threshold_passes() -> None:
    """A threshold one bit above the score fails."""
    rows = unit_rows(20, DIM)
    query = near(rows[:1], 4)[0]
    score = ask(loaded(rows, list(range(20))), query).top[0].score
    above = float(np.nextafter(score, 2.0))

    assert ask(loaded(rows, list(range(20)), Settings(threshold=score)), query).best is not None
    assert ask(loaded(rows, list(range(20)), Settings(threshold=above)), query).best is None


def test_passing_route_wins_over_higher_routes_that_fail() -> None:
    """The higher routes stay in the list."""
    rows = unit_rows(40, DIM)
    query = near(rows[:1], 4, 0.5)[0]
    routes = [record(0, range(5), 0.999)]
    routes += [record(number, [number + 4], 0.999) for number in range(1, 30)]
    routes += [record(30, range(34, 40), -1.0)]
    tensor = Tensor(DIM)
    tensor.load(np.arange(40), rows, routes, Settings(), START)
    ranking = ask(tensor, query, QuerySpec(3))

    assert ranking.best is not None
    assert 30 == ranking.best.route_id
    assert 0 == ranking.top[0].route_id
    assert ranking.runner_up == ranking.top[0]
    assert expected(tensor, query, QuerySpec(3)) == ranking


def test_runner_up_is_the_second_if_no_route_passes() -> None:
    rows = unit_rows(10, DIM)
    ranking = ask(loaded(rows, list(range(10)), Settings(threshold=1.0)), near(rows[:1], 4)[0])

    assert ranking.best is None
    assert 0 == ranking.top[0].route_id
    assert ranking.runner_up is not None
    assert ranking.runner_up.score < ranking.top[0].score


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_filter_excludes_all_other_routes(aggregation: Aggregation) -> None:
    """Unknown route ids in a filter are ignored."""
    rows = unit_rows(60, DIM)
    settings = Settings(aggregation=aggregation, threshold=-1.0)
    tensor = loaded(rows, [slot % 6 for slot in range(60)], settings)
    query = near(rows[:1], 4)[0]
    spec = QuerySpec(6, frozenset({1, 4, 99, -3}))
    ranking = ask(tensor, query, spec)

    assert {1, 4} == set(names(ranking.top))
    assert 2 == ranking.route_count
    assert expected(tensor, query, QuerySpec(6, frozenset({1, 4}))) == ranking


def test_filtered_and_unfiltered_queries_share_a_batch() -> None:
    """The filter and limit of a query do not affect the others."""
    rows = unit_rows(60, DIM)
    tensor = loaded(rows, [slot % 6 for slot in range(60)])
    queries = near(rows[:4], 4)
    specs = [
        QuerySpec(),
        QuerySpec(6, frozenset({2})),
        QuerySpec(3, frozenset()),
        QuerySpec(100),
    ]
    alone = [ask(tensor, query, spec) for query, spec in zip(queries, specs, strict=True)]

    assert alone == answers(tensor, queries, specs)
    assert Ranking() == alone[2]
    assert [1, 1, 0, 6] == [len(ranking.top) for ranking in alone]


def test_empty_tensor_ranks_nothing() -> None:
    query = unit_rows(2, DIM)

    assert [Ranking(), Ranking()] == answers(Tensor(DIM), query, [QuerySpec(), QuerySpec(5)])
    assert [] == answers(Tensor(DIM), query[:0], [])
    assert [] == answers(loaded(query, [0, 1]), query[:0], [])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_single_route_of_one_utterance(aggregation: Aggregation) -> None:
    """Its score is its similarity, and there is no runner-up."""
    rows = unit_rows(1, DIM)
    tensor = loaded(rows, [0], Settings(aggregation=aggregation, threshold=0.1))
    ranking = ask(tensor, rows[0], QuerySpec(5))

    assert ranking.runner_up is None
    assert (ranking.best,) == ranking.top
    assert 1.0 == pytest.approx(ranking.top[0].score, abs=1e-6)


def test_free_slots_never_match() -> None:
    """A row without an owner may equal the query."""
    rows = unit_rows(50, DIM)
    owners = [-1 if slot % 3 == 0 else slot % 2 for slot in range(50)]
    tensor = loaded(rows, owners)
    ranking = ask(tensor, rows[3], QuerySpec(2))

    assert 0 != ranking.top[0].slot % 3
    assert expected(tensor, rows[3], QuerySpec(2)) == ranking


@pytest.mark.parametrize(
    ("aggregation", "score"),
    [
        ("max", 0.8),
        ("mean", 0.5),
        ("topk", 0.7),
        ("centroid", 0.5 / 0.51),
        ("blend", 0.4 + 0.25 / 0.51),
    ],
)
def test_aggregations_give_values_computed_by_hand(aggregation: Aggregation, score: float) -> None:
    """Similarities 0.8, 0.6 and 0.1, and a mean vector of length 0.51."""
    rows = by_hand(np.array([0.8, 0.6, 0.1]), 0.51)
    settings = Settings(aggregation=aggregation, topk=2, threshold=-1.0)
    query = np.eye(1, 8, dtype=np.float32)[0]
    ranking = ask(loaded(rows, [0, 0, 0], settings), query)

    assert score == pytest.approx(ranking.top[0].score, abs=1e-6)
    assert (0, 0.8) == (ranking.top[0].slot, pytest.approx(ranking.top[0].similarity, abs=1e-6))


def by_hand(similarities: NDArray[np.float64], mean_length: float) -> Rows:
    """Unit rows with given first components whose mean has a given length."""
    rows = np.zeros((3, 8))
    rows[:, 0] = similarities
    rows[:, 1] = np.sqrt(mean_length**2 - similarities.mean() ** 2)
    # The rest, up to unit length, points in directions that add up to zero.
    rows[:, 2:4] = closed_triangle(np.sqrt(1.0 - (rows**2).sum(axis=1)))
    return rows.astype(np.float32)


def closed_triangle(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Three plane vectors of given lengths that add up to zero."""
    a, b, c = lengths
    cosine = (c * c - a * a - b * b) / (2 * a * b)
    first = np.array([a, 0.0])
    second = b * np.array([cosine, np.sqrt(1.0 - cosine * cosine)])
    return np.stack([first, second, -first - second])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_small_memory_limit_changes_no_ranking(
    aggregation: Aggregation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scans of one query each give the result of one scan of all."""
    rows = unit_rows(300, DIM)
    tensor = loaded(rows, [slot % 20 for slot in range(300)], Settings(aggregation=aggregation))
    queries, specs = near(rows[:9], 4), [QuerySpec(2)] * 9
    together = answers(tensor, queries, specs)
    monkeypatch.setattr("synaptoroute.scoring.scan.SCORES_BYTES_MAX", 1)

    assert together == answers(tensor, queries, specs)


def test_topk_larger_than_a_route_averages_all_of_it() -> None:
    rows = unit_rows(30, DIM)
    settings = Settings(aggregation="topk", topk=100, threshold=-1.0)
    tensor = loaded(rows, [slot % 9 for slot in range(30)], settings)
    query = near(rows[:1], 4)[0]

    assert expected(tensor, query, QuerySpec(9)) == ask(tensor, query, QuerySpec(9))


def test_many_utterances_of_a_route_hide_no_other_route() -> None:
    """Limits count routes, not utterances."""
    rows = np.concatenate([nudged(unit_rows(1, DIM)[0], 50), unit_rows(1, DIM, 8)])
    routes = [record(0, range(50), 0.99999), record(1, [50], -0.5)]
    tensor = Tensor(DIM)
    tensor.load(np.arange(51), rows, routes, Settings(), START)
    ranking = ask(tensor, near(rows[:1], 2)[0], QuerySpec(2))

    assert ranking.best is not None
    assert (1, [0, 1]) == (ranking.best.route_id, names(ranking.top))


def test_vector_that_is_not_finite_is_rejected() -> None:
    """NaN cannot be ranked; the encoder must not return it."""
    tensor = loaded(unit_rows(2, DIM), [0, 1])

    with pytest.raises(AssertionError, match="not finite"):
        ask(tensor, np.full(DIM, np.nan, np.float32))


def test_rows_not_quantized_yet_are_scanned_in_float32() -> None:
    """Right after a boot the rankings are the same, and each query quantizes some rows."""
    rows = unit_rows(3_000, DIM)
    tensor = loaded(rows, [slot % 50 for slot in range(3_000)])
    query = near(rows[:1], 4)
    kept = byte_scratch()
    found = [rank(tensor, query, [QuerySpec(3)], kept) for _ in range(4)]

    assert tensor.view().quantized.is_ready
    assert found[1:] == found[:1] * 3
    assert [expected(tensor, query[0], QuerySpec(3))] == found[0]


def test_byte_scans_back_off_if_they_leave_too_many_candidates() -> None:
    """With a thousand near-copies float32 takes over, longer each time, then bytes again."""
    same = nudged(unit_rows(1, DIM)[0], 350)
    rows = np.concatenate([same, same, same])
    tensor = loaded(rows, [slot % 500 for slot in range(len(rows))])
    other = loaded(unit_rows(20, DIM), list(range(20)))
    kept = byte_scratch()
    for _ in range(3):
        answers(tensor, near(rows[:1], 4), [QuerySpec()], kept)
    skipped = [kept.integer_product() is None for _ in range(4)]
    answers(other, near(rows[:1], 4), [QuerySpec()], kept)

    assert [True, False] == [skipped[0], skipped[-1]]


def test_few_rows_are_scanned_in_float32() -> None:
    """Such a scan does not wait for quantized rows."""
    rows = unit_rows(3_000, DIM)
    tensor = loaded(rows, [slot % 50 for slot in range(3_000)])
    for _ in range(4):
        rank(tensor, near(rows[:1], 4), [QuerySpec()], Scratch(integer_product()))

    assert not tensor.view().quantized.is_ready


def test_scratch_memory_is_reused_for_any_shape() -> None:
    """Of floats and of integers."""
    rows = unit_rows(300, DIM)
    tensor = loaded(rows, [slot % 20 for slot in range(300)])
    queries = near(rows[:40], 4)
    alone = [ask(tensor, query) for query in queries]
    kept = scratch()
    for size in (1, 40, 7, 1):
        assert alone[:size] == answers(tensor, queries[:size], [QuerySpec()] * size, kept)

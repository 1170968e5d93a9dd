"""Leave-one-out and static embeddings against their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synaptoroute.cascade import StaticTable, Utterances
from synaptoroute.cascade.leave_one_out import OFFERED, evaluate
from synaptoroute.cascade.static_routes import StaticRoutes
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Aggregation, Revision, Settings
from synaptoroute.encoder.contract import freeze_tokens
from synaptoroute.encoder.static_table import DIM
from synaptoroute.scoring import (
    QuerySpec,
    Ranking,
    RouteScore,
    rank,
)
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.property

AT = Revision(1, 1)
VECTOR_DIM = 8


@st.composite
def route_sets(draw: st.DrawFn) -> Utterances:
    """Some routes, each with at least two similar utterances."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = draw(st.lists(st.integers(2, 5), min_size=3, max_size=9))
    owners = np.repeat(np.arange(len(counts)), counts)
    spread = draw(st.sampled_from([0.2, 0.7, 2.0]))
    vectors = random.standard_normal((len(counts), VECTOR_DIM))[owners]
    vectors = vectors + spread * random.standard_normal(vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    static_rows = 40.0 * random.standard_normal((len(counts), DIM))[owners]
    static_rows += 40.0 * spread * random.standard_normal(static_rows.shape)
    return Utterances(
        vectors.astype(np.float32),
        np.clip(static_rows, -127, 127).astype(np.int8),
        owners,
        random.uniform(-0.5, 0.9, len(counts)),
        draw(st.sampled_from(OFFERED)),
    )


def records_of(given_set: Utterances, rows: np.ndarray) -> list[RouteRecord]:
    """Routes of the remaining rows; slots are the numbers of the rows."""
    found = []
    for number, threshold in enumerate(given_set.thresholds.tolist()):
        slots = tuple(int(row) for row in rows if given_set.owners[row] == number)
        if slots:
            texts = tuple(f"text {slot}" for slot in slots)
            name = f"route {number}"
            found.append(RouteRecord(number, name, slots, texts, threshold, "{}", "null", AT))
    return found


def encoder_ranking(given_set: Utterances, rows: np.ndarray, row: int, how: Aggregation) -> Ranking:
    """The product's own ranking for one row over the others."""
    tensor = Tensor(VECTOR_DIM, Settings(aggregation=how))
    records = records_of(given_set, rows)
    tensor.load(rows, given_set.vectors[rows], records, Settings(aggregation=how), AT)
    return rank(tensor, given_set.vectors[row : row + 1], [QuerySpec(limit=20)])[0]


def static_scores(given_set: Utterances, rows: np.ndarray, row: int) -> Sequence[RouteScore]:
    """The product's own static scores for one row over the others."""
    routes = StaticRoutes(DIM, Settings(), AT)
    records = records_of(given_set, rows)
    routes.load(records, [given_set.static_rows[list(record.slots)] for record in records])
    return routes.route_scores(given_set.static_rows[row])


@settings(max_examples=40, deadline=None)
@given(route_sets(), st.data())
def test_leave_one_out_equals_its_definition(given_set: Utterances, data: st.DataObject) -> None:
    """Both stages answer as a router that never had the utterance, or the route."""
    everything = np.arange(len(given_set.owners))
    row = data.draw(st.integers(0, len(everything) - 1))
    without = (
        np.flatnonzero(everything != row),
        np.flatnonzero(given_set.owners != given_set.owners[row]),
    )

    for rows, is_route_left_out in zip(without, (False, True), strict=True):
        judged = evaluate(
            given_set, given_set.static_rows, everything, is_route_left_out=is_route_left_out
        )
        scores = static_scores(given_set, rows, row)
        ranking = encoder_ranking(given_set, rows, row, given_set.aggregation)

        assert scores[0].score == pytest.approx(judged.scores[row], abs=1e-9)
        margin = scores[0].score - scores[1].score
        assert margin == pytest.approx(judged.margins[row], abs=1e-9)
        if margin > 1e-9:
            assert scores[0].route_id == judged.answers[row]
        expected = {score.route_id: score.score for score in ranking.top}
        assert expected[judged.answers[row]] == pytest.approx(judged.expected[row], abs=1e-4)
        if ranking.best is None:
            assert max(s.score - s.threshold for s in ranking.top) > -1e-4 or (
                -1 == judged.encoders[row]
            )
        elif not near_a_tie(ranking.top):
            assert ranking.best.route_id == judged.encoders[row]


def near_a_tie(top: Sequence[RouteScore]) -> bool:
    """Whether rounding may decide: two equal routes, or one at its threshold."""
    scores = sorted(score.score for score in top)
    gaps = [b - a for a, b in pairwise(scores)]
    return min(gaps, default=1.0) < 1e-4 or any(abs(s.score - s.threshold) < 1e-4 for s in top)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=12))
def test_static_embedding_depends_on_its_text_only(seed: int, texts: list[list[int]]) -> None:
    """Together, alone and in reverse order, the bytes are the same."""
    rows = np.random.default_rng(seed).integers(-32_767, 32_767, (50, DIM)).astype(np.int16)
    table = StaticTable("f" * 64, rows)
    tokens = [freeze_tokens(ids) for ids in texts]

    together = table.embed_all(tokens)

    for row, text in zip(together, tokens, strict=True):
        alone = table.embed(text.ids)
        assert (alone is None and not row.any()) or (alone == row).all()
    assert (together[::-1] == table.embed_all(tokens[::-1])).all()

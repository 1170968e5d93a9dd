"""Goal: decisions of nodes on unlike CPUs agree.  Method: the real encoder, vectors moved a little.

Rows and the numbers of a fit travel through the log, so only the vector of a query differs: by
about 1e-7 in float32, and by more with int8, whose products some CPUs saturate.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders import distilled, mixed_things
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import FOUNDING_SETTINGS, Revision, Settings
from synaptoroute.decision import fit_decision
from synaptoroute.scoring import QuerySpec, Ranking, rank
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.integration

ROUNDS = 20
CONFIDENCE_MOVED_MAX = 1e-5
"""At a moved vector of 1e-7; docs/accuracy.md states it."""


@cache
def route_set() -> tuple[Tensor, NDArray[np.float32]]:
    """A fitted tensor of real vectors, and those of queries, utterances among them."""
    encoder, _ = distilled()
    routes, asked = mixed_things()
    records, texts = [], []
    for number, route in enumerate(routes):
        slots = tuple(range(len(texts), len(texts) + len(route.utterances)))
        texts += route.utterances
        records.append(
            RouteRecord(
                number, route.name, slots, tuple(route.utterances), None, "{}", "null",
                Revision(1, 1),
            )
        )  # fmt: skip
    rows = encoder.encode(texts)
    owners = np.repeat(np.arange(len(routes)), [len(route.utterances) for route in routes])
    numbers = fit_decision(rows, owners, "adaptive", fingerprint=encoder.fingerprint)
    assert numbers is not None
    settings: Settings = FOUNDING_SETTINGS
    tensor = Tensor(encoder.dim, settings, encoder.fingerprint)
    at = Revision(1, 1)
    tensor.load(np.arange(len(rows)), rows, records, settings, at, decision=numbers.dump())
    mixed = [f"{asked[n]} and {asked[-n - 6]}" for n in range(24)]
    return tensor, encoder.encode([*asked, *mixed, *texts[::17]])


def moved(vectors: NDArray[np.float32], by: float, seed: int) -> NDArray[np.float32]:
    """Move unit vectors by about ``by`` in a random direction; float32, unit again."""
    noise = np.random.default_rng(seed).standard_normal(vectors.shape)
    noise *= by / np.linalg.norm(noise, axis=1, keepdims=True)
    found = vectors.astype(np.float64) + noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def rankings(vectors: NDArray[np.float32]) -> list[Ranking]:
    tensor, _ = route_set()
    return rank(tensor, vectors, [QuerySpec(3)] * len(vectors))


def test_last_digits_of_a_vector_move_no_decision() -> None:
    """The route stays, and the confidence moves by less than any limit is stated with."""
    _, vectors = route_set()
    plain = rankings(vectors)
    assert {None} != {ranking.best for ranking in plain}
    assert [ranking for ranking in plain if ranking.best is None]
    for seed in range(ROUNDS):
        for one, other in zip(plain, rankings(moved(vectors, 1e-7, seed)), strict=True):
            near, far = one.top[0], other.top[0]
            assert near.confidence is not None
            assert far.confidence is not None
            assert near.route_id == far.route_id
            assert near.slot == far.slot or abs(near.similarity - far.similarity) < 1e-6
            assert abs(near.score - far.score) < 1e-6
            assert abs(near.confidence - far.confidence) < CONFIDENCE_MOVED_MAX
            if abs(near.confidence - near.confidence_min) > CONFIDENCE_MOVED_MAX:
                assert (one.best is None) == (other.best is None)


def test_confidence_moves_with_the_vector_and_not_more() -> None:
    """A hundred times the movement gives about a hundred times the change: nothing jumps."""
    _, vectors = route_set()
    plain = rankings(vectors)
    for by in (1e-6, 1e-5):
        for one, other in zip(plain, rankings(moved(vectors, by, 1)), strict=True):
            sure, again = one.top[0].confidence, other.top[0].confidence
            assert sure is not None
            assert again is not None
            assert abs(sure - again) < CONFIDENCE_MOVED_MAX * by / 1e-7


def test_static_answer_needs_no_vector() -> None:
    """The first stage reads tokens and whole numbers alone, so no CPU gives another answer."""
    encoder, table = distilled()
    _, asked = mixed_things()
    tokens = encoder.tokenize(asked)
    together = table.embed_all(tokens)

    assert together.dtype == np.int8
    for row, own in zip(together, tokens, strict=True):
        assert (table.embed_all([own])[0] == row).all()

"""The first stage answers only when it is sure, independent of the history of its routes."""

from __future__ import annotations

import numpy as np
import pytest

from synaptoroute.cascade.shortlists import SHORTLIST_ROUTES
from synaptoroute.cascade.static_routes import (
    SHORTLIST_ROWS_MAX,
    FirstStageResult,
    MarginGuard,
    StaticRoutes,
)
from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    Mutation,
    PatchRoute,
    Proposal,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
)
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.unit

DIM = 16
ROW = b"\x00" * 8


def route(name: str, *texts: str) -> PutRoute:
    return PutRoute(name, texts, (ROW,) * len(texts))


class World:
    """A table, and the place of its newest entry."""

    def __init__(self) -> None:
        self.table = RouteTable(Settings(threshold=-1.0, capacity_slots=200), dim=2)
        self.at = Revision(1, 0)

    def do(self, mutation: Mutation) -> Change:
        self.at = Revision(1, self.at.seq + 1)
        return self.table.apply(Proposal(self.at.seq.to_bytes(16, "big"), mutation), self.at)


EASY = MarginGuard(margin=0.0, slope=0.0, floor=-1.0, scale=1.0, offset=0.0)


def embedding(text: str) -> np.ndarray:
    """Some int8 row for a text, the same each time."""
    seed = int.from_bytes(text.encode()[:8].ljust(8), "little")
    return np.random.default_rng(seed).integers(-100, 100, DIM).astype(np.int8)


def rows_of(record: RouteRecord) -> np.ndarray:
    return np.stack([embedding(text) for text in record.utterances])


def loaded(world: World) -> StaticRoutes:
    routes = StaticRoutes(DIM, world.table.settings, Revision(1, 1))
    records = tuple(world.table.routes.values())
    routes.load(records, [rows_of(record) for record in records])
    return routes


def evaluate(routes: StaticRoutes, text: str, guard: MarginGuard, limit: int) -> FirstStageResult:
    (found,) = routes.evaluate(embedding(text)[np.newaxis], guard, [limit])
    return found


def brute_force(world: World, query: np.ndarray) -> list[tuple[str, float]]:
    """Every route's ``blend`` by its definition, in float64, highest first."""
    found = []
    unit = query / np.linalg.norm(query.astype(float))
    for name, record in world.table.routes.items():
        rows = rows_of(record).astype(float)
        cosines = rows @ unit / np.linalg.norm(rows, axis=1)
        total = rows.sum(axis=0)
        centroid = np.clip(np.rint(total * (254 / np.linalg.norm(total))), -127, 127)
        found.append((name, (cosines.max() + centroid @ unit / np.linalg.norm(centroid)) / 2))
    return sorted(found, key=lambda each: -each[1])


@pytest.fixture
def world() -> World:
    world = World()
    for name in "abcdefghijkl":
        world.do(route(name, *(f"{name}{number}" for number in range(4))))
    return world


def test_scores_match_the_definition(world: World) -> None:
    """All shortlisted routes are compared; the best route is among them."""
    routes = loaded(world)
    for number in range(20):
        query = embedding(f"query {number}")
        expected = dict(brute_force(world, query))

        scores = routes.route_scores(query)

        assert SHORTLIST_ROUTES == len(scores)
        for score in scores:
            name = routes.record_of(score.route_id).name
            assert expected[name] == pytest.approx(score.score, abs=1e-9)
        assert sorted(-s.score for s in scores) == [-s.score for s in scores]


def test_changed_routes_equal_loaded_routes(world: World) -> None:
    """Routes changed step by step give the same answers as routes loaded at once."""
    routes = loaded(world)
    steps = (
        AddUtterances("a", ("new", "newer"), (ROW, ROW)),
        RemoveUtterances("b", ("b1",)),
        DeleteRoute("c"),
        route("z", "z1", "z2"),
        route("d", "other", "d1"),
        PatchRoute("e", threshold=0.9),
        DeleteRoute("z"),
        route("y", "y1"),
    )
    for step in steps:
        change = world.do(step)
        written = {write.slot: embedding(write.utterance) for write in change.writes}
        routes.apply(change, world.at, written)
        fresh = loaded(world)

        assert dict(fresh.routes) == dict(routes.routes)
        for number in range(5):
            query = embedding(f"query {number}")
            assert list(fresh.route_scores(query)) == list(routes.route_scores(query))


@pytest.mark.parametrize(
    "guard",
    [
        MarginGuard(1.5, 0.0, -1.0, 1.0, 0.0),
        MarginGuard(0.0, 0.0, 1.1, 1.0, 0.0),
        MarginGuard(0.0, 0.0, -1.0, 0.0, -1.5),
    ],
)
def test_unsure_query_is_not_answered(guard: MarginGuard, world: World) -> None:
    """The margin, the floor or the threshold is not reached."""
    world.do(PutSettings(Settings(threshold=-0.9, capacity_slots=200)))
    routes = loaded(world)

    sure = evaluate(routes, "a1", EASY, 1)
    unsure = evaluate(routes, "a1", guard, 1)

    assert sure.is_sure
    assert not unsure.is_sure
    assert unsure.ranking is None
    assert sure.margin == unsure.margin


def test_threshold_of_a_route_applies(world: World) -> None:
    """It is compared in the scale of the encoder."""
    routes = loaded(world)
    best = evaluate(routes, "a1", EASY, 1).ranking
    assert best is not None
    assert best.best is not None
    score = best.best.score
    for threshold, is_sure in ((score - 0.01, True), (min(1.0, score + 0.01), False)):
        routes.apply(world.do(PatchRoute("a", threshold=threshold)), world.at, {})

        assert is_sure == evaluate(routes, "a1", EASY, 1).is_sure


def test_route_with_negatives_is_left_to_the_encoder(world: World) -> None:
    routes = loaded(world)
    assert evaluate(routes, "a1", EASY, 1).is_sure
    patch = PatchRoute("a", negatives=("not this",), negative_vectors=(ROW,))
    routes.apply(world.do(patch), world.at, {})

    assert not evaluate(routes, "a1", EASY, 1).is_sure


def test_required_margin_falls_with_the_score() -> None:
    """It is never negative."""
    guard = MarginGuard(0.3, 0.5, 0.0, 1.0, 0.0)

    assert 0.3 == guard.margin_at(0.0)
    assert 0.1 == pytest.approx(guard.margin_at(0.4))
    assert 0.0 == guard.margin_at(0.9)


def test_encoder_answers_queries_for_more_candidates_than_the_shortlist(world: World) -> None:
    """The first stage did not compare so many routes."""
    routes = loaded(world)

    assert evaluate(routes, "a1", EASY, SHORTLIST_ROUTES).is_sure
    assert not evaluate(routes, "a1", EASY, SHORTLIST_ROUTES + 1).is_sure


def test_single_route_is_never_sure() -> None:
    """There is no second route to compare with."""
    world = World()
    world.do(route("a", "a1", "a2"))

    assert not evaluate(loaded(world), "a1", EASY, 1).is_sure


def test_encoder_answers_when_the_shortlist_has_too_many_rows() -> None:
    """Comparing them would block the caller."""
    routes = StaticRoutes(DIM, Settings(threshold=-1.0), Revision(1, 1))
    count = SHORTLIST_ROWS_MAX // 2 + 1
    texts = [f"{number}" for number in range(2 * count)]
    rows = np.stack([embedding(text) for text in texts])
    records = [
        RouteRecord(
            number,
            f"r{number}",
            tuple(range(number * count, (number + 1) * count)),
            tuple(texts[number * count : (number + 1) * count]),
            None,
            "{}",
            "null",
            Revision(1, 1),
        )
        for number in range(2)
    ]
    routes.load(records, [rows[:count], rows[count:]])

    assert not evaluate(routes, "a1", EASY, 1).is_sure

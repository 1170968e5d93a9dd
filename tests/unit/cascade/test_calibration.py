"""A measured guard holds its conditions, and a route set without one gets none."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from synaptoroute.cascade import (
    Calibration,
    Utterances,
    calibrate,
    is_superseded,
    read_calibration,
    read_projection,
)
from synaptoroute.cascade import leave_one_out as evaluation
from synaptoroute.cascade.calibration import (
    AGREEMENT_MIN,
    SHARE_MIN,
    STRAY_SHARE_MAX,
    is_answered,
)
from synaptoroute.cascade.leave_one_out import leave_one_out, sums_of
from synaptoroute.core.mutation import Calibrate
from synaptoroute.core.validation import check_mutation

pytestmark = pytest.mark.unit

DIM, STATIC_DIM = 32, 64


def route_set(routes: int = 12, each: int = 30, noise: float = 0.5, seed: int = 0) -> Utterances:
    """Routes about their own places; the static view is the encoder's with more noise."""
    random = np.random.default_rng(seed)
    owners = np.repeat(np.arange(routes), each)
    vectors = random.standard_normal((routes, DIM))[owners]
    vectors = vectors + 0.5 * random.standard_normal(vectors.shape)
    static_rows = vectors @ random.standard_normal((DIM, STATIC_DIM)) / np.sqrt(DIM)
    static_rows += noise * random.standard_normal(static_rows.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Utterances(
        vectors.astype(np.float32),
        np.clip(np.rint(static_rows * 30), -127, 127).astype(np.int8),
        owners,
        np.full(routes, 0.5),
        "blend",
    )


def judged(given: Utterances) -> Calibration:
    return calibrate(given, "1.7", "f" * 16, "t" * 16)


@pytest.mark.parametrize("noise", [0.2, 0.6, 1.0, 1.5])
def test_guard_holds_its_conditions_on_the_measured_routes(noise: float) -> None:
    """Agreement, accuracy and out-of-scope answers are counted again."""
    given = route_set(noise=noise)
    found = judged(given)
    ones, strays = leave_one_out(given, np.arange(len(given.owners)))

    assert "" == found.reason
    assert found.guard is not None
    answered = is_answered(ones, found.guard, given.thresholds)
    agrees = (ones.answers == ones.encoders) | (ones.answers == ones.owners)
    wild = is_answered(strays, found.guard, given.thresholds) & (strays.encoders < 0)

    assert found.share == pytest.approx(answered.mean(), abs=1e-4)
    assert answered.mean() >= SHARE_MIN
    assert agrees[answered].mean() >= AGREEMENT_MIN
    assert wild.mean() <= STRAY_SHARE_MAX
    right = (ones.answers == ones.owners)[answered].sum()
    assert right >= (ones.encoders == ones.owners)[answered].sum()


def test_equal_route_sets_give_equal_calibrations() -> None:
    """They are equal bit for bit, so it does not matter which node measures."""
    assert judged(route_set()).dump() == judged(route_set()).dump()


@pytest.mark.parametrize("block", [1, 7, 30, 31, 4_096])
def test_sums_of_routes_do_not_depend_on_the_blocks(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route may be longer than a block, and begin anywhere in it."""
    monkeypatch.setattr(evaluation, "_ROWS_A_BLOCK", block)
    given = route_set()
    lengths = np.array([1, 59, 30, 7, 23, 30, 90, 1, 1, 28, 60, 30])
    given = replace(given, owners=np.repeat(np.arange(12), lengths))
    whole = np.add.reduceat(given.static_rows.astype(np.int64), given.starts, axis=0)
    exact = np.add.reduceat(given.vectors.astype(np.float64), given.starts, axis=0)

    assert (whole == sums_of(given.static_rows, given, np.int64)).all()
    assert (exact == sums_of(given.vectors, given, np.float64)).all()


def test_cascade_is_refused_if_the_stages_disagree() -> None:
    """The static rows know nothing of the routes."""
    given = route_set()
    noise = np.random.default_rng(1).integers(-90, 90, given.static_rows.shape).astype(np.int8)

    found = judged(replace(given, static_rows=noise))

    assert "agreement_not_reached" == found.reason
    assert found.guard is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (route_set(routes=2, each=150), "too_few_utterances"),
        (route_set(routes=12, each=4), "too_few_utterances"),
        (route_set(routes=300, each=1), "too_few_utterances"),
        (replace(route_set(), aggregation="topk"), "aggregation_not_offered"),
    ],
)
def test_cascade_is_refused_if_nothing_can_be_measured(given: Utterances, reason: str) -> None:
    """The calibration names the reason."""
    assert reason == judged(given).reason


def test_calibration_round_trips_through_the_log() -> None:
    """It is canonical JSON that the core accepts."""
    for given in (route_set(), route_set(routes=2)):
        found = judged(given)
        check_mutation(Calibrate(found.dump()), 0)

        assert found == read_calibration(found.dump())


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": 3},
        {"turn": None},
        {"at": "soon"},
        {"at": None},
        {"routes": 0},
        {"routes": "many"},
        {"share": None},
        {"guard": {"margin": 1.0}},
        {"guard": []},
        {"unknown": 1},
    ],
)
def test_unreadable_calibration_is_ignored(change: dict[str, object]) -> None:
    """Fields of a wrong type or version are rejected."""
    fields = {**json.loads(judged(route_set()).dump()), **change}

    assert read_calibration(json.dumps(fields)) is None
    for text in ("", "[]", "null", "{", '{"guard":1e999}'):
        assert read_calibration(text) is None


def test_calibration_contains_its_projection() -> None:
    """It fits the embeddings; it is empty if the cascade stays off."""
    found = judged(route_set())
    turn = read_projection(found.turn, STATIC_DIM)

    assert turn is not None
    assert (STATIC_DIM, STATIC_DIM) == turn.factors.shape
    assert "" == judged(route_set(routes=2)).turn


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"version":1}', True),
        (judged(route_set(routes=2)).dump(), False),
        ('{"version":3}', False),
        ('{"version":"1"}', False),
        ("[]", False),
        ("{}", False),
        ("{", False),
    ],
)
def test_calibration_of_an_earlier_release_is_superseded(text: str, expected: bool) -> None:
    """It is measured again; one of a later release requires an upgrade."""
    assert expected == is_superseded(text)

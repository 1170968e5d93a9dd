"""The confidence of static answers: fitted on judgements, exact and monotone when applied."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from synaptoroute.cascade import Calibration, ConfidenceRule, Utterances, calibrate
from synaptoroute.cascade.calibration import (
    BY_CONFIDENCE,
    STRAY_SHARE_MAX,
    best_guard,
    is_answered,
    read_calibration,
    scored_by,
)
from synaptoroute.cascade.encoder_decisions import with_decisions
from synaptoroute.cascade.leave_one_out import Evaluation, leave_one_out
from synaptoroute.cascade.static_confidence import (
    StaticLevels,
    confidence_of,
    fit_levels,
    fit_odds,
)
from synaptoroute.core.mutation import Aggregation, Calibrate, Settings
from synaptoroute.core.validation import check_mutation
from synaptoroute.decision import fit_decision

pytestmark = pytest.mark.unit

DIM, STATIC_DIM = 32, 64
LEVELS = StaticLevels(20.0, 0.8, 0.1, 0.3, 0.1, 4.0, 0.9, -0.1)


def route_set(how: Aggregation = "adaptive", noise: float = 0.4, least: float = 0.5) -> Utterances:
    """Routes about their own places, with a fit; the static view has more noise."""
    random = np.random.default_rng(3)
    routes, each = 12, 30
    owners = np.repeat(np.arange(routes), each)
    vectors = random.standard_normal((routes, DIM))[owners]
    vectors = vectors + 0.5 * random.standard_normal(vectors.shape)
    static_rows = vectors @ random.standard_normal((DIM, STATIC_DIM)) / np.sqrt(DIM)
    static_rows += noise * random.standard_normal(static_rows.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    numbers = fit_decision(vectors, owners, how)
    assert numbers is not None
    rule = ConfidenceRule(
        numbers,
        np.full(routes, least),
        0.1,
        np.zeros(routes, np.bool_),
        vectors[:0],
        owners[:0],
    )
    return Utterances(
        vectors,
        np.clip(np.rint(static_rows * 30), -127, 127).astype(np.int8),
        owners,
        np.full(routes, -np.inf),
        how,
        rule,
    )


def judged(given: Utterances) -> Calibration:
    return calibrate(given, "1.7", "f" * 16, "t" * 16)


def test_sharpened_confidences_share_one_probability() -> None:
    """The best route gains what the others and none lose; the order stays."""
    shares, p_none = LEVELS.measured([0.8, 0.7, 0.5], 0.1)
    sharp, none = LEVELS.sharpened(shares, p_none)

    assert sum(sharp) + none == pytest.approx(1.0, abs=1e-12)
    assert sharp[0] / (1.0 - sharp[0]) == pytest.approx(4.0 * shares[0] / (1.0 - shares[0]))
    assert shares[0] < sharp[0] < 1.0
    assert sharp == sorted(sharp, reverse=True)
    assert ([1.0, 0.0], 0.0) == LEVELS.sharpened([1.0, 0.0], 0.0)


def test_levels_tell_judged_utterances_from_those_of_left_out_routes() -> None:
    """Temperature and levels are those of the scores."""
    random = np.random.default_rng(0)
    inside = np.sort(random.normal(0.5, 0.05, (300, 6)))[:, ::-1]
    inside[:, 0] = random.normal(0.9, 0.03, 300)
    outside = np.sort(random.normal(0.5, 0.05, (300, 6)))[:, ::-1]

    found = fit_levels(inside, np.zeros(300, np.int64), outside, (1.0, 0.0))

    assert found.is_sound
    assert found.outside_mean < found.inside_mean
    assert confidence_of(inside, found, 0.1).mean() > 0.9
    assert confidence_of(outside, found, 0.1).mean() < 0.1


def test_odds_make_the_mean_confidence_the_share_of_right_answers() -> None:
    """One wrong answer more is assumed than was seen."""
    sure = np.linspace(0.6, 0.95, 400)
    right = np.arange(400) % 50 != 0

    odds = fit_odds(sure, right, np.zeros(0))

    lifted = odds * sure / (1.0 - sure)
    assert (lifted / (1.0 + lifted)).sum() == pytest.approx(right.sum() - 1, abs=0.01)
    assert fit_odds(sure, right, np.full(200, 0.9)) < odds


@pytest.mark.parametrize("how", ["adaptive", "blend", "max"])
def test_guard_holds_its_conditions_where_the_confidence_decides(how: Aggregation) -> None:
    """Agreement, gain, strays and least confidence are counted again."""
    given = route_set(how)
    found = judged(given)
    assert found.guard is not None
    assert found.levels is not None
    assert how == found.scored
    inside, outside = leave_one_out(given, np.arange(len(given.owners)))
    inside, outside, _ = with_decisions(given, inside, outside)
    open_to_all = np.full(len(given.thresholds), -np.inf)
    sure = confidence_of(inside.listed, found.levels, 0.1) >= 0.5
    stray_sure = confidence_of(outside.listed, found.levels, 0.1) >= 0.5
    answered = is_answered(inside, found.guard, open_to_all) & sure
    strays = is_answered(outside, found.guard, open_to_all) & stray_sure
    agrees = (inside.answers == inside.encoders) | (inside.answers == inside.owners)

    assert found.share == pytest.approx(answered.mean(), abs=1e-4)
    assert agrees[answered].mean() >= 0.99
    assert (strays & (outside.encoders < 0)).mean() <= STRAY_SHARE_MAX
    right = (inside.answers == inside.owners)[answered].sum()
    assert right >= (inside.encoders == inside.owners)[answered].sum()
    assert found == judged(route_set(how))


def evaluation(scores: np.ndarray, margins: np.ndarray, answers: np.ndarray) -> Evaluation:
    """Utterances of route 0; the encoder answers none of them."""
    count, listed = len(scores), np.stack([scores, scores - margins], axis=1)
    own, none = np.zeros(count, np.int64), np.full(count, -1)
    return Evaluation(
        answers, scores, margins, none, scores, own, np.arange(count), listed, answers
    )


def test_required_margin_may_fall_steeply_with_the_score() -> None:
    """A high score with a small lead is as sure as a lower one with a large lead."""
    random = np.random.default_rng(0)
    scores, margins = random.uniform(0.5, 0.9, 2_000), random.uniform(0.0, 0.3, 2_000)
    is_safe = margins + 2.0 * scores >= 1.6
    inside = evaluation(scores, margins, np.where(is_safe, 0, 1))
    outside = evaluation(scores[~is_safe], margins[~is_safe], np.ones((~is_safe).sum(), np.int64))

    found = best_guard(inside, outside, np.full(2, -np.inf), BY_CONFIDENCE)

    assert found is not None
    guard, answered = found
    assert guard.slope == 2.0
    assert answered.sum() >= is_safe.sum()
    assert is_answered(outside, guard, np.full(2, -np.inf)).mean() <= STRAY_SHARE_MAX


def test_few_of_many_answers_disagree() -> None:
    """Of many answers the bound with a reserve would allow more."""
    count = 8_000
    scores, margins = np.linspace(0.9, 0.8, count), np.linspace(0.3, 0.1, count)
    is_wrong = (np.arange(count) > count // 2) & (np.arange(count) % 70 == 0)
    inside = evaluation(scores, margins, np.where(is_wrong, 1, 0))
    outside = evaluation(np.zeros(8), np.zeros(8), np.ones(8, np.int64))

    found = best_guard(inside, outside, np.full(2, -np.inf), BY_CONFIDENCE)

    assert found is not None
    _, answered = found
    assert count // 2 < answered.sum() < count
    assert is_wrong[answered].mean() <= BY_CONFIDENCE.disagreement_share_max


def test_encoder_is_judged_by_scores_and_confidence() -> None:
    """Without limits its answers are its best routes, as where thresholds decide."""
    given = route_set("blend", least=0.0)
    every = np.arange(len(given.owners))
    plain = leave_one_out(replace(given, rule=None), every)
    found = with_decisions(given, *leave_one_out(given, every))

    for own, other in zip(plain, found[:2], strict=True):
        assert (own.encoders == other.encoders).all()
        assert own.expected == pytest.approx(other.expected)
    strict = route_set("blend", least=1.0)
    assert (-1 == with_decisions(strict, *leave_one_out(strict, every))[0].encoders).all()


@pytest.mark.parametrize(
    "change",
    [
        {"least": 1.0},
        {"negatives": True},
        {"threshold": 1.1},
    ],
)
def test_nothing_is_settled_where_no_route_may_be(change: dict[str, object]) -> None:
    """No confidence suffices, or only the encoder compares negatives and scores."""
    given = route_set(least=1.0 if "least" in change else 0.5)
    assert given.rule is not None
    if "negatives" in change:
        given = replace(given, rule=replace(given.rule, has_negatives=np.ones(12, np.bool_)))
    if "threshold" in change:
        given = replace(given, thresholds=np.full(12, 1.1))

    assert "agreement_not_reached" == judged(given).reason


def test_calibration_with_levels_round_trips_through_the_log() -> None:
    """Damage of any kind makes it unreadable; one by thresholds keeps its bytes."""
    found = judged(route_set())
    check_mutation(Calibrate(found.dump()), 0)
    assert found == read_calibration(found.dump())
    plain = judged(replace(route_set("blend"), rule=None))
    assert '"version":2' in plain.dump()
    assert "levels" not in plain.dump()
    assert plain == read_calibration(plain.dump())
    for old, new in (
        ('"scored":"adaptive"', '"scored":""'),
        ('"scored":"adaptive"', '"scored":7'),
        ('"temperature":', '"heat":'),
        ('"version":3', '"version":2'),
        ('"version":3', '"version":5'),
        ('"odds":', '"odds":-'),
    ):
        assert old in found.dump()
        assert read_calibration(found.dump().replace(old, new)) is None


def test_score_that_decides_is_named() -> None:
    """Empty where thresholds alone decide."""
    given = route_set()
    assert given.rule is not None
    numbers = given.rule.numbers
    adaptive = Settings(aggregation="adaptive", threshold=None)

    assert "" == scored_by(Settings(), numbers)
    assert "" == scored_by(adaptive, None)
    assert "adaptive" == scored_by(adaptive, numbers)
    assert "blend" == scored_by(adaptive, replace(numbers, weights=None))
    assert "max" == scored_by(Settings(aggregation="max", confidence_min=0.5), numbers)
    assert LEVELS.least_blended(math.inf) == 1.0


def test_descriptions_count_as_examples_of_their_routes() -> None:
    """The encoder compares them; they are not judged."""
    given = route_set()
    assert given.rule is not None
    every = np.arange(len(given.owners))
    before = with_decisions(given, *leave_one_out(given, every))
    rule = replace(
        given.rule, descriptions=given.vectors[::30].copy(), described=given.owners[::30].copy()
    )
    given = replace(given, rule=rule)
    after = with_decisions(given, *leave_one_out(given, every))

    assert len(after[0].owners) == len(every)
    firsts = np.isin(after[0].rows, np.arange(0, len(every), 30))
    same = after[0].answers == after[0].owners
    # A description that equals an utterance stands in for it when it is left out.
    assert (after[0].expected > before[0].expected)[firsts & same].all()

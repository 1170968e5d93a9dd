"""Calibration: measures on the route set how sure the first stage must be.

Every utterance is evaluated by both stages as if it were a query (``leave_one_out``).  Of all
guards tried, the one that answers most is chosen among those that hold three conditions:

1. Of the queries that it answers, ``AGREEMENT_MIN`` get the route that the encoder gives, or
   the one that they belong to.
2. Among them the first stage is right at least as often as the encoder.
3. Of out-of-scope queries, at most ``STRAY_SHARE_MAX`` are answered where the encoder answers
   none.

If no guard holds them at a useful share, the cascade stays off and says why.  The projection
of the embeddings is fitted here too, and travels with the calibration.

Where the confidence decides, the conditions are stricter (``BY_CONFIDENCE``), and an answer needs
the confidence of its route.  The numbers behind that confidence (``static_confidence``) travel
with the calibration, in a version of its own: earlier releases cannot read it and ask the
encoder.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade.encoder_decisions import with_decisions
from synaptoroute.cascade.lda_projection import fit_projection
from synaptoroute.cascade.leave_one_out import (
    OFFERED,
    ConfidenceRule,
    Evaluation,
    Utterances,
    leave_one_out,
)
from synaptoroute.cascade.route_counts import (
    ROUTES_MIN,
    UTTERANCES_A_ROUTE_MIN,
    UTTERANCES_MAX,
    UTTERANCES_MIN,
)
from synaptoroute.cascade.static_confidence import (
    DEVIATIONS_BELOW,
    StaticLevels,
    confidence_of,
    fit_levels,
    fit_odds,
)
from synaptoroute.cascade.static_routes import MarginGuard
from synaptoroute.core.mutation import Aggregation, Settings
from synaptoroute.decision import DecisionCalibration
from synaptoroute.threads import single_blas_thread

Float64s: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

AGREEMENT_MIN: Final = 0.99
STRAY_SHARE_MAX: Final = 0.005
SHARE_MIN: Final = 0.05
EVALUATED_MAX: Final = 4_096
_ANSWERS_MIN: Final = 50
_MANY_ANSWERS: Final = 1_000
_DIGITS: Final = 6
_VERSION: Final = 2
_CONFIDENT_VERSION: Final = 3
_BY_ROUTE_VERSION: Final = 4  # Releases before level 5 of the log cannot read it
DEVIATIONS: Final = 2.0
"""Standard deviations added to a count of disagreements."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Limits of the search for a guard.

    Attributes:
        disagreement_share_max: Share of the answers that may disagree, of ``_MANY_ANSWERS`` and
            more.  The bound with a reserve is loose there; of fewer answers it is the stricter.
        gain_deviations: Deviations of the difference to the encoder by which the first stage
            must be right more often.
        floor_shares: Shares of the judged utterances below the floors that are tried.
        slopes: Slopes of the guard that are tried.
    """

    disagreement_share_max: float
    gain_deviations: float
    floor_shares: tuple[float, ...]
    slopes: tuple[float, ...]


_SLOPES: Final = (0.0, 0.1, 0.2, 0.35, 0.5)
_STEEP_SLOPES: Final = (0.75, 1.0, 1.5, 2.0, 3.0)
BY_THRESHOLD: Final = Conditions(
    1.0 - AGREEMENT_MIN, 0.0, tuple(step / 20 for step in range(19)), _SLOPES
)
# No floor below most utterances: a text of another world has a low score, and may lead.
BY_CONFIDENCE: Final = Conditions(
    0.004, 1.0, tuple(step / 20 for step in range(2, 19)), _SLOPES + _STEEP_SLOPES
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measurement, as every node of a cluster reads it from the log.

    The names of the fields are those of the JSON in the log.

    Attributes:
        at: ``epoch.seq`` of the measured route set.
        reason: Why the cascade is off; empty if it is on.
        guard: The conditions of a sure answer; None if it is off.
        share: Share of the evaluated queries that the first stage answers.
        agreement: Share of these on which the encoder or the utterance's own route agrees.
        strays: Share of out-of-scope queries that it answers although the encoder does not.
        turn: The projection, as ``LdaProjection.dump`` writes it; empty if it is off.
        scored: How the encoder scored the routes where the confidence decided; else empty.
        levels: Behind the confidence of static answers; None where thresholds alone decide.
        is_by_route: Whether routes that changed since are left to the encoder, and the others
            answered; else many changes together suspend all of it.
    """

    at: str
    fingerprint: str
    table: str
    routes: int
    reason: str
    guard: MarginGuard | None = None
    share: float = 0.0
    agreement: float = 0.0
    strays: float = 0.0
    turn: str = ""
    scored: str = ""
    levels: StaticLevels | None = None
    is_by_route: bool = False

    def dump(self) -> str:
        version = _CONFIDENT_VERSION if self.scored else _VERSION
        fields = {"version": _BY_ROUTE_VERSION if self.is_by_route else version, **asdict(self)}
        del fields["is_by_route"]
        if not self.scored and not self.is_by_route:
            del fields["scored"], fields["levels"]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def read_calibration(text: str) -> Calibration | None:
    """Read what ``dump`` wrote; None if this release cannot read it."""
    try:
        fields: dict[str, Any] = json.loads(text)
        version = fields.pop("version")
        if version not in (_VERSION, _CONFIDENT_VERSION, _BY_ROUTE_VERSION):
            return None
        guard, levels = fields.pop("guard"), None
        if version != _VERSION:
            levels = fields.pop("levels")
            is_confident = bool(fields["scored"])
            if not is_confident and version == _CONFIDENT_VERSION:
                return None
            if (levels is not None) != (is_confident and guard is not None):
                return None
        elif not fields.keys().isdisjoint(("scored", "levels")):
            return None
        found = Calibration(
            guard=None if guard is None else MarginGuard(**guard),
            levels=None if levels is None else StaticLevels(**levels),
            is_by_route=version == _BY_ROUTE_VERSION,
            **fields,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if _is_sound(found) else None


def is_superseded(text: str) -> bool:
    """Whether an earlier release measured it, with another first stage."""
    try:
        version = json.loads(text)["version"]
    except (ValueError, TypeError, KeyError):
        return False
    return isinstance(version, int) and version < _VERSION


def _is_sound(found: Calibration) -> bool:
    """Whether every field has the right type: the log is external input."""
    texts = (found.at, found.fingerprint, found.table, found.reason, found.turn, found.scored)
    numbers = [found.share, found.agreement, found.strays]
    if found.guard is not None:
        numbers += asdict(found.guard).values()
    return (
        all(isinstance(text, str) for text in texts)
        and re.fullmatch(r"[0-9]{1,15}\.[0-9]{1,15}", found.at) is not None
        and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        and isinstance(found.routes, int)
        and found.routes > 0
        and (found.levels is None or found.levels.is_sound)
    )


def scored_by(settings: Settings, numbers: DecisionCalibration | None) -> Aggregation | Literal[""]:
    """Name the score that the confidence is made of; empty where thresholds alone decide."""
    is_adaptive = settings.aggregation == "adaptive"
    if numbers is None or not (is_adaptive or settings.confidence_min):
        return ""
    return "blend" if is_adaptive and numbers.weights is None else settings.aggregation


def is_offered(aggregation: Aggregation, scored: str) -> bool:
    """Whether routes can be measured by an aggregation, with what ``scored_by`` says of it."""
    return aggregation in (OFFERED if not scored else (*OFFERED, "adaptive"))


@single_blas_thread()
def calibrate(
    given: Utterances, at: str, fingerprint: str, table: str, *, is_by_route: bool = False
) -> Calibration:
    """Evaluate a route set and choose the guard; equal inputs give equal guards.

    Args:
        is_by_route: For a log that only releases follow that read it; see ``Calibration``.
    """
    routes = len(given.thresholds)
    scored = "" if given.rule is None else given.aggregation

    def off(reason: str) -> Calibration:
        return Calibration(
            at, fingerprint, table, routes, reason, scored=scored, is_by_route=is_by_route
        )

    if not is_offered(given.aggregation, scored):
        return off("aggregation_not_offered")
    if len(given.owners) > UTTERANCES_MAX:
        return off("too_many_utterances")
    eligible_rows = np.flatnonzero(given.counts[given.owners] > 1)
    if routes < ROUTES_MIN or len(eligible_rows) < max(
        UTTERANCES_MIN, UTTERANCES_A_ROUTE_MIN * routes
    ):
        return off("too_few_utterances")
    chosen = eligible_rows[_spread(len(eligible_rows), EVALUATED_MAX)]
    in_scope, out_of_scope = leave_one_out(given, chosen)
    levels, thresholds, conditions = None, given.thresholds, BY_THRESHOLD
    if given.rule is not None:
        in_scope, out_of_scope, levels = _judged_by_confidence(
            given, given.rule, in_scope, out_of_scope
        )
        thresholds, conditions = np.full(routes, -np.inf), BY_CONFIDENCE
    found = best_guard(in_scope, out_of_scope, thresholds, conditions)
    if found is None:
        return off("agreement_not_reached")
    guard, answered = found
    if levels is not None and given.rule is not None:
        strays = is_answered(out_of_scope, guard, thresholds)
        share = given.rule.unmatched_share
        odds = fit_odds(
            confidence_of(in_scope.listed[answered], levels, share),
            (in_scope.answers == in_scope.owners)[answered],
            confidence_of(out_of_scope.listed[strays], levels, share),
        )
        levels = replace(levels, odds=odds)
    agrees = _agrees(in_scope)
    return Calibration(
        at,
        fingerprint,
        table,
        routes,
        "",
        guard,
        share=round(float(answered.mean()), 4),
        agreement=round(float(agrees[answered].mean()), 4),
        strays=round(float(_wrongly_answered(out_of_scope, guard, thresholds).mean()), 4),
        turn=fit_projection(given.static_rows, given.owners).dump(),
        scored=scored,
        levels=levels,
        is_by_route=is_by_route,
    )


def _judged_by_confidence(
    given: Utterances, rule: ConfidenceRule, in_scope: Evaluation, out_of_scope: Evaluation
) -> tuple[Evaluation, Evaluation, StaticLevels]:
    """Evaluate the encoder, fit the confidence, and give what may not pass a margin of zero."""
    in_scope, out_of_scope, blended = with_decisions(given, in_scope, out_of_scope)
    scale, offset = _line(in_scope.scores, blended)
    spread = float(np.std(blended - scale * in_scope.scores - offset))
    lowered = round(offset - DEVIATIONS_BELOW * spread, _DIGITS)
    levels = fit_levels(in_scope.listed, in_scope.places, out_of_scope.listed, (scale, lowered))

    def eligible(found: Evaluation) -> Evaluation:
        sure = confidence_of(found.listed, levels, rule.unmatched_share)
        passes = sure >= rule.confidence_mins[found.answers]
        passes &= scale * found.scores + lowered >= given.thresholds[found.answers]
        passes &= ~rule.has_negatives[found.answers]
        # A tie is never sure.
        return replace(found, margins=np.where(passes, found.margins, 0.0))

    return eligible(in_scope), eligible(out_of_scope), levels


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Choose at most ``most`` places, evenly spread."""
    if count <= most:
        return np.arange(count)
    return np.arange(most) * count // most


def _agrees(in_scope: Evaluation) -> Mask:
    """Whether the first stage gives the encoder's route, or the utterance's own."""
    return np.asarray(
        (in_scope.answers == in_scope.encoders) | (in_scope.answers == in_scope.owners)
    )


def is_answered(found: Evaluation, guard: MarginGuard, thresholds: Float64s) -> Mask:
    """Find the utterances that the first stage would answer."""
    needed = np.maximum(0.0, guard.margin - guard.slope * found.scores)
    expected = guard.offset + guard.scale * found.scores
    passes = np.clip(expected, -1.0, 1.0) >= thresholds[found.answers]
    leads = (found.margins > 0.0) & (found.margins >= needed)
    return np.asarray(leads & (found.scores >= guard.floor) & passes)


def _wrongly_answered(out_of_scope: Evaluation, guard: MarginGuard, thresholds: Float64s) -> Mask:
    return is_answered(out_of_scope, guard, thresholds) & (out_of_scope.encoders < 0)


def _fit_line(in_scope: Evaluation, out_of_scope: Evaluation) -> tuple[float, float]:
    """Fit the encoder's score to that of the first stage: scale and offset."""
    return _line(
        np.concatenate([in_scope.scores, out_of_scope.scores]),
        np.concatenate([in_scope.expected, out_of_scope.expected]),
    )


def _line(x: Float64s, y: Float64s) -> tuple[float, float]:
    """Fit a line that does not fall: scale and offset."""
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    spread = float(np.var(x))
    if spread <= 0.0:
        return 0.0, round(float(y.mean()), _DIGITS)
    scale = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread
    # A negative scale would make a better static score mean a worse one of the encoder.
    scale = round(max(scale, 0.0), _DIGITS)
    return scale, round(float(y.mean() - scale * x.mean()), _DIGITS)


def best_guard(
    in_scope: Evaluation, out_of_scope: Evaluation, thresholds: Float64s, conditions: Conditions
) -> tuple[MarginGuard, Mask] | None:
    """Find the guard that answers most within the conditions, and what it answers."""
    scale, offset = _fit_line(in_scope, out_of_scope)
    floors = set(np.quantile(in_scope.scores, conditions.floor_shares).tolist())
    if conditions is BY_THRESHOLD:
        floors.add(0.0)
    best: tuple[MarginGuard, Mask] | None = None
    most = max(_ANSWERS_MIN, math.ceil(SHARE_MIN * len(in_scope.owners)))
    for slope in conditions.slopes:
        for floor in sorted(floors):
            # A margin of -2 lets every query pass that reaches the floor.
            lenient = MarginGuard(-2.0, slope, round(max(0.0, floor), _DIGITS), scale, offset)
            margin = _least_margin(in_scope, out_of_scope, lenient, thresholds, conditions)
            if margin is None:
                continue
            # Evaluated again with the rounded numbers: these are what every node will read.
            guard = MarginGuard(margin, slope, lenient.floor, scale, offset)
            answered = is_answered(in_scope, guard, thresholds)
            count = int(answered.sum())
            if count >= most and _holds(in_scope, out_of_scope, guard, answered, thresholds):
                best, most = (guard, answered), count + 1
    return best


def _least_margin(
    in_scope: Evaluation,
    out_of_scope: Evaluation,
    lenient: MarginGuard,
    thresholds: Float64s,
    conditions: Conditions,
) -> float | None:
    """Find the least margin that holds the conditions at a slope and a floor; rounded up."""
    eligible = np.flatnonzero(is_answered(in_scope, lenient, thresholds))
    sums = in_scope.margins[eligible] + lenient.slope * in_scope.scores[eligible]
    # Lowering the margin lets more queries in, in the order of these sums: one pass over the
    # sorted sums evaluates every margin.
    order = np.argsort(-sums, kind="stable")
    sums, eligible = sums[order], eligible[order]
    counts = np.arange(1, len(sums) + 1)
    wrong = np.cumsum((~_agrees(in_scope)[eligible]).astype(np.int64))
    own, answers = in_scope.owners[eligible], in_scope.answers[eligible]
    differs = (answers == own).astype(np.int64) - (in_scope.encoders[eligible] == own)
    gain, least = np.cumsum(differs), conditions.gain_deviations
    reserve = least * np.sqrt(np.cumsum(np.abs(differs)))
    wrongly = _wrongly_answered(out_of_scope, lenient, thresholds)
    wrong_sums = np.sort(
        out_of_scope.margins[wrongly] + lenient.slope * out_of_scope.scores[wrongly]
    )
    wrong_counts = len(wrong_sums) - np.searchsorted(wrong_sums, sums, "left")
    holds = (_at_most(wrong) <= (1.0 - AGREEMENT_MIN) * counts) & (gain >= reserve)
    holds &= wrong <= conditions.disagreement_share_max * np.maximum(counts, _MANY_ANSWERS)
    holds &= wrong_counts <= STRAY_SHARE_MAX * len(out_of_scope.owners)
    # The conditions may fail at a high margin and hold at a lower one: take the lowest.
    last = np.flatnonzero(holds)
    if len(last) == 0:
        return None
    return math.ceil(float(sums[last[-1]]) * 10**_DIGITS) / 10**_DIGITS


def _at_most(counted: NDArray[np.int64]) -> Float64s:
    """Upper bound of a count: of the many guards tried, some look good by chance."""
    return np.asarray(counted + DEVIATIONS * np.sqrt(counted))


def _holds(
    in_scope: Evaluation,
    out_of_scope: Evaluation,
    guard: MarginGuard,
    answered: Mask,
    thresholds: Float64s,
) -> bool:
    agreement = float(_agrees(in_scope)[answered].mean())
    right = (in_scope.answers == in_scope.owners)[answered].sum()
    encoder_right = (in_scope.encoders == in_scope.owners)[answered].sum()
    wrong_share = float(_wrongly_answered(out_of_scope, guard, thresholds).mean())
    is_safe = wrong_share <= STRAY_SHARE_MAX and bool(right >= encoder_right)
    return agreement >= AGREEMENT_MIN and is_safe

"""Thresholds fitted to labelled queries, so that they help and cannot hurt.

Rule 1: a route without labelled queries keeps the threshold it has, to the digit.
Rule 2: what is not better in cross-validation is not proposed.  Rule 3: a route's own
threshold is drawn towards the default by its number of queries, n / (n + SHRINK_COUNT).
Rule 4: no threshold is raised above what half of the queries that its route should win
still reach: calibration can never switch a route off.

A fitted value is one that gives the most right answers; of several runs of such values
the one nearest to the present threshold, and in it the present one or the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypeAlias

SHRINK_COUNT: Final = 10
ROUTE_QUERIES_MIN: Final = 5
"""A route with fewer labelled queries follows the default."""
FOLDS: Final = 5
DIGITS: Final = 3
EDGE: Final = 0.02
"""How far beyond the last score a threshold is put where nothing bounds it."""
KEPT_SHARE_MIN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Ranked:
    """One labelled query and how the routes stand for it.

    Attributes:
        expected: The right route, or None.
        scores: (route, score), best first, thresholds apart.
    """

    expected: str | None
    scores: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of a set of routes.

    Attributes:
        default: For routes without one of their own.
        own: Own thresholds by route.
    """

    default: float
    own: Mapping[str, float] = field(default_factory=dict)

    def of(self, route: str) -> float:
        """The threshold that holds for a route."""
        return self.own.get(route, self.default)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibration proposes.

    Attributes:
        before: Thresholds as they are.
        after: Thresholds as proposed; equal to ``before`` where nothing was better.
        accuracy_before: Share of right answers now.
        accuracy_after: The same with the proposal, on the queries it was fitted to.
        held_out_after: Share of right answers on queries that were left out of the fit.
        queries_by_route: Labelled queries of each route.
        warnings: What a person should know.
    """

    before: Thresholds
    after: Thresholds
    accuracy_before: float
    accuracy_after: float
    held_out_after: float
    queries_by_route: Mapping[str, int]
    warnings: tuple[str, ...] = ()


def decide(query: Ranked, thresholds: Thresholds) -> str | None:
    """Answer as the router does: the best route that reaches its threshold."""
    return next((name for name, score in query.scores if score >= thresholds.of(name)), None)


def accuracy(queries: Sequence[Ranked], thresholds: Thresholds) -> float:
    """Share of right answers."""
    right = sum(decide(query, thresholds) == query.expected for query in queries)
    return right / len(queries)


def calibrate(queries: Sequence[Ranked], routes: Sequence[str], before: Thresholds) -> Calibration:
    """Fit thresholds: the present ones, a new default, or a default and own ones.

    The three are compared on queries that were left out of the fit, and the simplest
    of the best is proposed, fitted to all queries.

    Args:
        queries: Labelled queries, at least one.
        routes: Names of all routes.
        before: Thresholds as they are.
    """
    now = accuracy(queries, before)
    candidates = (_fit_default, _fit_routes)
    held_out = [_cross_validate(queries, routes, before, fit) for fit in candidates]
    after, held_out_after = before, now
    for fit, share in zip(candidates, held_out, strict=True):
        if share > held_out_after:
            after, held_out_after = fit(queries, routes, before), share
    if accuracy(queries, after) < now:
        after, held_out_after = before, now
    return Calibration(
        before=before,
        after=after,
        accuracy_before=now,
        accuracy_after=accuracy(queries, after),
        held_out_after=held_out_after,
        queries_by_route=_counts(queries, routes),
        warnings=tuple(_warnings(queries, routes)),
    )


def _cross_validate(
    queries: Sequence[Ranked], routes: Sequence[str], before: Thresholds, fit: _Fit
) -> float:
    """Share of right answers on queries that were left out of the fit."""
    fold_of = _folds(queries)
    right = 0
    for fold in range(FOLDS):
        seen = [query for query, its in zip(queries, fold_of, strict=True) if its != fold]
        left = [query for query, its in zip(queries, fold_of, strict=True) if its == fold]
        if seen and left:
            right += round(accuracy(left, fit(seen, routes, before)) * len(left))
    return right / len(queries)


def _folds(queries: Sequence[Ranked]) -> list[int]:
    """Spread each route's queries evenly, in the order of the file."""
    seen: dict[str | None, int] = {}
    folds = []
    for query in queries:
        place = seen[query.expected] = seen.get(query.expected, -1) + 1
        folds.append(place % FOLDS)
    return folds


def _fit_default(
    queries: Sequence[Ranked], routes: Sequence[str], before: Thresholds
) -> Thresholds:
    """Fit the default; own thresholds stay."""
    turns = []
    for query in queries:
        kept = [name for name, score in query.scores if score >= before.own.get(name, 2.0)]
        led = next(((name, score) for name, score in query.scores if name not in before.own), None)
        if led is not None and not _outranks(query, kept, led[0]):
            turns.append(_turn(query, led, kept[0] if kept else None))
    default = _best(turns, before.default)
    return _guard(queries, routes, before, Thresholds(default, before.own))


def _fit_routes(queries: Sequence[Ranked], routes: Sequence[str], before: Thresholds) -> Thresholds:
    """Fit the default, then an own threshold for each route with enough queries."""
    start = _fit_default(queries, routes, before)
    own = dict(start.own)
    for route, count in _counts(queries, routes).items():
        if count < ROUTE_QUERIES_MIN:
            continue
        fitted = _best(list(_route_turns(queries, route, start)), start.of(route))
        weight = count / (count + SHRINK_COUNT)
        value = round(weight * fitted + (1 - weight) * start.default, DIGITS)
        if value == start.default:
            own.pop(route, None)
        else:
            own[route] = value
    return _guard(queries, routes, before, Thresholds(start.default, own))


def _route_turns(
    queries: Sequence[Ranked], route: str, thresholds: Thresholds
) -> Iterator[tuple[float, int]]:
    """The queries that one route's threshold decides."""
    for query in queries:
        score = dict(query.scores).get(route)
        others = [name for name, at in query.scores if name != route and at >= thresholds.of(name)]
        if score is not None and not _outranks(query, others, route):
            yield _turn(query, (route, score), others[0] if others else None)


def _outranks(query: Ranked, names: Sequence[str], route: str) -> bool:
    """Whether the first of ``names``, in order of score, stands before a route."""
    order = [name for name, _ in query.scores]
    return bool(names) and order.index(names[0]) < order.index(route)


def _turn(query: Ranked, led: tuple[str, float], otherwise: str | None) -> tuple[float, int]:
    """The score at which a query turns, and what is gained when it passes: 1, 0 or -1."""
    return led[1], (led[0] == query.expected) - (otherwise == query.expected)


def _best(turns: Sequence[tuple[float, int]], present: float) -> float:
    """Give the threshold with most right answers that is nearest to the present one."""
    gain_by_score: dict[float, int] = {}
    for score, gain in turns:
        if gain:
            gain_by_score[score] = gain_by_score.get(score, 0) + gain
    scores = sorted(gain_by_score, reverse=True)
    gains = list(accumulate((gain_by_score[score] for score in scores), initial=0))
    # Thresholds above scores[i] and up to scores[i - 1] all gain gains[i].
    lows, highs = [*scores, -math.inf], [math.inf, *scores]
    runs = [run for *run, gain in zip(lows, highs, gains, strict=True) if gain == max(gains)]
    if any(low < present <= high for low, high in runs):
        return present
    low, high = min(runs, key=lambda run: min(abs(present - run[0]), abs(present - run[1])))
    middle = (max(low, high - 2 * EDGE) + min(high, low + 2 * EDGE)) / 2
    return max(-1.0, min(1.0, round(middle, DIGITS)))


def _guard(
    queries: Sequence[Ranked], routes: Sequence[str], before: Thresholds, after: Thresholds
) -> Thresholds:
    """Keep what nobody labelled, and let no threshold switch a route off."""
    counts = _counts(queries, routes)
    own = dict(after.own)
    for route in routes:
        was, now = before.of(route), after.of(route)
        if not counts[route]:
            now = was
        elif now > was:
            now = min(now, max(was, _cap(queries, route)))
        if now != after.of(route):
            own[route] = now
    return Thresholds(after.default, own)


def _cap(queries: Sequence[Ranked], route: str) -> float:
    """The threshold that still admits half of the queries that a route should win."""
    won = sorted(
        (
            query.scores[0][1]
            for query in queries
            if query.expected == route and query.scores and query.scores[0][0] == route
        ),
        reverse=True,
    )
    if not won:
        return -1.0
    kept = won[max(0, math.ceil(KEPT_SHARE_MIN * len(won)) - 1)]
    return math.floor(kept * 10**DIGITS) / 10**DIGITS


def _counts(queries: Sequence[Ranked], routes: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(routes, 0)
    for query in queries:
        if query.expected is not None:
            counts[query.expected] = counts.get(query.expected, 0) + 1
    return counts


def _warnings(queries: Sequence[Ranked], routes: Sequence[str]) -> Iterator[str]:
    if not any(query.expected is None for query in queries):
        yield "no query belongs to no route: nothing shows when a threshold is too low"
    silent = sum(not count for count in _counts(queries, routes).values())
    if silent:
        yield f"{silent} routes have no labelled query and keep their thresholds"


_Fit: TypeAlias = Callable[[Sequence[Ranked], Sequence[str], Thresholds], Thresholds]

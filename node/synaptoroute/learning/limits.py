"""Limits of acceptance fitted to labelled queries: thresholds, or least confidences.

Rule 1: a route without labelled queries keeps its limit exactly.
Rule 2: limits are proposed only if they are better on the labelled queries and not worse in
cross-validation; both gains are reported.
Rule 3: a route's own limit is shrunk towards the default; its weight is n / (n + SHRINK_COUNT)
for n labelled queries.
Rule 4: no limit is raised above the value that half of the queries of its route reach, so that
calibration never switches a route off.

Usually whole intervals of limits are best; the interval nearest to the present limit is taken,
and in it the present limit, or else the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypeAlias

from synaptoroute.learning.curves import Judged, point_at
from synaptoroute.learning.objectives import Objective, Rewards, best_limit, rewards_for

SHRINK_COUNT: Final = 10
ROUTE_QUERIES_MIN: Final = 5
"""A route with fewer labelled queries uses the default limit."""
FOLDS: Final = 5
DIGITS: Final = 3
EDGE: Final = 0.02
"""Distance beyond the last value for a limit that nothing else bounds."""
KEPT_SHARE_MIN: Final = 0.5
SCORE_MIN: Final = -1.0
CONFIDENCE_MIN: Final = 0.0
_ABOVE_ALL: Final = 2.0


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """One labelled query and the values of routes in order of rank, refused ones too."""

    expected: str | None
    scores: tuple[tuple[str, float], ...]

    @property
    def judged(self) -> Judged:
        """Its best route."""
        best, value = self.scores[0] if self.scores else (None, SCORE_MIN)
        return Judged(self.expected, best, value)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits of a set of routes."""

    default: float
    own: Mapping[str, float] = field(default_factory=dict)

    def of(self, route: str) -> float:
        return self.own.get(route, self.default)


@dataclass(frozen=True, slots=True)
class Tried:
    """Limits that were fitted, and what they give."""

    name: str  # ``default``, or ``routes`` if routes got limits of their own
    limits: Thresholds
    right: int  # Labelled queries with the right outcome
    held_out_right: int  # The same, each judged by limits that were fitted without it
    gained: int  # Held-out queries that are right now and were not
    lost: int  # Held-out queries that were right and are not
    is_better: bool  # By the objective, on the labelled queries
    is_proposed: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result; ``after`` equals ``before`` if nothing was better."""

    before: Thresholds
    after: Thresholds
    accuracy_before: float
    accuracy_after: float
    held_out_after: float
    queries_by_route: Mapping[str, int]
    count: int
    right_before: int
    tried: tuple[Tried, ...]
    objective: Objective
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Task:
    """One fitting of limits: its queries, routes and objective."""

    queries: Sequence[RankedQuery]
    routes: Sequence[str]
    before: Thresholds
    objective: Objective
    lowest: float  # The lowest limit there is
    rewards: Rewards

    def on(self, queries: Sequence[RankedQuery]) -> _Task:
        """The same task with other queries."""
        rewards = rewards_for(self.objective, [query.expected for query in queries])
        return _Task(queries, self.routes, self.before, self.objective, self.lowest, rewards)


def decide(query: RankedQuery, thresholds: Thresholds) -> str | None:
    """Return the best route that reaches its limit, as the router does."""
    return next((name for name, score in query.scores if score >= thresholds.of(name)), None)


def accuracy(queries: Sequence[RankedQuery], thresholds: Thresholds) -> float:
    return right_count(queries, thresholds) / len(queries)


def right_count(queries: Sequence[RankedQuery], thresholds: Thresholds) -> int:
    return sum(decide(query, thresholds) == query.expected for query in queries)


def fit_thresholds(
    queries: Sequence[RankedQuery],
    routes: Sequence[str],
    before: Thresholds,
    objective: Objective | None = None,
    *,
    lowest: float = SCORE_MIN,
) -> Calibration:
    """Keep the limits, fit a new default, or fit a default and own limits.

    They are compared by cross-validation.  The simplest of the best is proposed, fitted to all
    queries.

    Args:
        lowest: ``SCORE_MIN`` for thresholds, ``CONFIDENCE_MIN`` for confidences.
    """
    task = _Task((), routes, before, objective or Objective(), lowest, Rewards()).on(queries)
    fits: dict[str, _Fit] = {"default": _fit_default, "routes": _fit_routes}
    if task.objective.is_bounded:
        fits = {"default": _fit_bounded}
    now = _value(task, [decide(query, before) for query in queries])
    tried: list[Tried] = []
    best: tuple[float, int] = (now, -1)
    for name, fit in fits.items():
        found, held_out = _try(task, name, fit)
        # A gain on the labelled queries that vanishes on held-out ones is chance.
        if found.is_better and (held_out > best[0] or (held_out == best[0] and best[1] < 0)):
            best = (held_out, len(tried))
        tried.append(found)
    chosen = best[1]
    after = before if chosen < 0 else tried[chosen].limits
    held_out_right = right_count(queries, before) if chosen < 0 else tried[chosen].held_out_right
    return Calibration(
        before=before,
        after=after,
        accuracy_before=accuracy(queries, before),
        accuracy_after=accuracy(queries, after),
        held_out_after=held_out_right / len(queries),
        queries_by_route=_counts(queries, routes),
        count=len(queries),
        right_before=right_count(queries, before),
        tried=tuple(_marked(each, at == chosen) for at, each in enumerate(tried)),
        objective=task.objective,
        warnings=tuple(_warnings(queries, routes)),
    )


def _marked(tried: Tried, is_proposed: bool) -> Tried:
    fields = {name: getattr(tried, name) for name in Tried.__slots__}
    return Tried(**{**fields, "is_proposed": is_proposed})


def _try(task: _Task, name: str, fit: _Fit) -> tuple[Tried, float]:
    """Fit limits to all queries, and judge the fit by cross-validation."""
    limits = fit(task)
    queries, before = task.queries, task.before
    held_out = _held_out_answers(task, fit)
    was = [decide(query, before) == query.expected for query in queries]
    then = [given == query.expected for given, query in zip(held_out, queries, strict=True)]
    answers = [decide(query, limits) for query in queries]
    now = _value(task, [decide(query, before) for query in queries])
    found = Tried(
        name=name,
        limits=limits,
        right=right_count(queries, limits),
        held_out_right=sum(then),
        gained=sum(new and not old for new, old in zip(then, was, strict=True)),
        lost=sum(old and not new for new, old in zip(then, was, strict=True)),
        is_better=_value(task, answers) > now,
    )
    return found, _value(task, held_out)


def _value(task: _Task, answers: Sequence[str | None]) -> float:
    """Value of an objective for given answers; more is better."""
    objective, queries = task.objective, task.queries
    labels = [query.expected for query in queries]
    if not objective.is_bounded:
        rewards = task.rewards
        return sum(rewards.of(label, given) for label, given in zip(labels, answers, strict=True))
    answered = [(label, given) for label, given in zip(labels, answers, strict=True) if given]
    coverage = len(answered) / len(queries)
    right = sum(label == given for label, given in answered)
    precision = right / len(answered) if answered else 1.0
    value, bound = (coverage, precision) if objective.kind == "precision" else (precision, coverage)
    # Where the condition does not hold, less of a miss is better.
    return value if bound >= objective.bound else bound - objective.bound - 1.0


def _held_out_answers(task: _Task, fit: _Fit) -> list[str | None]:
    """Answer each query by limits that were fitted without it."""
    folds = _folds(task.queries)
    limits: dict[int, Thresholds] = {}
    for fold in set(folds):
        seen = [query for query, its in zip(task.queries, folds, strict=True) if its != fold]
        limits[fold] = fit(task.on(seen)) if seen else task.before
    return [decide(query, limits[fold]) for query, fold in zip(task.queries, folds, strict=True)]


def _folds(queries: Sequence[RankedQuery]) -> list[int]:
    """Spread the queries of each route evenly over the folds, in the order of the file."""
    seen: dict[str | None, int] = {}
    folds = []
    for query in queries:
        place = seen[query.expected] = seen.get(query.expected, -1) + 1
        folds.append(place % FOLDS)
    return folds


# --- fits --------------------------------------------------------------------------------


def _fit_bounded(task: _Task) -> Thresholds:
    """Fit one limit for all routes without their own to a condition on all queries."""
    judged = [query.judged for query in task.queries]
    found = best_limit(judged, task.objective, task.before.default)
    if found is None:
        return task.before
    # Between the chosen value and the next lower one, which must stay refused.
    lower = max((each.value for each in judged if each.value < found), default=found - 2 * EDGE)
    middle = round((max(lower, found - 2 * EDGE) + found) / 2, DIGITS)
    default = middle if lower < middle <= found else found
    default = max(task.lowest, min(1.0, default))
    if point_at(judged, task.before.default) == point_at(judged, default):
        return task.before
    return Thresholds(default, task.before.own)


def _fit_default(task: _Task) -> Thresholds:
    """Fit the default limit; own limits stay."""
    breakpoints = []
    before = task.before
    for query in task.queries:
        kept = [name for name, score in query.scores if score >= before.own.get(name, _ABOVE_ALL)]
        leader = next(
            ((name, score) for name, score in query.scores if name not in before.own), None
        )
        if leader is not None and not _outranks(query, kept, leader[0]):
            breakpoints.append(_breakpoint(task, query, leader, kept[0] if kept else None))
    default = _best(task, breakpoints, before.default)
    return _limit_changes(task, Thresholds(default, before.own))


def _fit_routes(task: _Task) -> Thresholds:
    """Fit the default, then a limit of its own for each route with enough queries."""
    start = _fit_default(task)
    own = dict(start.own)
    for route, count in _counts(task.queries, task.routes).items():
        if count < ROUTE_QUERIES_MIN:
            continue
        fitted = _best(task, list(_route_breakpoints(task, route, start)), start.of(route))
        weight = count / (count + SHRINK_COUNT)
        value = round(weight * fitted + (1 - weight) * start.default, DIGITS)
        if value == start.default:
            own.pop(route, None)
        else:
            own[route] = value
    return _limit_changes(task, Thresholds(start.default, own))


def _route_breakpoints(
    task: _Task, route: str, thresholds: Thresholds
) -> Iterator[tuple[float, float]]:
    """Yield the breakpoints of the queries that the limit of one route decides."""
    for query in task.queries:
        score = dict(query.scores).get(route)
        others = [name for name, at in query.scores if name != route and at >= thresholds.of(name)]
        if score is not None and not _outranks(query, others, route):
            yield _breakpoint(task, query, (route, score), others[0] if others else None)


def _outranks(query: RankedQuery, names: Sequence[str], route: str) -> bool:
    """Whether the first of ``names``, in order of rank, ranks above a route."""
    order = [name for name, _ in query.scores]
    return bool(names) and order.index(names[0]) < order.index(route)


def _breakpoint(
    task: _Task, query: RankedQuery, leader: tuple[str, float], otherwise: str | None
) -> tuple[float, float]:
    """Return the value at which the answer changes, and the gain if the route passes."""
    rewards, expected = task.rewards, query.expected
    return leader[1], rewards.of(expected, leader[0]) - rewards.of(expected, otherwise)


def _best(task: _Task, breakpoints: Sequence[tuple[float, float]], present: float) -> float:
    """Return the limit with the highest reward that is nearest to the present one."""
    gain_by_score: dict[float, float] = {}
    for score, gain in breakpoints:
        if gain:
            gain_by_score[score] = gain_by_score.get(score, 0) + gain
    scores = sorted(gain_by_score, reverse=True)
    sums = accumulate((gain_by_score[score] for score in scores), initial=0.0)
    gains = [round(each, 9) for each in sums]
    # Limits above scores[i] and up to scores[i - 1] all gain gains[i].
    lows, highs = [*scores, -math.inf], [math.inf, *scores]
    runs = [run for *run, gain in zip(lows, highs, gains, strict=True) if gain == max(gains)]
    if any(low < present <= high for low, high in runs):
        return present
    low, high = min(runs, key=lambda run: min(abs(present - run[0]), abs(present - run[1])))
    middle = (max(low, high - 2 * EDGE) + min(high, low + 2 * EDGE)) / 2
    return max(task.lowest, min(1.0, round(middle, DIGITS)))


def _limit_changes(task: _Task, after: Thresholds) -> Thresholds:
    """Keep limits of routes without queries, and cap raised ones (rules 1 and 4)."""
    counts = _counts(task.queries, task.routes)
    own = dict(after.own)
    for route in task.routes:
        was, now = task.before.of(route), after.of(route)
        if not counts[route]:
            now = was
        elif now > was:
            now = min(now, max(was, _threshold_cap(task, route)))
        if now != after.of(route):
            own[route] = now
    return Thresholds(after.default, own)


def _threshold_cap(task: _Task, route: str) -> float:
    """Return the limit that half of the queries of a route still reach."""
    won = sorted(
        (
            query.scores[0][1]
            for query in task.queries
            if query.expected == route and query.scores and query.scores[0][0] == route
        ),
        reverse=True,
    )
    if not won:
        return task.lowest
    kept = won[max(0, math.ceil(KEPT_SHARE_MIN * len(won)) - 1)]
    # Rounded down: a limit above the value would refuse the query.
    return math.floor(kept * 10**DIGITS) / 10**DIGITS


def _counts(queries: Sequence[RankedQuery], routes: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(routes, 0)
    for query in queries:
        if query.expected is not None:
            counts[query.expected] = counts.get(query.expected, 0) + 1
    return counts


def _warnings(queries: Sequence[RankedQuery], routes: Sequence[str]) -> Iterator[str]:
    if not any(query.expected is None for query in queries):
        yield "no query is labelled as out of scope: limits that are too low are not noticed"
    silent = sum(not count for count in _counts(queries, routes).values())
    if silent:
        yield f"{silent} routes have no labelled query and keep their limits"


_Fit: TypeAlias = Callable[[_Task], Thresholds]

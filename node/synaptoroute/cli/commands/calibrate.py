"""``synaptoroute calibrate``: thresholds fitted to labelled queries.

Rule 1: a route without labelled queries keeps its threshold exactly.
Rule 2: only thresholds that are better in cross-validation are proposed.
Rule 3: a route's own threshold is shrunk towards the default; its weight is
n / (n + SHRINK_COUNT) for n labelled queries.
Rule 4: no threshold is raised above the score that half of the queries of its route
reach, so that calibration never switches a route off.

A fitted threshold gives the most right answers.  Usually whole intervals of thresholds do;
the interval nearest to the present threshold is taken, and in it the present threshold, or
else the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Final, TypeAlias

import typer

from synaptoroute.cli.client import NodeClient, route_path
from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    EncoderPrecision,
    LabelledFile,
    Model,
    RoutesFile,
    Url,
)
from synaptoroute.cli.query_backend import (
    LabelledQuery,
    NodeBackend,
    QueryBackend,
    ask_all,
    check_known,
    open_backend,
    read_labelled,
)
from synaptoroute.cli.terminal import note, number, print_json, print_line, print_table, progress

SHRINK_COUNT: Final = 10
ROUTE_QUERIES_MIN: Final = 5
"""A route with fewer labelled queries uses the default threshold."""
CANDIDATES: Final = 20
FOLDS: Final = 5
DIGITS: Final = 3
EDGE: Final = 0.02
"""Distance beyond the last score for a threshold that nothing else bounds."""
KEPT_SHARE_MIN: Final = 0.5


def calibrate(
    file: LabelledFile,
    apply: Annotated[bool, typer.Option("--apply", help="Set the proposed thresholds.")] = False,
    routes: RoutesFile = None,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Fit the default threshold and the thresholds of routes to labelled queries.

    Only thresholds that are better on held-out queries are proposed. A route without
    labelled queries keeps its threshold, and no route can be switched off.
    """
    if apply and routes is not None:
        raise BadUsage("--apply sets the thresholds of a node and cannot be used with --routes")
    queries = read_labelled(file)
    with open_backend(url, api_key, routes, model, precision) as backend:
        present = backend.routes()
        names = [route["name"] for route in present]
        check_known(queries, frozenset(names), file)
        own = {r["name"]: r["threshold"] for r in present if r["threshold"] is not None}
        before = Thresholds(backend.default_threshold(), own)
        found = fit_thresholds(_rank(backend, queries), names, before)
        _show(found, names, as_json)
        if apply and isinstance(backend, NodeBackend):
            _apply(backend.client, found)


def _rank(backend: QueryBackend, queries: list[LabelledQuery]) -> list[RankedQuery]:
    return [
        RankedQuery(
            answer.expected,
            tuple((each["route"], each["score"]) for each in match.get("candidates") or ()),
        )
        for answer, match in ask_all(backend, queries, CANDIDATES)
    ]


def _changes(found: Calibration, names: list[str]) -> list[tuple[str, float | None, float | None]]:
    """List (route, before, after) of changed thresholds; None stands for the default."""
    before, after = found.before.own, found.after.own
    return [
        (name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _show(found: Calibration, names: list[str], as_json: bool) -> None:
    changes = _changes(found, names)
    if as_json:
        print_json(
            {
                "default": {"before": found.before.default, "after": found.after.default},
                "routes": [
                    {"route": name, "before": before, "after": after}
                    for name, before, after in changes
                ],
                "accuracy_before": found.accuracy_before,
                "accuracy_after": found.accuracy_after,
                "held_out_accuracy_after": found.held_out_after,
                "warnings": found.warnings,
            }
        )
        return
    rows = [("(default)", number(found.before.default), number(found.after.default), "")]
    rows += [
        (name, _own(before), _own(after), str(found.queries_by_route[name]))
        for name, before, after in changes
    ]
    print_table(
        ("threshold of", "before", "after", "queries"), rows, right=("before", "after", "queries")
    )
    print_line(
        f"accuracy {found.accuracy_before:.4f} before, {found.accuracy_after:.4f} after; "
        f"{found.held_out_after:.4f} on held-out queries"
    )
    if found.after == found.before:
        print_line("no better thresholds were found")
    for warning in found.warnings:
        note(f"warning: {warning}")


def _own(threshold: float | None) -> str:
    return "default" if threshold is None else number(threshold)


def _apply(client: NodeClient, found: Calibration) -> None:
    # Own thresholds before the default: with the new default first, a route would for a
    # moment have neither its present threshold nor its new one.
    changes = _changes(found, sorted({*found.before.own, *found.after.own}))
    with progress("Applying", len(changes) + 1) as step:
        for name, _, after in changes:
            client.write("PATCH", route_path(name), {"threshold": after})
            step(1)
        if found.after.default != found.before.default:
            settings = client.get("/v1/settings")
            client.write("PUT", "/v1/settings", {**settings, "threshold": found.after.default})
        step(1)
    note(f"applied: default {found.after.default:g}, {len(changes)} routes changed")


# --- fitting ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """One labelled query and all scores of routes, best first, below their thresholds, too."""

    expected: str | None
    scores: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of a set of routes."""

    default: float
    own: Mapping[str, float] = field(default_factory=dict)

    def of(self, route: str) -> float:
        return self.own.get(route, self.default)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result; ``after`` equals ``before`` if nothing was better in cross-validation."""

    before: Thresholds
    after: Thresholds
    accuracy_before: float
    accuracy_after: float
    held_out_after: float
    queries_by_route: Mapping[str, int]
    warnings: tuple[str, ...] = ()


def decide(query: RankedQuery, thresholds: Thresholds) -> str | None:
    """Return the best route that reaches its threshold, as the router does."""
    return next((name for name, score in query.scores if score >= thresholds.of(name)), None)


def accuracy(queries: Sequence[RankedQuery], thresholds: Thresholds) -> float:
    right = sum(decide(query, thresholds) == query.expected for query in queries)
    return right / len(queries)


def fit_thresholds(
    queries: Sequence[RankedQuery], routes: Sequence[str], before: Thresholds
) -> Calibration:
    """Keep the thresholds, fit a new default, or fit a default and own thresholds.

    The three are compared by cross-validation.  The simplest of the best is proposed,
    fitted to all queries.
    """
    now = accuracy(queries, before)
    candidates = (_fit_default, _fit_routes)
    held_out = [_cross_validate(queries, routes, before, fit) for fit in candidates]
    after, held_out_after = before, now
    for fit, share in zip(candidates, held_out, strict=True):
        if share > held_out_after:
            after, held_out_after = fit(queries, routes, before), share
    # Better in cross-validation, but worse on all queries: keep the present thresholds.
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
    queries: Sequence[RankedQuery], routes: Sequence[str], before: Thresholds, fit: _Fit
) -> float:
    """Return the share of right answers on held-out queries."""
    fold_of = _folds(queries)
    right = 0
    for fold in range(FOLDS):
        seen = [query for query, its in zip(queries, fold_of, strict=True) if its != fold]
        left = [query for query, its in zip(queries, fold_of, strict=True) if its == fold]
        if seen and left:
            right += round(accuracy(left, fit(seen, routes, before)) * len(left))
    return right / len(queries)


def _folds(queries: Sequence[RankedQuery]) -> list[int]:
    """Spread the queries of each route evenly over the folds, in the order of the file."""
    seen: dict[str | None, int] = {}
    folds = []
    for query in queries:
        place = seen[query.expected] = seen.get(query.expected, -1) + 1
        folds.append(place % FOLDS)
    return folds


def _fit_default(
    queries: Sequence[RankedQuery], routes: Sequence[str], before: Thresholds
) -> Thresholds:
    """Fit the default threshold; own thresholds stay."""
    breakpoints = []
    for query in queries:
        # 2.0 is above every score: routes without a threshold of their own are left out.
        kept = [name for name, score in query.scores if score >= before.own.get(name, 2.0)]
        leader = next(
            ((name, score) for name, score in query.scores if name not in before.own), None
        )
        if leader is not None and not _outranks(query, kept, leader[0]):
            breakpoints.append(_breakpoint(query, leader, kept[0] if kept else None))
    default = _best(breakpoints, before.default)
    return _limit_changes(queries, routes, before, Thresholds(default, before.own))


def _fit_routes(
    queries: Sequence[RankedQuery], routes: Sequence[str], before: Thresholds
) -> Thresholds:
    """Fit the default, then a threshold of its own for each route with enough queries."""
    start = _fit_default(queries, routes, before)
    own = dict(start.own)
    for route, count in _counts(queries, routes).items():
        if count < ROUTE_QUERIES_MIN:
            continue
        fitted = _best(list(_route_breakpoints(queries, route, start)), start.of(route))
        weight = count / (count + SHRINK_COUNT)
        value = round(weight * fitted + (1 - weight) * start.default, DIGITS)
        if value == start.default:
            own.pop(route, None)
        else:
            own[route] = value
    return _limit_changes(queries, routes, before, Thresholds(start.default, own))


def _route_breakpoints(
    queries: Sequence[RankedQuery], route: str, thresholds: Thresholds
) -> Iterator[tuple[float, int]]:
    """Yield the breakpoints of the queries that the threshold of one route decides."""
    for query in queries:
        score = dict(query.scores).get(route)
        others = [name for name, at in query.scores if name != route and at >= thresholds.of(name)]
        if score is not None and not _outranks(query, others, route):
            yield _breakpoint(query, (route, score), others[0] if others else None)


def _outranks(query: RankedQuery, names: Sequence[str], route: str) -> bool:
    """Whether the first of ``names``, in order of score, ranks above a route."""
    order = [name for name, _ in query.scores]
    return bool(names) and order.index(names[0]) < order.index(route)


def _breakpoint(
    query: RankedQuery, leader: tuple[str, float], otherwise: str | None
) -> tuple[float, int]:
    """Return the score at which the answer changes, and the gain if the route passes."""
    return leader[1], (leader[0] == query.expected) - (otherwise == query.expected)


def _best(breakpoints: Sequence[tuple[float, int]], present: float) -> float:
    """Return the threshold with the most right answers that is nearest to the present one."""
    gain_by_score: dict[float, int] = {}
    for score, gain in breakpoints:
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


def _limit_changes(
    queries: Sequence[RankedQuery], routes: Sequence[str], before: Thresholds, after: Thresholds
) -> Thresholds:
    """Keep thresholds of routes without queries, and cap raised ones (rules 1 and 4)."""
    counts = _counts(queries, routes)
    own = dict(after.own)
    for route in routes:
        was, now = before.of(route), after.of(route)
        if not counts[route]:
            now = was
        elif now > was:
            now = min(now, max(was, _threshold_cap(queries, route)))
        if now != after.of(route):
            own[route] = now
    return Thresholds(after.default, own)


def _threshold_cap(queries: Sequence[RankedQuery], route: str) -> float:
    """Return the threshold that half of the queries of a route still reach."""
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
    # Rounded down: a threshold above the score would reject the query.
    return math.floor(kept * 10**DIGITS) / 10**DIGITS


def _counts(queries: Sequence[RankedQuery], routes: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(routes, 0)
    for query in queries:
        if query.expected is not None:
            counts[query.expected] = counts.get(query.expected, 0) + 1
    return counts


def _warnings(queries: Sequence[RankedQuery], routes: Sequence[str]) -> Iterator[str]:
    if not any(query.expected is None for query in queries):
        yield "no query is labelled as out of scope: thresholds that are too low are not noticed"
    silent = sum(not count for count in _counts(queries, routes).values())
    if silent:
        yield f"{silent} routes have no labelled query and keep their thresholds"


_Fit: TypeAlias = Callable[[Sequence[RankedQuery], Sequence[str], Thresholds], Thresholds]

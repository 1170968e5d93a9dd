"""How well labelled queries are routed: the counts, without how they are shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from synaptoroute.cli.labelled import NO_ROUTE


@dataclass(frozen=True, slots=True)
class Answer:
    """One labelled query and what came back.

    Attributes:
        text: The query.
        expected: The right route, or None.
        given: The route that matched, or None.
        score: Score of that route; of the best one where none matched.
        runner_up: Name of the next best route.
        margin: Score minus that of the runner-up.
        latency_ms: From asking to answer.
    """

    text: str
    expected: str | None
    given: str | None
    score: float | None = None
    runner_up: str | None = None
    margin: float | None = None
    latency_ms: float = 0.0

    @property
    def is_correct(self) -> bool:
        """Whether the right route came back."""
        return self.expected == self.given


@dataclass(frozen=True, slots=True)
class RouteFigures:
    """How well one route is found.

    Attributes:
        route: Its name, ``-`` for "no route".
        count: Queries that belong to it.
        precision: Share of its matches that are right; None without matches.
        recall: Share of its queries that reach it; None without queries.
    """

    route: str
    count: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one run.

    Attributes:
        count: Queries.
        correct_count: Queries with the right answer.
        in_scope_count: Queries that belong to a route.
        in_scope_correct_count: Those of them with the right answer.
        false_rejects: Queries that belong to a route and matched none.
        out_of_scope_count: Queries that belong to no route.
        false_accepts: Those of them that matched one.
        routes: Figures by route, in order of name.
        confusions: (expected, given, count), most frequent first.
        latency_ms: Percentiles by name: ``p50``, ``p95``, ``p99``.
    """

    count: int
    correct_count: int
    in_scope_count: int
    in_scope_correct_count: int
    false_rejects: int
    out_of_scope_count: int
    false_accepts: int
    routes: tuple[RouteFigures, ...]
    confusions: tuple[tuple[str, str, int], ...]
    latency_ms: dict[str, float]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct_count / self.count


def evaluate(answers: Sequence[Answer]) -> Evaluation:
    """Count; there must be at least one answer."""
    in_scope = [answer for answer in answers if answer.expected is not None]
    out_of_scope = [answer for answer in answers if answer.expected is None]
    wrong = Counter(
        (_name(answer.expected), _name(answer.given)) for answer in answers if not answer.is_correct
    )
    return Evaluation(
        count=len(answers),
        correct_count=sum(answer.is_correct for answer in answers),
        in_scope_count=len(in_scope),
        in_scope_correct_count=sum(answer.is_correct for answer in in_scope),
        false_rejects=sum(answer.given is None for answer in in_scope),
        out_of_scope_count=len(out_of_scope),
        false_accepts=sum(answer.given is not None for answer in out_of_scope),
        routes=_figures(answers),
        confusions=tuple(
            (expected, given, count)
            for (expected, given), count in sorted(
                wrong.items(), key=lambda item: (-item[1], item[0])
            )
        ),
        latency_ms=_percentiles([answer.latency_ms for answer in answers]),
    )


def _figures(answers: Sequence[Answer]) -> tuple[RouteFigures, ...]:
    expected = Counter(_name(answer.expected) for answer in answers)
    given = Counter(_name(answer.given) for answer in answers)
    right = Counter(_name(answer.expected) for answer in answers if answer.is_correct)
    return tuple(
        RouteFigures(
            name,
            expected[name],
            _share(right[name], given[name]),
            _share(right[name], expected[name]),
        )
        for name in sorted(expected | given)
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Nearest-rank percentiles."""
    ordered = sorted(values)
    ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
    return {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in ranks.items()}


def _name(route: str | None) -> str:
    return NO_ROUTE if route is None else route

"""Comparison of two route sets: which answers differ, and which of both is right more often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pydantic import BaseModel

from synaptoroute.change_models import (
    ChangedDecision,
    Decision,
    RouteDifference,
    SetDiff,
    Side,
    Verdict,
)
from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import SetTest
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import Match
from synaptoroute.router.set_answers import SetContent, answers_of, ignore, read_content
from synaptoroute.serving.query import QueryEngine

CHANGED_MAX: Final = 200
DIFF_TEXTS_MAX: Final = 20_000


class UnlabelledText(BaseModel):
    """A text whose right route is not known."""

    text: str


async def diff_sets(
    engine: QueryEngine,
    config: EngineConfig,
    before: str,
    after: str,
    texts: Sequence[SetTest | str] | None = None,
    more: Callable[[SetContent], Sequence[str]] = lambda _: (),
    take: Callable[[int], None] = ignore,
) -> SetDiff:
    """Ask both sets the same texts.

    Args:
        before: The set, or the alias, that is compared with.
        after: The other one.
        texts: Labelled queries and plain texts; None for the tests of both sets.
        more: Finds plain texts to ask beside the tests of a set; raises if the caller may not
            read the tests.
        take: Raises if the caller may not have so many texts encoded.
    """
    old, new = await read_content(engine, before), await read_content(engine, after)
    if texts is None:
        asked = _tests_of_both(old, new, [*more(old), *more(new)])
    else:
        asked = _distinct(texts)
    if len(asked) > DIFF_TEXTS_MAX:
        raise InvalidQuery(f"at most {DIFF_TEXTS_MAX} texts are compared at once")
    take(2 * len(asked))
    was = await answers_of(engine, config, old.name, list(asked))
    then = await answers_of(engine, config, new.name, list(asked))
    found = compare(old, new, asked, was, then)
    again = [await read_content(engine, each.name) for each in (old, new)]
    is_current = [each.revision for each in again] == [old.revision, new.revision]
    return found.model_copy(update={"is_current": is_current})


def _tests_of_both(old: SetContent, new: SetContent, more: Sequence[str]) -> _Labels:
    """The tests of both sets; where they contradict each other, those of the second count."""
    found: _Labels = dict.fromkeys(more)
    found |= {test.text: test for test in old.tests}
    found |= {test.text: test for test in new.tests}
    return found


def _distinct(texts: Sequence[SetTest | str]) -> _Labels:
    found: _Labels = {}
    for each in texts:
        if isinstance(each, SetTest):
            found[each.text] = each
        else:
            found.setdefault(each, None)
    return found


def compare(
    old: SetContent,
    new: SetContent,
    asked: _Labels,
    was: Sequence[Match],
    then: Sequence[Match],
) -> SetDiff:
    """Compare the answers of two sets to the same texts, in order."""
    changed: list[ChangedDecision] = []
    counts = {name: Counter[str | None]() for name in ("before", "after", "expected")}
    right = (Counter[str | None](), Counter[str | None]())
    for (text, test), one, two in zip(asked.items(), was, then, strict=True):
        counts["before"][one.route] += 1
        counts["after"][two.route] += 1
        if test is not None:
            counts["expected"][test.route] += 1
            right[0][test.route] += one.route == test.route
            right[1][test.route] += two.route == test.route
        if one.route != two.route:
            changed.append(_changed(text, test, one, two))
    labelled = counts["expected"].total()
    verdicts = Counter(each.verdict for each in changed)
    changed.sort(key=lambda each: (each.verdict != "broken", each.verdict != "fixed"))
    return SetDiff(
        before=_side(old, right[0].total(), labelled),
        after=_side(new, right[1].total(), labelled),
        texts=len(asked),
        labelled=labelled,
        changed_total=len(changed),
        fixed=verdicts["fixed"],
        broken=verdicts["broken"],
        changed=changed[:CHANGED_MAX],
        routes=_differences(counts, right),
    )


def _side(content: SetContent, right: int, labelled: int) -> Side:
    return Side(
        route_set=content.name,
        revision=str(content.revision),
        right=right,
        accuracy=round(right / labelled, 6) if labelled else None,
    )


def _changed(text: str, test: SetTest | None, one: Match, two: Match) -> ChangedDecision:
    verdict: Verdict = "unlabelled"
    if test is not None:
        verdict = "both_wrong"
        if one.route == test.route:
            verdict = "broken"
        elif two.route == test.route:
            verdict = "fixed"
    return ChangedDecision(
        text=text,
        expected=None if test is None else test.route,
        before=Decision(route=one.route, confidence=one.confidence),
        after=Decision(route=two.route, confidence=two.confidence),
        verdict=verdict,
    )


def _differences(
    counts: dict[str, Counter[str | None]], right: tuple[Counter[str | None], Counter[str | None]]
) -> list[RouteDifference]:
    names = sorted(
        {*counts["before"], *counts["after"], *counts["expected"]},
        key=lambda name: (name is None, name or ""),
    )
    found = [
        RouteDifference(
            route=name,
            before=counts["before"][name],
            after=counts["after"][name],
            expected=counts["expected"][name],
            right_before=right[0][name],
            right_after=right[1][name],
        )
        for name in names
    ]
    return [
        each for each in found if (each.before, each.right_before) != (each.after, each.right_after)
    ]


_Labels: TypeAlias = dict[str, SetTest | None]

"""Tests of a route set: labelled queries that belong to it, and how it answers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from synaptoroute.change_models import (
    FailedTest,
    LabelledQuery,
    RouteScore,
    SetTestPage,
    SetTestRun,
)
from synaptoroute.config import EngineConfig
from synaptoroute.core.erasure import TEXT_HASH_DIGITS, text_hash
from synaptoroute.core.mutation import PutTests, SetTest
from synaptoroute.errors import InvalidQuery, InvalidRoute
from synaptoroute.models import UTTERANCE_BYTES_MAX, Match, WriteResult, check_text, normal_name
from synaptoroute.router.op_ids import derived_op_id
from synaptoroute.router.route_checks import checked_name
from synaptoroute.router.set_answers import SetContent, answers_of, ignore, read_set
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.serving.query import QueryEngine

PAGE_TESTS_MAX: Final = 1_000
ENTRY_CHARACTERS: Final = 65_536
"""Characters of tests that one entry of the log carries; more become several entries."""
ITEM_CHARACTERS: Final = 16
"""What one test costs beside its text and its route."""
FAILURES_MAX: Final = 1_000
RUN_TEXTS_MAX: Final = 20_000
PLACE_CHARACTERS: Final = 64
AFTER_CHARACTERS_MAX: Final = TEXT_HASH_DIGITS + PLACE_CHARACTERS
ItemT = TypeVar("ItemT")


def _place_of(text: str) -> tuple[str, str]:
    """Place of a test in the list: a text may be longer than an address, so its hash ends it."""
    return text[:PLACE_CHARACTERS], text_hash(text)


def _read_place(after: str) -> tuple[str, str]:
    """The place that ``next_after`` names."""
    return after[TEXT_HASH_DIGITS:], after[:TEXT_HASH_DIGITS]


class SetTests:
    """The tests of one route set."""

    def __init__(
        self, engine: QueryEngine, writer: Writer, config: EngineConfig, route_set: str
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._config = config
        self._route_set = route_set

    async def page(self, *, after: str = "", limit: int = 100) -> SetTestPage:
        """Read up to ``limit`` tests that follow ``after``, nearly in order of text."""
        if not 1 <= limit <= PAGE_TESTS_MAX:
            raise InvalidQuery(f"limit must be 1 to {PAGE_TESTS_MAX}")
        content = await read_set(self._engine, self._route_set)
        start = _read_place(after)
        found = [test for test in content.tests if _place_of(test.text) > start]
        found.sort(key=lambda test: _place_of(test.text))
        shown = [LabelledQuery(text=test.text, route=test.route) for test in found[:limit]]
        return SetTestPage(
            route_set=content.name,
            tests=shown,
            total=len(content.tests),
            next_after="".join(_place_of(shown[-1].text)[::-1]) if len(found) > limit else None,
            revision=str(content.revision),
            version=str(content.position.revision),
        )

    async def put(
        self,
        tests: Sequence[SetTest],
        options: WriteOptions,
        *,
        removed: Sequence[str] = (),
        is_replacing: bool = False,
    ) -> WriteResult:
        """Add or replace tests, and remove others.

        Tests that do not fit into one entry are written by several; those before the last one
        are visible a moment earlier.

        Args:
            tests: Tests; the last one with a text counts.
            removed: Texts of tests to remove; those that are not there are ignored.
            is_replacing: Whether tests are removed that it does not name.

        Returns:
            The result of the last entry; ``count`` is the number of tests that changed.
        """
        named = {test.text: test for test in map(checked_test, tests)}
        gone = sorted({_checked(text) for text in removed} - named.keys())
        changes = list(_entries(list(named.values()), gone, is_replacing=is_replacing))
        result, count = None, 0
        for number, change in enumerate(changes):
            own = options
            if options.op_id is not None and number < len(changes) - 1:
                own = replace(options, op_id=derived_op_id(options.op_id.hex(), str(number)))
            result = await self._writer.write(change, own)
            count += result.count
        assert result is not None
        return result.model_copy(update={"count": count})

    async def run(
        self, tests: Sequence[SetTest] | None = None, take: Callable[[int], None] = ignore
    ) -> SetTestRun:
        """Ask the set labelled queries: its tests, or others.

        Args:
            take: Raises if the caller may not have so many texts encoded.
        """
        content = await read_set(self._engine, self._route_set)
        asked = content.tests if tests is None else tuple(map(checked_test, tests))
        if len(asked) > RUN_TEXTS_MAX:
            raise InvalidQuery(f"at most {RUN_TEXTS_MAX} texts are evaluated at once")
        take(len(asked))
        matches = await self._answers(content, asked)
        run = run_of(content, asked, matches)
        after = await read_set(self._engine, self._route_set)
        is_current = (after.number, after.revision) == (content.number, content.revision)
        return run.model_copy(update={"is_current": is_current})

    async def _answers(self, content: SetContent, tests: Sequence[SetTest]) -> list[Match]:
        texts = [test.text for test in tests]
        return await answers_of(self._engine, self._config, content.name, texts)


def run_of(
    content: SetContent,
    tests: Sequence[SetTest],
    matches: Sequence[Match],
    were_right: Mapping[str, bool] | None = None,
    failures_max: int | None = FAILURES_MAX,
) -> SetTestRun:
    """Judge answers to labelled queries.

    Args:
        were_right: By text, whether the set that is compared answers right.
        failures_max: Most failures to list; None for all.
    """
    asked: Counter[str | None] = Counter()
    right: Counter[str | None] = Counter()
    failures: list[FailedTest] = []
    for test, match in zip(tests, matches, strict=True):
        asked[test.route] += 1
        if match.route == test.route:
            right[test.route] += 1
            continue
        failures.append(
            FailedTest(
                text=test.text,
                expected=test.route,
                got=match.route,
                confidence=match.confidence,
                is_regression=None if were_right is None else were_right.get(test.text, False),
            )
        )
    count = len(tests)
    # A gate shows only the first ones.
    failures.sort(key=lambda each: not each.is_regression)
    return SetTestRun(
        route_set=content.name,
        revision=str(content.revision),
        version=max((match.version for match in matches), key=_place, default="")
        or str(content.position.revision),
        tests=count,
        right=right.total(),
        accuracy=round(right.total() / count, 6) if count else None,
        routes=[
            RouteScore(route=route, tests=asked[route], right=right[route])
            for route in sorted(asked, key=lambda route: (route is None, route or ""))
        ],
        failures=failures[:failures_max],
        failures_total=len(failures),
    )


def checked_test(test: SetTest) -> SetTest:
    """Check a labelled query.

    Raises:
        InvalidRoute: Its text or the name of its route is malformed.
    """
    route = None if test.route is None else checked_name(normal_name(test.route))
    return SetTest(_checked(test.text), route)


def _checked(text: str) -> str:
    try:
        return check_text(text, UTTERANCE_BYTES_MAX)
    except (TypeError, ValueError) as error:
        raise InvalidRoute(f"a test {error}") from error


def _entries(
    tests: Sequence[SetTest], removed: Sequence[str], *, is_replacing: bool
) -> Iterator[PutTests]:
    """Divide a change of tests into entries of bounded size."""
    parts = _divided([(test, len(test.text) + len(test.route or "")) for test in tests])
    first = tuple(parts[0])
    if is_replacing:
        yield PutTests(first, replace=True)
    else:
        gone = _divided([(text, len(text)) for text in removed])
        yield PutTests(first, tuple(gone[0]))
        for texts in gone[1:]:
            yield PutTests((), tuple(texts))
    for part in parts[1:]:
        yield PutTests(tuple(part))


def _divided(items: Iterable[tuple[ItemT, int]]) -> list[list[ItemT]]:
    """Divide items by their characters, into at least one part."""
    parts: list[list[ItemT]] = [[]]
    held = 0
    for item, characters in items:
        held += characters + ITEM_CHARACTERS
        if held > ENTRY_CHARACTERS and parts[-1]:
            parts.append([])
            held = characters + ITEM_CHARACTERS
        parts[-1].append(item)
    return parts


def _place(version: str) -> tuple[int, int]:
    epoch, _, seq = version.partition(".")
    return int(epoch or 0), int(seq or 0)

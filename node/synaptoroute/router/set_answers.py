"""What route sets answer to given texts, and what they contain, for tests, diffs and gates.

The texts take the way of every query, so a test says what a user would get.  They wait behind
the queries of users, and they do not count as unmatched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from synaptoroute.config import EngineConfig
from synaptoroute.core.change import AliasRecord
from synaptoroute.core.mutation import DEFAULT_SET, Position, Revision, SetTest
from synaptoroute.core.sets import RouteSets
from synaptoroute.errors import DeadlineExceeded, Overloaded
from synaptoroute.models import Match
from synaptoroute.ports import AppliedState
from synaptoroute.router.queries import answer_queries, make_query
from synaptoroute.serving.query import QueryEngine
from synaptoroute.web.set_paths import set_not_found

FLOW: Final = "\x00tests"
"""The client that tests count as, among which an overloaded node shares its capacity."""
TEXTS_AT_ONCE: Final = 32
ANSWER_SECONDS_MAX: Final = 120.0
OVERLOAD_PAUSE_SECONDS: Final = 0.1
VISIBLE_SECONDS_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class SetContent:
    """A route set at one place of the log, as far as tests and gates need it.

    Attributes:
        name: Its name.
        number: Its number, which another set may get once it is removed.
        revision: Place of the last change of what answers in it.
        position: Place at which it was read.
        tests: Its tests, in order of text.
        alias: The alias by which it was asked for, if it was.
    """

    name: str
    number: int
    revision: Revision
    position: Position
    tests: tuple[SetTest, ...]
    alias: AliasRecord | None = None


def ignore(_count: int) -> None:
    """Take any number of texts."""


async def read_set(engine: QueryEngine, name: str) -> SetContent:
    """Read a set as ``read_content`` does; an alias has no tests of its own.

    Raises:
        SetNotFound: No set has this name.
    """
    content = await read_content(engine, name)
    if content.alias is not None:
        raise set_not_found(name)
    return content


async def read_content(engine: QueryEngine, name: str) -> SetContent:
    """Read a set, or the set that an alias points to, and wait until queries see it.

    Raises:
        SetNotFound: There is none of this name.
    """

    def read(state: AppliedState) -> SetContent:
        replica = state.replica
        return _content_of(replica.sets, name or DEFAULT_SET, replica.position)

    content = await asyncio.wrap_future(engine.run_on_applier(read))
    await _await_visible(engine, content.position)
    return content


def _content_of(sets: RouteSets, name: str, position: Position) -> SetContent:
    alias = sets.aliases.get(name)
    target = name if alias is None else alias.target
    number = sets.numbers.get(target)
    if number is None:
        raise set_not_found(name)
    record, table = sets.records.get(number), sets.tables[number]
    tests = tuple(test for _, test in sorted(table.tests.items()))
    revision = record.revision if record else Revision(0, 0)
    return SetContent(target, number, revision, position, tests, alias)


async def _await_visible(engine: QueryEngine, position: Position) -> None:
    """Wait until queries see at least a position that is applied."""
    if engine.published.position.revision >= position.revision:
        return
    future = engine.expect_version(position.seq)
    try:
        # It may have become visible before the future was registered.
        if engine.published.position.revision < position.revision:
            async with asyncio.timeout(VISIBLE_SECONDS_MAX):
                await asyncio.wrap_future(future)
    except TimeoutError:
        raise DeadlineExceeded("the newest change is not visible in time") from None
    finally:
        engine.forget_version(future)


async def answers_of(
    engine: QueryEngine, config: EngineConfig, route_set: str, texts: Sequence[str]
) -> list[Match]:
    """Answer texts by a route set, in slices, behind the queries of users.

    Raises:
        DeadlineExceeded: They are not answered within ``ANSWER_SECONDS_MAX``.
    """
    until = time.monotonic() + ANSWER_SECONDS_MAX
    found: list[Match] = []
    while len(found) < len(texts):
        some = texts[len(found) : len(found) + TEXTS_AT_ONCE]
        queries = [make_query(text, {"limit": 2}, is_checked=True) for text in some]
        for query in queries:
            query.is_probe = True
            query.route_set = "" if route_set == DEFAULT_SET else route_set
        left_seconds = until - time.monotonic()
        if left_seconds <= 0:
            raise DeadlineExceeded(f"the texts are not answered within {ANSWER_SECONDS_MAX:g} s")
        try:
            found += await answer_queries(engine, queries, left_seconds, FLOW)
        except Overloaded:
            await asyncio.sleep(OVERLOAD_PAUSE_SECONDS)
    return found

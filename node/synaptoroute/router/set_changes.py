"""Changes of a whole route set: routes, settings and tests at one place of the log.

A change says what its author saw.  It is applied if none of that is another by then; what else
happened in the set does not matter.  Its routes are staged like those of an import, and one entry
commits all of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from synaptoroute.config import EngineConfig
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import (
    CommitPlan,
    PutSettings,
    PutTests,
    Revision,
    SetTest,
    Settings,
)
from synaptoroute.core.seen import seen_of
from synaptoroute.core.set_tests import TESTS_MAX
from synaptoroute.core.table import RouteTable
from synaptoroute.errors import InvalidRoute, PreconditionFailed
from synaptoroute.models import (
    ImportResult,
    Name,
    Route,
    RouteSetSettings,
    Utterance,
    WriteResult,
)
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.router.feedback import stored_settings
from synaptoroute.router.imports import Importer, Routes, streamed
from synaptoroute.router.reads import shown_settings
from synaptoroute.router.writes import Ack, WriteOptions, Writer
from synaptoroute.web.problems import field_errors, first_message

TESTS_BYTES_MAX: Final = 98_304
"""Bytes of the tests in one entry, as JSON; further ones follow in entries of their own."""
TESTS_PER_ENTRY_MAX: Final = 1_000
REMOVED_MAX: Final = 10_000
CONFLICTS_SHOWN: Final = 5


def _check_seen_revision(value: str | None) -> str | None:
    if value is not None:
        revision_of(value)
    return value


SeenRevision = Annotated[str | None, Field(max_length=40), AfterValidator(_check_seen_revision)]


def revision_of(text: str) -> Revision:
    """Parse ``epoch.seq``.

    Raises:
        ValueError: It is malformed.
    """
    epoch, dot, seq = text.partition(".")
    if not dot or not all(each.isascii() and each.isdigit() for each in (epoch, seq)):
        raise ValueError("must be a revision, such as 1.42")
    return Revision(int(epoch), int(seq))


class SetChange(BaseModel):
    """What to change in a route set beside the routes that are put, and what its author saw.

    Attributes:
        seen: Every route that is put or removed, with the revision that the author saw; null for
            one that did not exist.
        removed: Routes to remove.
        settings: Settings to change; the others stay.
        settings_seen: Values that the author saw of these settings; those that are not named are
            replaced whatever they are.
        tests: Tests to put, texts with their routes, null for no route.
        tests_removed: Texts of tests to remove.
        tests_seen: The tests among them that existed, with their routes.
    """

    model_config = ConfigDict(extra="forbid")

    seen: dict[Name, SeenRevision] = Field(default_factory=dict)
    removed: list[Name] = Field(default_factory=list, max_length=REMOVED_MAX)
    settings: dict[str, Any] = Field(default_factory=dict)
    settings_seen: dict[str, Any] = Field(default_factory=dict)
    tests: dict[Utterance, Name | None] = Field(default_factory=dict, max_length=TESTS_MAX)
    tests_removed: list[Utterance] = Field(default_factory=list, max_length=TESTS_MAX)
    tests_seen: dict[Utterance, Name | None] = Field(default_factory=dict, max_length=TESTS_MAX)

    @model_validator(mode="after")
    def _consistent(self) -> SetChange:
        if unseen := sorted(name for name in self.removed if self.seen.get(name) is None):
            raise ValueError(f"removed: {unseen[0]!r} has no revision in `seen`")
        if both := sorted(self.tests.keys() & set(self.tests_removed)):
            raise ValueError(f"tests_removed: {both[0][:60]!r} is also in `tests`")
        for name, given in (("settings", self.settings), ("settings_seen", self.settings_seen)):
            if unknown := sorted(given.keys() - RouteSetSettings.model_fields.keys()):
                raise ValueError(f"{name}: {unknown[0][:60]!r} is no setting")
        return self

    @property
    def digest(self) -> bytes:
        """Bytes that differ for different changes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class _Tests:
    """Tests to put and to remove in one entry."""

    put: tuple[SetTest, ...] = ()
    removed: tuple[str, ...] = ()


class SetChanger:
    """Changes one route set as a whole."""

    def __init__(
        self, engine: EnginePort, writer: Writer, running: set[str], config: EngineConfig
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._importer = Importer(engine, writer, running, config)

    def put_settings_now(self, settings: RouteSetSettings) -> WriteResult:
        """Replace the settings on the caller's thread; only without a shared log."""
        return self._writer.write_now(PutSettings(stored_settings(settings)), WriteOptions())

    async def apply(
        self,
        change: SetChange,
        routes: Routes = (),
        *,
        import_id: str | None = None,
        ack: Ack = "applied",
    ) -> ImportResult:
        """Put routes, remove others, and change settings and tests: all at once or nothing.

        Args:
            change: What changes besides the routes, and what its author saw.
            routes: The routes to put, from any iterable; each is in ``change.seen``.
            import_id: Identity by which an interrupted call is repeated.
            ack: Level of durability to wait for.

        Raises:
            NotFinalized: The log has not reached the level of route sets.
            PreconditionFailed: Something that the author saw has changed; nothing is applied.
            InvalidRoute: A route is not in ``seen``, or settings are malformed.
        """
        self._writer.require_level(SETS_LEVEL)
        plan = _Plan(self._engine, change)
        result = await self._importer.run(
            plan.seen_routes(routes), replace=False, import_id=import_id, ack=ack, plan=plan
        )
        for tests in plan.later_tests:
            await self._writer.write(PutTests(tests.put, tests.removed), WriteOptions(ack=ack))
        return result


class _Plan:
    """Makes the entry of one change, for the state at which it is committed."""

    def __init__(self, engine: EnginePort, change: SetChange) -> None:
        self._engine = engine
        self._change = change
        self._put: set[str] = set()
        self._tests, *self.later_tests = _tests_by_entry(change)

    @property
    def digest(self) -> bytes:
        return self._change.digest

    async def check(self) -> None:
        """Refuse a change whose author saw another state, before anything is staged."""
        await self._at_commit("", 0)

    async def make(self, run_id: str, chunk_count: int) -> CommitPlan:
        """Make the entry that commits the staged routes, for the state that this node holds."""
        return await self._at_commit(run_id, chunk_count)

    async def _at_commit(self, run_id: str, chunk_count: int) -> CommitPlan:
        def read(state: AppliedState) -> CommitPlan:
            return self._plan(state.table, run_id, chunk_count)

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

    def _plan(self, table: RouteTable, run_id: str, chunk_count: int) -> CommitPlan:
        change = self._change
        conflicts = list(
            islice(_conflicts(change, table.routes, table.settings, table.tests), CONFLICTS_SHOWN)
        )
        if conflicts:
            raise PreconditionFailed(
                f"the set changed since the plan was made: {'; '.join(conflicts)}"
            )
        settings = _settings_after(table.settings, change) if change.settings else None
        removed = tuple(sorted(set(change.removed)))
        texts = [*(test.text for test in self._tests.put), *self._tests.removed]
        names = {*self._put, *removed}
        before = None if settings is None else table.settings
        return CommitPlan(
            import_id=run_id,
            chunk_count=chunk_count,
            seen=seen_of(table.routes, names, before, table.tests, texts),
            removed=removed,
            settings=settings,
            tests=self._tests.put,
            tests_removed=self._tests.removed,
        )

    async def seen_routes(self, routes: Routes) -> AsyncIterator[Route]:
        """The routes, each of which the author must have looked for."""
        removed = set(self._change.removed)
        async for route in streamed(routes):
            if route.name not in self._change.seen:
                raise InvalidRoute(f"the route {route.name!r} is not in `seen`")
            if route.name in removed:
                raise InvalidRoute(f"the route {route.name!r} is put and removed")
            self._put.add(route.name)
            yield route


def _conflicts(
    change: SetChange,
    routes: Mapping[str, RouteRecord],
    settings: Settings,
    tests: Mapping[str, SetTest],
) -> Iterator[str]:
    """What is not as the author saw it, a few words each."""
    for name, seen in change.seen.items():
        record = routes.get(name)
        current = None if record is None else str(record.revision)
        if current != (seen if seen is None else str(revision_of(seen))):
            if seen is None:
                yield f"the route {name!r} exists now"
            elif current is None:
                yield f"the route {name!r} is gone"
            else:
                yield f"the route {name!r} is at {current}, not at {seen}"
    shown = shown_settings(settings)
    document = shown.model_dump(mode="json")
    for name, value in change.settings_seen.items():
        present = document.get(name, getattr(shown, name))  # some are left out at their defaults
        if present != value:
            yield f"the setting {name} is {json.dumps(present)}, not {json.dumps(value)}"
    for text in (*change.tests, *change.tests_removed):
        is_there, was_there = text in tests, text in change.tests_seen
        if is_there != was_there:
            yield f"the test {text[:60]!r} {'exists now' if is_there else 'is gone'}"
        elif is_there and tests[text].route != change.tests_seen[text]:
            yield f"the test {text[:60]!r} has another route"


def _settings_after(present: Settings, change: SetChange) -> Settings:
    """All settings as the change makes them.

    Raises:
        InvalidRoute: One is malformed.
    """
    shown = shown_settings(present)
    document = {name: getattr(shown, name) for name in RouteSetSettings.model_fields}
    try:
        wanted = RouteSetSettings.model_validate({**document, **change.settings}, strict=True)
    except ValidationError as error:
        found = field_errors(error, prefix="settings.")
        raise InvalidRoute(first_message(found, "a setting is malformed"), errors=found) from None
    return stored_settings(wanted)


def _tests_by_entry(change: SetChange) -> list[_Tests]:
    """The tests in parts that fit into an entry; the first may be empty."""
    items: list[tuple[str, str | None, bool]] = [
        *((text, route, False) for text, route in sorted(change.tests.items())),
        *((text, None, True) for text in sorted(set(change.tests_removed))),
    ]
    parts: list[_Tests] = []
    room_bytes, batch = TESTS_BYTES_MAX, list[tuple[str, str | None, bool]]()
    for item in items:
        size_bytes = len(json.dumps(item[:2]).encode())
        if batch and (size_bytes > room_bytes or len(batch) == TESTS_PER_ENTRY_MAX):
            parts.append(_part(batch))
            room_bytes, batch = TESTS_BYTES_MAX, []
        batch.append(item)
        room_bytes -= size_bytes
    parts.append(_part(batch))
    return parts


def _part(items: Sequence[tuple[str, str | None, bool]]) -> _Tests:
    return _Tests(
        tuple(SetTest(text, route) for text, route, is_removed in items if not is_removed),
        tuple(text for text, _, is_removed in items if is_removed),
    )

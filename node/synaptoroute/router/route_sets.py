"""Route sets and aliases: what there is, and how they are created, copied, limited and removed.

The content of a set is the business of a router that is bound to it, see ``AdaptiveRouter.set``.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from synaptoroute.core.change import AliasChange, AliasRecord, SetRecord
from synaptoroute.core.mutation import (
    DEFAULT_SET,
    DeleteAlias,
    DeleteSet,
    ForkSet,
    Mutation,
    PutAlias,
    PutSet,
    Revision,
    SetLimits,
)
from synaptoroute.core.names import is_set_name
from synaptoroute.core.set_validation import LIMIT_MAX
from synaptoroute.core.sets import RouteSets as ReplicatedSets
from synaptoroute.errors import AliasNotFound, InvalidQuery, InvalidRoute, SetNotFound
from synaptoroute.models import WriteResult, normal_name
from synaptoroute.ports import AppliedState
from synaptoroute.router.promotion import hashes_of, shown_evidence
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.serving.query import QueryEngine
from synaptoroute.tensor import Tensor
from synaptoroute.web.set_paths import set_not_found

PAGE_SETS_MAX: Final = 1_000
_DEFAULTS: Final = WriteOptions()
_ALL_LIMITS: Final = frozenset(SetLimits.__dataclass_fields__)
_NEVER: Final = Revision(0, 0)

IsVisible = Callable[[str], bool]


class RouteSetLimits(BaseModel):
    """Limits of a route set; 0 is no limit.

    Attributes:
        utterances_max: Utterances, descriptions and negatives.
        routes_max: Routes.
        bytes_max: Bytes of names, texts, payloads and metadata.
        writes_per_second_max: Writes that one node takes.
        write_bytes_per_second_max: Bytes in the log of the writes that one node takes.
    """

    model_config = ConfigDict(extra="forbid")

    utterances_max: int = Field(default=0, ge=0, le=LIMIT_MAX)
    routes_max: int = Field(default=0, ge=0, le=LIMIT_MAX)
    bytes_max: int = Field(default=0, ge=0, le=LIMIT_MAX)
    writes_per_second_max: int = Field(default=0, ge=0, le=LIMIT_MAX)
    write_bytes_per_second_max: int = Field(default=0, ge=0, le=LIMIT_MAX)

    @classmethod
    def of(cls, limits: SetLimits) -> Self:
        return cls(**asdict(limits))

    def stored(self) -> SetLimits:
        """The form of the log."""
        return SetLimits(**self.model_dump())


class RouteSetInfo(BaseModel):
    """A route set.

    Attributes:
        name: Its name.
        routes: Number of its routes.
        utterances: Utterances, descriptions and negatives.
        revision: ``epoch.seq`` of the last change of what answers in it; its ETag.
        created: ``epoch.seq`` of its creation; ``0.0`` for ``default``.
        forked_from: The set that it was copied from; None for none.
        limits: Its limits.
        aliases: Aliases that name it, in order.
    """

    name: str
    routes: int
    utterances: int
    revision: str
    created: str
    forked_from: str | None
    limits: RouteSetLimits
    aliases: list[str]


class RouteSetPage(BaseModel):
    """Some route sets, in order of name.

    Attributes:
        next_after: Name to continue after; None at the end.
        version: ``epoch.seq`` at which they were read.
    """

    sets: list[RouteSetInfo]
    next_after: str | None
    version: str


class AliasChangeInfo(BaseModel):
    """One change of an alias.

    Attributes:
        version: Its ``epoch.seq``.
        at_ms: When it was made, milliseconds since 1970, by the clock of the node that took it.
        author: Name of the API key; None for a client without a key.
        note: What the client said about it.
        before: The set that answered before; None for a new alias.
        set: The set that answers since.
        shadow: The set that is scored as well; None for none.
        shadow_share: Share of the queries that are scored on the shadow.
        canary: The set that answers some sessions; None for none.
        canary_share: Share of the sessions.
        evidence: What a gate measured; None without one.
    """

    version: str
    at_ms: int
    author: str | None
    note: str | None
    before: str | None
    set: str
    shadow: str | None
    shadow_share: float
    canary: str | None
    canary_share: float
    evidence: dict[str, Any] | None = None


class AliasInfo(BaseModel):
    """An alias of a route set.

    Attributes:
        name: Its name.
        set: The set that answers.
        shadow: A set that is scored as well and answers nothing; None for none.
        shadow_share: Share of the queries that are scored on the shadow, 0 to 1.
        canary: A set that answers some sessions; None for none.
        canary_share: Share of the sessions that the canary answers, 0 to 1.
        revision: ``epoch.seq`` of its last change; its ETag.
        history: Its newest changes, at most 50, the newest first.
    """

    name: str
    set: str
    shadow: str | None = None
    shadow_share: float = 0.0
    canary: str | None = None
    canary_share: float = 0.0
    revision: str
    history: list[AliasChangeInfo] = []  # pydantic copies a default for each object


class AliasPage(BaseModel):
    """Some aliases, in order of name, without their histories; see ``RouteSetPage``."""

    aliases: list[AliasInfo]
    next_after: str | None
    version: str


class SetFigures(NamedTuple):
    """How much is in a route set, and how many queries were decided in it on this node."""

    name: str
    number: int
    routes: int
    slots_used: int
    decisions: int


class RouteSetAdmin:
    """The route sets and aliases of one router.  Used on its event loop."""

    def __init__(self, engine: QueryEngine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer

    # --- reads ---

    async def sets(
        self, *, after: str = "", limit: int = 100, is_visible: IsVisible | None = None
    ) -> RouteSetPage:
        """Read up to ``limit`` route sets whose names follow ``after``, in order of name.

        Args:
            is_visible: Whether the reader may know a set or an alias; None shows all.
        """
        _check_limit(limit)

        def read(state: AppliedState) -> RouteSetPage:
            sets = state.replica.sets
            names, next_after = _page_of(sets.numbers, after, limit, is_visible)
            aliases = _names_by_set(sets.aliases.values(), is_visible)
            shown = [_info_of(sets, name, aliases.get(name, []), is_visible) for name in names]
            version = str(state.replica.position.revision)
            return RouteSetPage(sets=shown, next_after=next_after, version=version)

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

    async def get(self, name: str, is_visible: IsVisible | None = None) -> RouteSetInfo:
        """Read one route set.

        Raises:
            SetNotFound: No set has this name.
        """
        name = normal_name(name)

        def read(state: AppliedState) -> RouteSetInfo:
            sets = state.replica.sets
            if name not in sets.numbers:
                raise set_not_found(name)
            aliases = _names_by_set(sets.aliases.values(), is_visible)
            return _info_of(sets, name, aliases.get(name, []), is_visible)

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

    async def aliases(
        self, *, after: str = "", limit: int = 100, is_visible: IsVisible | None = None
    ) -> AliasPage:
        """Read up to ``limit`` aliases whose names follow ``after``, in order of name."""
        _check_limit(limit)

        def read(state: AppliedState) -> AliasPage:
            known = state.replica.sets.aliases
            names, next_after = _page_of(known, after, limit, is_visible)
            shown = [_alias_info(known[name], has_history=False) for name in names]
            version = str(state.replica.position.revision)
            return AliasPage(aliases=shown, next_after=next_after, version=version)

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

    async def alias(
        self, name: str, is_readable: Callable[[str], bool] = lambda _: True
    ) -> AliasInfo:
        """Read one alias with its history.

        Args:
            is_readable: Whether the reader may know the tests of a set; the evidence names failed
                tests, as long as they exist.

        Raises:
            AliasNotFound: No alias has this name.
        """
        name = normal_name(name)

        def read(state: AppliedState) -> tuple[AliasRecord, list[str]]:
            sets = state.replica.sets
            record = sets.aliases.get(name)
            if record is None:
                raise alias_not_found(name)
            named = {each.target for each in record.history if each.evidence}
            tables = [sets.table_of(each) for each in named if is_readable(each)]
            return record, [text for table in tables if table is not None for text in table.tests]

        record, texts = await asyncio.wrap_future(self._engine.run_on_applier(read))
        return _alias_info(record, await asyncio.to_thread(hashes_of, texts) if texts else {})

    def figures(self) -> list[SetFigures]:
        """Count what is in each set, and what was decided there; never blocks."""
        engine, found = self._engine, []
        for name, number in engine.set_names.items():
            with suppress(SetNotFound):  # it was removed meanwhile
                published = engine.published_of(name)
                decided = sum(count for _, count in engine.decision_figures_of(name).reasons)
                found.append(
                    SetFigures(name, number, published.routes_count, published.slots_used, decided)
                )
        return found

    async def removed(
        self, pairs: Sequence[tuple[str, str]]
    ) -> tuple[set[str], list[tuple[str, str]]]:
        """Find which of some sets and routes do not exist.

        Args:
            pairs: Route set and route.

        Returns:
            Sets that do not exist, and pairs whose set exists without the route.
        """

        def read(tensors: Mapping[str, Tensor]) -> tuple[set[str], list[tuple[str, str]]]:
            gone = {name for name, _ in pairs if name not in tensors}
            routes = [
                (name, route)
                for name, route in pairs
                if name not in gone and route not in tensors[name].routes
            ]
            return gone, routes

        return await asyncio.wrap_future(self._engine.read_sets(read))

    # --- changes ---

    async def put(
        self, name: str, limits: RouteSetLimits | None, options: WriteOptions = _DEFAULTS
    ) -> WriteResult:
        """Create a route set, or replace the limits of one; without ``limits`` they stay."""
        return await self.write(_put_of(name, limits), options)

    async def change_limits(
        self, name: str, limits: RouteSetLimits, options: WriteOptions = _DEFAULTS
    ) -> WriteResult:
        """Change the limits that ``limits`` was given; the others stay as the log has them.

        Raises:
            SetNotFound: No set has the name.
        """
        await self.get(name)
        kept = _ALL_LIMITS - limits.model_fields_set
        return await self.write(PutSet(checked_set_name(name), limits.stored(), kept), options)

    async def fork(self, name: str, into: str, options: WriteOptions = _DEFAULTS) -> WriteResult:
        """Create a route set as a copy of another one."""
        return await self.write(ForkSet(checked_set_name(name), checked_set_name(into)), options)

    async def delete(self, name: str, options: WriteOptions = _DEFAULTS) -> WriteResult:
        """Remove a route set with everything in it."""
        return await self.write(DeleteSet(checked_set_name(name)), options)

    async def put_alias(
        self,
        name: str,
        target: str,
        *,
        shadow: str | None = None,
        shadow_share: float = 0.0,
        canary: str | None = None,
        canary_share: float = 0.0,
        options: WriteOptions = _DEFAULTS,
    ) -> WriteResult:
        """Point an alias at a route set."""
        put = PutAlias(
            checked_set_name(name),
            checked_set_name(target),
            checked_set_name(shadow) if shadow else "",
            float(shadow_share),
            checked_set_name(canary) if canary else "",
            float(canary_share),
            at_ms=time.time_ns() // 1_000_000,
        )
        return await self.write(put, options)

    async def delete_alias(self, name: str, options: WriteOptions = _DEFAULTS) -> WriteResult:
        """Remove an alias."""
        return await self.write(DeleteAlias(checked_set_name(name)), options)

    async def write(self, mutation: Mutation, options: WriteOptions) -> WriteResult:
        """Write a change of sets or aliases, before the router's start or after it."""
        if self._engine.is_started:
            return await self._writer.write(mutation, options)
        return await asyncio.to_thread(self._writer.write_now, mutation, options)


def _put_of(name: str, limits: RouteSetLimits | None) -> PutSet:
    # What this node knows of the limits may be old: the log says what stays.
    if limits is None:
        return PutSet(checked_set_name(name), kept=_ALL_LIMITS)
    return PutSet(checked_set_name(name), limits.stored())


class RouteSetOperations:
    """Changes of route sets and aliases on the caller's thread; see ``AdaptiveRouter.sets``."""

    def _check_local(self) -> None:
        raise NotImplementedError

    def _writer(self) -> Writer:
        raise NotImplementedError

    def create_set(self, name: str, limits: RouteSetLimits | None = None) -> WriteResult:
        """Create a route set, or replace the limits of one; without ``limits`` they stay."""
        return self._write_set(_put_of(name, limits))

    def fork_set(self, name: str, into: str) -> WriteResult:
        """Create a route set as a copy of another one."""
        return self._write_set(ForkSet(checked_set_name(name), checked_set_name(into)))

    def delete_set(self, name: str) -> WriteResult:
        """Remove a route set with everything in it."""
        return self._write_set(DeleteSet(checked_set_name(name)))

    def put_alias(self, name: str, target: str) -> WriteResult:
        """Point an alias at a route set."""
        at_ms = time.time_ns() // 1_000_000
        put = PutAlias(checked_set_name(name), checked_set_name(target), at_ms=at_ms)
        return self._write_set(put)

    def delete_alias(self, name: str) -> WriteResult:
        """Remove an alias."""
        return self._write_set(DeleteAlias(checked_set_name(name)))

    def _write_set(self, mutation: Mutation) -> WriteResult:
        self._check_local()
        return self._writer().write_now(mutation, _DEFAULTS)


def checked_set_name(name: object) -> str:
    """The name of a route set or an alias, in its normal form.

    Raises:
        InvalidRoute: It is malformed.
    """
    normal = normal_name(name) if isinstance(name, str) else ""
    if not is_set_name(normal):
        raise InvalidRoute(
            "the name of a route set or an alias is 1 to 128 letters, digits, '_', '.', ':', '-',"
            " '@' and inner spaces, and begins with a letter or a digit"
        )
    return normal


def alias_not_found(name: str) -> AliasNotFound:
    """The error for an alias that is not there, or that the caller may not know."""
    shown = name if len(name) <= 120 else f"{name[:117]}..."
    return AliasNotFound(f"no alias has the name {shown!r}")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= PAGE_SETS_MAX:
        raise InvalidQuery(f"limit must be 1 to {PAGE_SETS_MAX}")


def _page_of(
    names: Iterable[str], after: str, limit: int, is_visible: IsVisible | None
) -> tuple[list[str], str | None]:
    """The first names after one, and the name to continue after."""
    seen = (name for name in names if name > after and (is_visible is None or is_visible(name)))
    found = heapq.nsmallest(limit + 1, seen)
    shown = found[:limit]
    return shown, shown[-1] if len(found) > limit else None


def _names_by_set(
    aliases: Iterable[AliasRecord], is_visible: IsVisible | None
) -> dict[str, list[str]]:
    """Names of the aliases that name each set, in order."""
    found: dict[str, list[str]] = {}
    for each in sorted(aliases):
        if is_visible is None or is_visible(each.name):
            for name in {each.target, each.shadow, each.canary} - {""}:
                found.setdefault(name, []).append(each.name)
    return found


def _info_of(
    sets: ReplicatedSets, name: str, aliases: list[str], is_visible: IsVisible | None
) -> RouteSetInfo:
    number = sets.numbers[name]
    table = sets.tables[number]
    record = sets.records.get(number) or SetRecord(0, DEFAULT_SET, SetLimits(), _NEVER, _NEVER)
    source = record.forked_from
    is_shown = bool(source) and (is_visible is None or is_visible(source))
    return RouteSetInfo(
        name=record.name,
        routes=len(table.routes),
        utterances=table.slots_used,
        revision=str(record.revision),
        created=str(record.created if record.number else _NEVER),
        forked_from=source if is_shown else None,
        limits=RouteSetLimits.of(record.limits),
        aliases=aliases,
    )


def _alias_info(
    record: AliasRecord, by_hash: Mapping[str, str] | None = None, *, has_history: bool = True
) -> AliasInfo:
    shown = record.history if has_history else ()
    return AliasInfo(
        name=record.name,
        set=record.target,
        shadow=record.shadow or None,
        shadow_share=record.shadow_share,
        canary=record.canary or None,
        canary_share=record.canary_share,
        revision=str(record.revision),
        history=[_change_info(each, by_hash or {}) for each in shown],
    )


def _change_info(change: AliasChange, by_hash: Mapping[str, str]) -> AliasChangeInfo:
    return AliasChangeInfo.model_validate(
        {
            "version": str(change.at),
            "at_ms": change.at_ms,
            "author": change.author or None,
            "note": change.note or None,
            "before": change.before or None,
            "set": change.target,
            "shadow": change.shadow or None,
            "shadow_share": change.shadow_share,
            "canary": change.canary or None,
            "canary_share": change.canary_share,
            "evidence": shown_evidence(change.evidence, by_hash),
        }
    )

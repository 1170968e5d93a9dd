"""Reverts: new changes that restore what one entry of the log changed.

A revert is conditional: it has no effect where a later entry changed the same route, settings,
tests or alias, unless the caller names the revision of the route or alias that is to be replaced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from synaptoroute.change_models import HistoryChange, HistoryEntry
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import (
    DeleteAlias,
    DeleteRoute,
    Mutation,
    PutAlias,
    PutSettings,
    Revision,
)
from synaptoroute.errors import (
    ChangeNotFound,
    ChangeSuperseded,
    NotRevertible,
    PreconditionFailed,
)
from synaptoroute.models import Route, RouteSetSettings, WriteResult
from synaptoroute.ports import AppliedState
from synaptoroute.router.feedback import stored_settings
from synaptoroute.router.history import read_entry
from synaptoroute.router.past_states import settings_of
from synaptoroute.router.set_changes import SetChange, SetChanger
from synaptoroute.router.write_results import result_of
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.serving.query import QueryEngine

_OF_CONTENT: Final = frozenset({"route", "settings", "tests"})


@dataclass(frozen=True, slots=True)
class SetWriters:
    """What writes into one route set."""

    engine: QueryEngine
    writer: Writer
    changer: SetChanger


class Reverter:
    """Reverts changes of one cluster through one node.

    Args:
        writers_of: Finds what writes into a set by its name.
    """

    def __init__(
        self, engine: QueryEngine, writer: Writer, writers_of: Callable[[str], SetWriters]
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._writers_of = writers_of

    async def revert(
        self,
        version: Revision,
        options: WriteOptions,
        check: Callable[[HistoryEntry], None] = lambda _: None,
    ) -> WriteResult:
        """Restore all that one entry changed, by one new entry.

        Args:
            version: The entry, by its place in the log.
            options: ``if_match`` names the present revision of the only route or alias that the
                entry changed; then later changes of it are replaced as well.
            check: Raises if the caller may not revert the entry.

        Returns:
            The result; ``count`` is the number of changes reverted.

        Raises:
            ChangeNotFound: This node does not keep the entry.
            NotRevertible: Its kind cannot be reverted, or what was before is not kept.
            ChangeSuperseded: A later entry changed the same; nothing was reverted.
            PreconditionFailed: The route or alias is not at ``if_match``.
        """
        database = self._engine.database
        entry = await asyncio.to_thread(read_entry, database, version.epoch, version.seq)
        if entry is None:
            raise change_not_found(str(version))
        check(entry)
        changes = _revertible(entry, options)
        only = changes[0] if len(changes) == 1 else None
        if only is not None and only.kind == "alias":
            result = await self._restore_alias(only, version, options)
        elif only is not None and only.kind == "route":
            result = await self._restore_route(only, version, options)
        else:
            result = await self._restore_content(changes, version, options)
        return result.model_copy(update={"count": len(changes)})

    # --- one route or alias ---

    async def _restore_route(
        self, change: HistoryChange, version: Revision, options: WriteOptions
    ) -> WriteResult:
        writers = self._writers_of(change.route_set)

        def read(state: AppliedState) -> Revision | None:
            table = state.replica.sets.table_of(change.route_set)
            record = None if table is None else table.routes.get(change.name)
            return None if record is None else record.revision

        known = await _repeated(writers.engine, options)
        if known is not None:
            return known
        present = await asyncio.wrap_future(self._engine.run_on_applier(read))
        options = _conditional(change, version, present, options)
        if change.before is None:
            return await writers.writer.write(DeleteRoute(change.name), options)
        return await writers.writer.put(_route(change), options, is_checked=False)

    async def _restore_alias(
        self, change: HistoryChange, version: Revision, options: WriteOptions
    ) -> WriteResult:
        before = change.before or {}
        named = {before.get(side) for side in ("target", "shadow", "canary")}

        def read(state: AppliedState) -> tuple[Revision | None, list[str]]:
            sets = state.replica.sets
            record = sets.aliases.get(change.name)
            # A set that was created since shares the name alone with the one of then.
            new = [
                each.name
                for each in sets.records.values()
                if each.name in named and each.created > version
            ]
            return None if record is None else record.revision, new

        known = await _repeated(self._engine, options)
        if known is not None:
            return known
        present, new = await asyncio.wrap_future(self._engine.run_on_applier(read))
        if new:
            raise ChangeSuperseded(f"the route set {new[0]!r} was created again after {version}")
        options = _conditional(change, version, present, options)
        mutation: Mutation = DeleteAlias(change.name)
        if change.before is not None:
            at_ms = time.time_ns() // 1_000_000
            mutation = PutAlias(change.name, **change.before, at_ms=at_ms)
        return await self._writer.write(mutation, options)

    # --- content of a set ---

    async def _restore_content(
        self, changes: list[HistoryChange], version: Revision, options: WriteOptions
    ) -> WriteResult:
        writers = self._writers_of(changes[0].route_set)
        if len(changes) == 1 and changes[0].kind == "settings" and not self._has_plans:
            return await self._restore_settings(changes[0], writers, options)
        import_id = None if options.op_id is None else f"revert-{options.op_id.hex()}"
        routes = [
            _route(each) for each in changes if each.kind == "route" and each.before is not None
        ]
        plan = _plan(changes, version)
        try:
            found = await writers.changer.apply(plan, routes, import_id=import_id, ack=options.ack)
        except PreconditionFailed as error:
            raise ChangeSuperseded(error.message) from error
        return WriteResult(
            status=found.status, op_id=found.op_id, version=found.version, ack=options.ack
        )

    @property
    def _has_plans(self) -> bool:
        return self._engine.replica_status.level >= SETS_LEVEL

    async def _restore_settings(
        self, change: HistoryChange, writers: SetWriters, options: WriteOptions
    ) -> WriteResult:
        """Restore all settings; for a log below the level of plans."""
        present = await asyncio.wrap_future(self._engine.read(lambda each: each.settings))
        if settings_of(present) != change.after:
            raise ChangeSuperseded("the settings were changed again")
        settings = RouteSetSettings.model_validate(change.before)
        return await writers.writer.write(PutSettings(stored_settings(settings)), options)


async def _repeated(engine: QueryEngine, options: WriteOptions) -> WriteResult | None:
    """The result of a revert that was sent before with the same identity."""
    if options.op_id is None:
        return None
    look_up = engine.look_up(options.op_id, options.request_hash)
    outcome = await asyncio.wrap_future(look_up)
    return None if outcome is None else result_of(outcome, options.op_id)


def _conditional(
    change: HistoryChange, version: Revision, present: Revision | None, options: WriteOptions
) -> WriteOptions:
    """Make a write conditional on that nothing came after the entry.

    Raises:
        ChangeSuperseded: Something did already.
    """
    if options.if_match is not None:
        return options
    expected = None if change.after is None else version
    if present != expected:
        raise ChangeSuperseded(
            f"{change.name!r} was changed again after {version}: name its present revision in"
            " If-Match to replace that as well",
            current=None if present is None else str(present),
        )
    return replace(options, if_match=expected, if_none_match=expected is None)


def _route(change: HistoryChange) -> Route:
    return Route.model_validate({"name": change.name, **(change.before or {})})


def _plan(changes: list[HistoryChange], version: Revision) -> SetChange:
    """What to change besides the routes that are put, and what must still be as it was."""
    fields: dict[str, Any] = {"seen": {}, "removed": []}
    for each in changes:
        before, after = each.before or {}, each.after or {}
        if each.kind == "route":
            fields["seen"][each.name] = None if each.after is None else str(version)
            if each.before is None:
                fields["removed"].append(each.name)
        elif each.kind == "settings":
            changed = [name for name in before if before[name] != after.get(name)]
            fields["settings"] = {name: before[name] for name in changed}
            fields["settings_seen"] = {name: after.get(name) for name in changed}
        else:
            fields["tests"] = before
            fields["tests_removed"] = sorted(after.keys() - before.keys())
            fields["tests_seen"] = after
    return SetChange.model_validate(fields)


def change_not_found(version: str) -> ChangeNotFound:
    """The error for an entry that is not kept, or that the caller may not know."""
    return ChangeNotFound(f"this node keeps no change with the version {version}")


def _revertible(entry: HistoryEntry, options: WriteOptions) -> list[HistoryChange]:
    """The changes of an entry, all of which can be reverted."""
    changes: list[HistoryChange] = entry.changes or []
    if entry.status != "applied" or not changes:
        raise NotRevertible(f"{entry.action} at {entry.version} changed nothing to restore")
    kinds = {each.kind for each in changes}
    if not (kinds <= _OF_CONTENT or kinds == {"alias"}):
        raise NotRevertible(f"{entry.action} cannot be reverted")
    if len(changes) < entry.changes_total:
        raise NotRevertible(
            f"{entry.action} changed {entry.changes_total} routes: roll the alias back, or import"
            " the routes again"
        )
    if not all(each.is_known for each in changes):
        raise NotRevertible("this node does not keep any more what was there before the change")
    if options.if_match is not None and (len(changes) > 1 or kinds <= {"settings", "tests"}):
        raise NotRevertible("If-Match needs an entry that changed one route or one alias")
    return changes

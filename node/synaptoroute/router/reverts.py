"""Reverts: new changes that restore what one entry of the log changed.

A revert is conditional: it has no effect where a later entry changed the same route, alias or
settings, unless the caller names the revision that is to be replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from synaptoroute.core.mutation import DeleteRoute, Mutation, PutSettings, Revision
from synaptoroute.errors import ChangeNotFound, ChangeSuperseded, NotRevertible
from synaptoroute.models import Route, RouteSetSettings, WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.router.feedback import stored_settings
from synaptoroute.router.history import HistoryChange, HistoryEntry, read_entry
from synaptoroute.router.past_states import State, settings_of
from synaptoroute.router.writes import WriteOptions, Writer, derived_op_id, result_of
from synaptoroute.tensor import Tensor


class Reverter:
    """Reverts changes of one cluster through one node."""

    def __init__(self, engine: EnginePort, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer

    async def revert(
        self,
        version: Revision,
        options: WriteOptions,
        check: Callable[[HistoryEntry], None] = lambda _: None,
    ) -> WriteResult:
        """Restore what one entry changed.

        An entry that changed several routes is reverted by one conditional entry for each.

        Args:
            version: The entry, by its place in the log.
            options: ``if_match`` names the present revision of the only route or alias that the
                entry changed; then later changes of it are replaced as well.
            check: Raises if the caller may not revert the entry.

        Returns:
            The result of the last entry; ``count`` is the number of changes reverted.

        Raises:
            ChangeNotFound: This node does not keep the entry.
            NotRevertible: Its kind cannot be reverted, or what was before is not kept.
            ChangeSuperseded: A later entry changed the same thing; nothing was reverted.
            PreconditionFailed: Another write came between; ``count`` changes were reverted.
        """
        known = await self._repeated(options)
        if known is not None:
            return known
        database = self._engine.database
        entry = await asyncio.to_thread(read_entry, database, version.epoch, version.seq)
        if entry is None:
            raise change_not_found(str(version))
        check(entry)
        changes = _revertible(entry, options)
        await asyncio.gather(*(self._check(each, version, options) for each in changes))
        result: WriteResult | None = None
        for number, change in enumerate(changes):
            own = options
            if options.op_id is not None and number < len(changes) - 1:
                own = replace(options, op_id=derived_op_id(options.op_id.hex(), str(number)))
            result = await self._restore(change, version, own)
        assert result is not None
        return result.model_copy(update={"count": len(changes)})

    async def _repeated(self, options: WriteOptions) -> WriteResult | None:
        """The result of a revert that was sent before with the same identity."""
        if options.op_id is None:
            return None
        look_up = self._engine.look_up(options.op_id, options.request_hash)
        outcome = await asyncio.wrap_future(look_up)
        return None if outcome is None else result_of(outcome, options.op_id)

    async def _check(self, change: HistoryChange, version: Revision, options: WriteOptions) -> None:
        """Refuse to revert what a later entry changed."""
        if options.if_match is not None:
            return
        if change.kind == "route":
            present = await self._revision_of(change.name)
            is_newest = present == (None if change.after is None else version)
        else:
            settings = await asyncio.wrap_future(self._engine.read(lambda each: each.settings))
            present, is_newest = None, settings_of(settings) == change.after
        if not is_newest:
            name = change.name or f"the {change.kind} of {change.route_set}"
            raise ChangeSuperseded(
                f"{name} was changed again after {version}: name its present revision in If-Match"
                " to replace that as well",
                current=None if present is None else str(present),
            )

    async def _revision_of(self, name: str) -> Revision | None:
        def read(tensor: Tensor) -> Revision | None:
            record = tensor.routes.get(name)
            return None if record is None else record.revision

        return await asyncio.wrap_future(self._engine.read(read))

    async def _restore(
        self, change: HistoryChange, version: Revision, options: WriteOptions
    ) -> WriteResult:
        if change.kind == "settings":
            return await self._writer.write(_settings_before(change.before), options)
        if options.if_match is None:
            is_absent = change.after is None
            options = replace(
                options, if_match=None if is_absent else version, if_none_match=is_absent
            )
        if change.before is None:
            return await self._writer.write(DeleteRoute(change.name), options)
        route = Route.model_validate({"name": change.name, **change.before})
        return await self._writer.put(route, options, is_checked=False)


def change_not_found(version: str) -> ChangeNotFound:
    return ChangeNotFound(f"this node keeps no change with the version {version}")


def _settings_before(state: State) -> Mutation:
    return PutSettings(stored_settings(RouteSetSettings.model_validate(state)))


def _revertible(entry: HistoryEntry, options: WriteOptions) -> list[HistoryChange]:
    """The changes of an entry, all of which can be reverted."""
    changes: list[HistoryChange] = entry.changes or []
    if entry.status != "applied" or not changes:
        raise NotRevertible(f"{entry.action} at {entry.version} changed nothing to restore")
    if any(each.kind not in ("route", "settings") for each in changes):
        raise NotRevertible(f"{entry.action} cannot be reverted")
    if len(changes) < entry.changes_total:
        raise NotRevertible(
            f"{entry.action} changed {entry.changes_total} routes: fork or restore the set instead"
        )
    if not all(each.is_known for each in changes):
        raise NotRevertible("this node does not keep any more what was there before the change")
    if options.if_match is not None and len(changes) > 1:
        raise NotRevertible("If-Match names one revision, and the entry changed several routes")
    return changes

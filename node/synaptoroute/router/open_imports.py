"""Open imports: list them, abort one, and expire those that nobody continues.

An import stays open until it is committed or aborted, and only so many may be open at once.  If
its author dies, any node aborts it after a while.  The author of an import that is slow stages an
empty chunk now and then, so a touched import is a living one.

In a cluster the abort is appended directly after the position at which the import was idle, or
after entries that do not name the import.  So a chunk that arrives meanwhile always wins.  The
op_id follows from the import and its newest entry: of several aborts one has an effect.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from synaptoroute.core.change import StagedImport
from synaptoroute.core.imports import encoder_of
from synaptoroute.core.mutation import ImportAbort, Position, Proposal
from synaptoroute.errors import ImportNotFound, ImportRejected, SynaptoRouteError
from synaptoroute.log import Log
from synaptoroute.models import WriteResult
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.router.imports import RUN_SEPARATOR
from synaptoroute.router.op_ids import scoped_op_id
from synaptoroute.router.shared_log import shared_log
from synaptoroute.router.write_results import result_of
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.sequencer.append_errors import NotPlaced

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

CHECK_SECONDS_MIN: Final = 0.2
CHECK_SECONDS_MAX: Final = 15.0
CHECKS_PER_IDLE_TIME: Final = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One state of an open import: it changes with every entry of the import."""

    import_id: str
    touched_seq: int
    route_set: str  # Empty for ``default``


class OpenImports:
    """The open imports of one router.  Used on its event loop."""

    def __init__(
        self,
        engine: EnginePort,
        writer: Writer,
        log: Log,
        follower: Follower | None,
        running: Collection[str],  # Imports that this router is sending
        idle_seconds: float,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._log = log
        self._follower = follower
        self._running = running
        self._idle_seconds = idle_seconds
        self._since: dict[_Seen, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Expire idle imports in a task of its own."""
        self._task = asyncio.create_task(self._run(), name="import-expiry")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def staged(self) -> list[StagedImport]:
        """Read the imports of routes that are neither committed nor aborted."""

        def read(state: AppliedState) -> list[StagedImport]:
            imports = state.table.imports
            return [found for name, found in imports.items() if encoder_of(name) is None]

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

    async def abort(self, identity: str, options: WriteOptions) -> WriteResult:
        """Abort every open run of an import.

        Raises:
            ImportNotFound: No import of this identity is open.
        """
        if options.op_id is not None:  # the same request again gets the same answer
            op_id = scoped_op_id(options.op_id, self._writer.route_set)
            known = self._engine.look_up(op_id, options.request_hash)
            outcome = await asyncio.wrap_future(known)
            if outcome is not None:
                return result_of(outcome, op_id)
        result: WriteResult | None = None
        for staged in await self.staged():
            name = staged.begin.import_id
            if name.partition(RUN_SEPARATOR)[0] != identity:
                continue
            try:
                result = await self._writer.write(ImportAbort(name), options)
            except ImportRejected:
                continue  # it was committed or aborted meanwhile
            # The client's identity of the write can name one entry.
            options = replace(options, op_id=None)
        if result is None:
            raise ImportNotFound(f"no import {identity!r} is open", import_id=identity)
        return result

    # --- expiry -----------------------------------------------------------------------

    async def _run(self) -> None:
        seconds = self._idle_seconds / CHECKS_PER_IDLE_TIME
        seconds = min(CHECK_SECONDS_MAX, max(CHECK_SECONDS_MIN, seconds))
        while True:
            # Jitter, so that mostly one node proposes an abort and the others find it done.
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
            try:
                await self.expire()
            except SynaptoRouteError as error:
                _log.debug("idle imports could not be expired: %s", error)
            except Exception as error:  # a bug: the next round goes on
                _log.exception("the expiry of imports failed: %s", error)

    async def expire(self) -> int:
        """Abort the imports that were idle for too long; return how many aborts were sent."""
        # The text of ``LogState.OPEN``: loading the replication here would block the event loop.
        if self._follower and self._follower.session.log_state != "open":
            self._since.clear()  # no chunk can arrive, so silence proves nothing
            return 0
        at, seen = await self._read()
        now = time.monotonic()
        self._since = {each: self._since.get(each, now) for each in seen}
        idle = [
            each
            for each, since in self._since.items()
            if now - since >= self._idle_seconds and each.import_id not in self._running
        ]
        for each in idle:
            await self._abort_idle(at, each)
        return len(idle)

    async def _abort_idle(self, at: Position, seen: _Seen) -> None:
        # The coordinator derives the same op_id.
        name = f"abort|{seen.import_id}|{seen.touched_seq}".encode()
        op_id = hashlib.sha256(name).digest()[:16]
        proposal = Proposal(op_id, ImportAbort(seen.import_id), route_set=seen.route_set)
        if (log := shared_log(self._log)) is not None:
            encoder = self._engine.encoder
            placed = await log.append_unless_named(
                at, proposal, seen.import_id, encoder.fingerprint, encoder.dim
            )
            if isinstance(placed, NotPlaced):
                return  # the import went on, or the log did; the next round looks again
        else:
            await self._log.append([proposal])
        _log.warning("the import %s was idle and is aborted", seen.import_id)

    async def _read(self) -> tuple[Position, set[_Seen]]:
        """Read the open imports of all route sets, and the position at which they are open."""

        def read(state: AppliedState) -> tuple[Position, set[_Seen]]:
            sets = state.replica.sets
            found = {
                _Seen(name, staged.touched_seq, "" if number == 0 else sets.records[number].name)
                for number, table in sets.tables.items()
                for name, staged in table.imports.items()
                if encoder_of(name) is None
            }
            return state.replica.position, found

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

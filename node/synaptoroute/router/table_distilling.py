"""Distils the static table of the encoder in the background, where no node has one.

One node of a cluster does it, under a lease; the others read the table from it.  A lease that is
lost costs work alone: tables differ in their last digits at most, and a calibration names its own.

It runs on a thread of its own at the lowest priority, on one core, and rests as long as it works.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from synaptoroute.cascade.table_store import DISTILLING, NO_TABLE, TOO_LARGE, TableStore
from synaptoroute.encoder import StaticTable, distil
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.serving.query import QueryEngine
from synaptoroute.threads import end_task, lower_priority

if TYPE_CHECKING:
    from synaptoroute.sequencer.lease import Held, Lease

MISSED_SECONDS: Final = 10.0
"""A table is distilled if no peer gave one for so long."""
LEASE_MS: Final = 30_000
"""It is not given back after the work: the others see the new table before it ends."""
STOP_SECONDS_MAX: Final = 2.0
REST_SECONDS_MAX: Final = 0.25
TOKENS_A_RUN: Final = 64
_LOWEST_PRIORITY_NICE: Final = 19

_log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The table is no longer needed, or the router stops."""


class TableDistiller:
    """Used on the event loop; ``look`` is called every few seconds."""

    def __init__(
        self,
        engine: Callable[[], QueryEngine],
        tables: TableStore,
        tokens_max: int,
        lease: Callable[[str], Lease] | None,
    ) -> None:
        """Prepare.

        Args:
            tables: Gets the table, and is told how far it is.
            tokens_max: Larger vocabularies are left to ``model prepare``; 0 leaves all.
            lease: Makes the lease of an encoder, by its fingerprint; None for a node on its own.
        """
        self._engine, self._tables, self._tokens_max = engine, tables, tokens_max
        self._make_lease = lease
        self._lease: Lease | None = None
        self._held: Held | None = None
        self._missed_since: float | None = None
        self._failed = ""  # Fingerprint of an encoder that could not be distilled
        self._stop = threading.Event()
        self._work: asyncio.Task[None] | None = None

    async def look(self, *, is_missed: bool) -> None:
        """Begin, go on or stop.

        Args:
            is_missed: Whether route sets would use a table that this node could not get.

        Raises:
            ClusterError: Redis does not answer; work that has begun goes on.
        """
        if not is_missed or self._tables.keep is None:
            self._missed_since = None
            self._end()
            return
        if self._work is not None:
            await self._renew()
            return
        now = time.monotonic()
        self._missed_since = now if self._missed_since is None else self._missed_since
        encoder: Any = self._engine().encoder
        if now - self._missed_since < MISSED_SECONDS or encoder.fingerprint == self._failed:
            return
        if not self._tokens_max or not hasattr(encoder, "vocabulary"):
            return
        if await asyncio.to_thread(lambda: encoder.vocabulary().count) > self._tokens_max:
            self._tables.reason = TOO_LARGE
            return
        if await self._acquire(encoder.fingerprint):
            self._stop = threading.Event()
            self._work = asyncio.create_task(self._distil(encoder), name="distil")

    async def stop(self) -> None:
        """Stop; nothing is left of a table that is not complete."""
        self._end()
        work = self._work
        if work is not None:
            # It ends after a run.  Only the decomposition at the end takes longer.
            await asyncio.wait([work], timeout=STOP_SECONDS_MAX)
            await end_task(work)

    def _end(self) -> None:
        self._stop.set()
        if self._work is None:
            self._tables.reason = NO_TABLE

    async def _acquire(self, fingerprint: str) -> bool:
        if self._make_lease is None:
            return True
        from synaptoroute.sequencer.lease import Held  # where there is a log, it is loaded

        self._lease = self._make_lease(fingerprint)
        found = await self._lease.acquire()
        self._held = found if isinstance(found, Held) else None
        return self._held is not None

    async def _renew(self) -> None:
        if self._lease is None or self._held is None:
            return
        found = await self._lease.renew(self._held)
        if not isinstance(found, type(self._held)):  # perhaps another node distils by now
            self._end()

    async def _distil(self, encoder: Any) -> None:
        thread = ThreadPoolExecutor(1, "distil", partial(lower_priority, _LOWEST_PRIORITY_NICE))
        self._tables.reason, self._tables.distilled_share = DISTILLING, 0.0
        _log.info("distilling the static table of %s", encoder.name)
        try:
            loop = asyncio.get_running_loop()
            table = await loop.run_in_executor(thread, self._make, encoder, self._stop)
            await asyncio.wrap_future(self._engine().learn_table(table))
            _log.info("distilled the static table of %s", encoder.name)
        except _Stopped:
            _log.info("the static table of %s is no longer needed", encoder.name)
        except (SynaptoRouteError, MemoryError, RuntimeError) as error:
            self._failed = encoder.fingerprint
            _log.warning("the static table of %s cannot be distilled: %s", encoder.name, error)
        finally:
            thread.shutdown(wait=False)
            self._tables.reason, self._tables.distilled_share = NO_TABLE, None
            self._work = None

    def _make(self, encoder: Any, stop: threading.Event) -> StaticTable:
        worked_at = time.monotonic()

        def rest(share: float) -> None:
            nonlocal worked_at
            self._tables.distilled_share = share
            if stop.wait(min(time.monotonic() - worked_at, REST_SECONDS_MAX)):
                raise _Stopped
            worked_at = time.monotonic()

        table = distil(encoder, tokens_a_run=TOKENS_A_RUN, on_run=rest)
        if self._tables.keep is not None:
            self._tables.keep(table)
        return table

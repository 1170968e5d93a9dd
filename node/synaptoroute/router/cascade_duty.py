"""Duties of a router for its cascades: calibrations, and tables from peers."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from synaptoroute.cascade import Calibration, StaticTable, tables_of
from synaptoroute.cascade.calibrator import Calibrator, calibrate_cascade
from synaptoroute.cascade.cascade import Cascade
from synaptoroute.cascade.table_store import NAME_DIGITS, TableStore
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.encoder import TextEncoder
from synaptoroute.encoder.table_files import parse_table
from synaptoroute.errors import ClusterError, NotReady, ProtocolError
from synaptoroute.models import WriteResult
from synaptoroute.router.table_distilling import LEASE_MS, TableDistiller
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.serving.query import QueryEngine
from synaptoroute.threads import end_task

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower
    from synaptoroute.sequencer import RedisLog
    from synaptoroute.sequencer.lease import Lease

FETCH_SECONDS: Final = 5.0
"""Seconds between two looks for tables that this node lacks."""

_log = logging.getLogger(__name__)


def make_cascade(
    encoders: Sequence[TextEncoder],
    tables: TableStore | Sequence[StaticTable] | None,
    *,
    is_member: bool,
) -> Cascade | None:
    """Make the first stage of ``default``; None if there will never be a table.

    Args:
        tables: None for those that ship or were prepared.  A store may get more from peers.
        is_member: Whether the router has peers.
    """
    if tables is None:
        tables = TableStore(tables_of(encoders))
    if isinstance(tables, TableStore):
        may_learn = is_member or tables.keep is not None
        may_learn = may_learn and any(hasattr(each, "vocabulary") for each in encoders)
        return Cascade(tables) if tables.names or may_learn else None
    return Cascade(tables) if tables else None


class CascadeDuty:
    """Tasks of the event loop, from ``start`` to ``stop``."""

    def __init__(
        self,
        calibrate: Callable[[str], Awaitable[Any]],
        engine: Callable[[], QueryEngine],
        writer: Callable[[], Writer],
        cascade: Cascade,
        follower: Follower | None,
        *,
        is_fitting: bool = False,
        distil_tokens_max: int = 0,
    ) -> None:
        """Prepare.

        Args:
            calibrate: Measures one route set, by its name.
            follower: Follows the log of a cluster; None for a router on its own.
            is_fitting: Whether this node fits the confidence of its sets by itself.
            distil_tokens_max: See ``TableDistiller``.
        """
        log = None if follower is None else follower.session.log
        self._calibrator = Calibrator(
            calibrate,
            lambda: engine().cascades,
            None if log is None else lambda: _live_tables(log),
            lambda: writer().level >= SETS_LEVEL,
            lambda: cascade.total.updates,
            is_fitting=is_fitting,
        )
        self._engine, self._follower = engine, follower
        self._tables, self._writer = cascade.tables, writer
        self._distiller = TableDistiller(
            engine, cascade.tables, distil_tokens_max, None if log is None else _lease_of(log)
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._calibrator.start()
        if self._follower is not None or self._tables.keep is not None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        await self._calibrator.stop()
        if self._task is not None:
            await end_task(self._task)
            self._task = None
        await self._distiller.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FETCH_SECONDS)
            try:
                if self._follower is not None:
                    await self._fetch(self._follower)
                await self._distiller.look(is_missed=self._misses_table())
            except (ClusterError, ProtocolError, NotReady) as error:
                _log.info("no static table could be fetched: %s", error)

    def _misses_table(self) -> bool:
        """Whether route sets would be measured, if this node had a table."""
        is_auto_measured = self._writer().level >= SETS_LEVEL
        return any(
            each.lacks_table and (is_auto_measured or not each.is_automatic)
            for each in self._engine().cascades.values()
        )

    async def _fetch(self, follower: Follower) -> None:
        """Fetch one table that calibrations name, or any where this node has none."""
        engine = self._engine()
        cascades = engine.cascades.values()
        wanted = {each.foreign_table for each in cascades} - {""}
        lacks_any = any(each.lacks_table for each in cascades)
        if not wanted and not lacks_any:
            return
        fingerprint = engine.encoder.fingerprint
        for seen in await follower.session.log.presence.nodes():
            report = seen.report
            names = set(report.tables.split(",")) - {""}
            if not seen.is_live or not report.url or fingerprint not in report.encoders.split(","):
                continue
            for name in sorted(names if lacks_any else names & wanted):
                table = await _read_table(follower, report.url, fingerprint, name)
                if table is not None:
                    await asyncio.wrap_future(engine.learn_table(table))
                    if self._tables.keep is not None:
                        await asyncio.to_thread(self._tables.keep, table)
                    _log.info("fetched the static table %s from a peer", name)
                    return


def _lease_of(log: RedisLog) -> Callable[[str], Lease]:
    owner = f"distil-{uuid.uuid4().hex}"  # another one after a restart
    return lambda fingerprint: log.lease(f"distil-{fingerprint[:32]}", owner, lease_ms=LEASE_MS)


async def _read_table(
    follower: Follower, url: str, fingerprint: str, name: str
) -> StaticTable | None:
    """Read a table from a peer; None if it is not there, or its hash is not in its name."""
    try:
        content = await follower.read_table(url, fingerprint, name)
        table = await asyncio.to_thread(parse_table, content, fingerprint)
    except (ClusterError, ProtocolError, NotReady, ValueError) as error:
        _log.info("the static table %s cannot be read from a peer: %s", name, error)
        return None
    return table if table.checksum[:NAME_DIGITS] == name else None


async def _live_tables(log: RedisLog) -> Collection[str]:
    """Names of the static tables that live nodes have."""
    nodes = await log.presence.nodes()
    return {name for seen in nodes if seen.is_live for name in seen.report.tables.split(",")}


async def calibrate_set(
    engine: QueryEngine, writer: Writer, cascade: Cascade | None
) -> tuple[Calibration, WriteResult]:
    """Measure the set of a writer now; see ``calibrate_cascade``."""
    return await calibrate_cascade(
        engine,
        cascade,
        lambda change: writer.write(change, WriteOptions()),
        is_by_route=writer.level >= SETS_LEVEL,
    )

"""Starts what calibrates the cascades of a router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from synaptoroute.cascade import Calibration
from synaptoroute.cascade.calibrator import Calibrator, calibrate_cascade
from synaptoroute.cascade.cascade import Cascade
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.models import WriteResult
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.sequencer import RedisLog
from synaptoroute.serving.query import QueryEngine


def start_calibrator(
    calibrate: Callable[[str], Awaitable[Any]],
    engine: Callable[[], QueryEngine],
    writer: Callable[[], Writer],
    cascade: Cascade,
    log: RedisLog | None,
) -> Calibrator:
    """Start to calibrate each route set when it is due.

    Args:
        log: That of the cluster; None for a router on its own.
    """
    calibrator = Calibrator(
        calibrate,
        lambda: engine().cascades,
        None if log is None else partial(_live_tables, log),
        lambda: writer().level >= SETS_LEVEL,
        lambda: cascade.total.updates,
    )
    calibrator.start()
    return calibrator


async def _live_tables(log: RedisLog) -> set[str]:
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

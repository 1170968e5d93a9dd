"""Measures the calibration when the route set has changed enough, and writes it to the log.

One node measures and the calibration travels through the log, so every node uses the same
numbers at the same position, including nodes that joined from a snapshot or were away.  Which
node measures does not matter: equal route sets give equal guards, and a second measurement
only adds an entry.  Members of a cluster wait a random time first, so usually one measures.

A calibration counts for the table that it was measured with.  After an upgrade perhaps no
node has that table any more; then the nodes that are there measure with theirs.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import numpy as np

from synaptoroute.cascade import (
    UTTERANCES_MAX,
    Calibration,
    ConfidenceRule,
    StaticTable,
    Utterances,
    calibrate,
    scored_by,
)
from synaptoroute.cascade.cascade import Cascade
from synaptoroute.cascade.table_store import NAME_DIGITS, WHY_NO_TABLE, why_no_table
from synaptoroute.core.mutation import Aggregation, Calibrate
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import ClusterError, ConfigError, ProtocolError, SynaptoRouteError
from synaptoroute.memory import release_memory
from synaptoroute.models import WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.tensor import Tensor
from synaptoroute.threads import end_task

POLL_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 1.0
"""Delay between a calibration becoming due and its start: changes come in groups."""
SPREAD_SECONDS: Final = 4.0
RETRY_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 5.0
"""Seconds between two questions to the nodes for a table that this node lacks."""
FIT_SECONDS_MAX: Final = 60.0
"""Seconds that a first measurement waits for the first fit, which would undo it."""
_RELEASED_UTTERANCES_MIN: Final = 8_192
"""A measurement of fewer takes some ten mebibytes."""
ABANDONED_SECONDS: Final = 30.0
"""A table is abandoned if no live node had it for so long; a restart takes less."""


class Calibrator:
    """A task of the event loop; the measurement itself runs in a thread."""

    def __init__(
        self,
        calibrate_now: Callable[[str], Awaitable[Any]],
        cascades: Callable[[], Mapping[str, Cascade]],
        live_tables: Callable[[], Awaitable[Collection[str]]] | None,
        may_be_automatic: Callable[[], bool] = lambda: True,
        updates: Callable[[], int] | None = None,
        *,
        is_fitting: bool = False,
    ) -> None:
        """Prepare; ``start`` begins to look.

        Args:
            calibrate_now: Measures one route set, by its name; empty for ``default``.
            cascades: Returns the first stage of each set that has one.
            live_tables: Returns the tables that live nodes have; None for a router on its own.
            may_be_automatic: Returns whether the log has reached the level at which sets are
                measured that do not ask for it.
            updates: Counts the states that first stages computed: without a new one nothing
                becomes due.
            is_fitting: Whether this node fits the confidence of its sets by itself.
        """
        self._calibrate = calibrate_now
        self._cascades = cascades
        self._live_tables = live_tables
        self._may_be_automatic = may_be_automatic
        self._updates = updates
        self._seen = -1  # Updates before the last look
        self._is_waiting = True  # Whether that look saw something that time alone may change
        self._spread_seconds = SPREAD_SECONDS if live_tables else 0.0
        self._looked_at = 0.0
        self._missed_since: dict[str, float] = {}  # By table
        self._retry_at: dict[str, float] = {}  # By route set
        self._is_fitting = is_fitting
        self._unfitted_since: dict[str, float] = {}  # By route set that awaits its first fit
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            await end_task(self._task)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._has_news():
                continue
            abandoned = await self._abandoned_tables()
            name = self._most_stale(abandoned)
            if name is None:
                continue
            await asyncio.sleep(SETTLE_SECONDS + self._spread_seconds * random.random())
            cascade = self._cascades().get(name)
            if cascade is None or not self._is_due(name, cascade, abandoned):
                continue  # another node was faster
            try:
                await self._calibrate(name)
            except SynaptoRouteError:  # no log, no room, stopping: tried again later
                self._retry_at[name] = time.monotonic() + RETRY_SECONDS

    def _has_news(self) -> bool:
        updates = -1 if self._updates is None else self._updates()
        if updates == self._seen and not self._is_waiting:
            return False
        self._seen = updates
        return True

    def _most_stale(self, abandoned: Collection[str]) -> str | None:
        """Name of the route set that is measured next; None for none."""
        cascades, now = self._cascades(), time.monotonic()
        self._retry_at = {name: at for name, at in self._retry_at.items() if at > now}
        self._is_waiting = self._updates is None or any(
            each.wants_calibration or each.is_calibrating or each.foreign_table
            for each in cascades.values()
        )
        due = [
            (cascade.status.changed_share if cascade.status.calibration else math.inf, name)
            for name, cascade in cascades.items()
            if name not in self._retry_at and self._is_due(name, cascade, abandoned)
        ]
        return max(due, key=lambda each: each[0])[1] if due else None

    def _is_due(self, name: str, cascade: Cascade, abandoned: Collection[str]) -> bool:
        if self._is_fitting and cascade.awaits_fit and cascade.status.calibration is None:
            now = time.monotonic()
            if now - self._unfitted_since.setdefault(name, now) < FIT_SECONDS_MAX:
                return False
        else:
            self._unfitted_since.pop(name, None)
        if cascade.is_automatic and not self._may_be_automatic():
            return False
        is_abandoned = cascade.foreign_table in abandoned and not cascade.is_calibrating
        return cascade.wants_calibration or is_abandoned

    async def _abandoned_tables(self) -> Collection[str]:
        """Tables of calibrations that no live node has, where this one has another."""
        now = time.monotonic()
        wanted = {each.foreign_table for each in self._cascades().values()} - {""}
        self._missed_since = {
            table: since for table, since in self._missed_since.items() if table in wanted
        }
        if not wanted or self._live_tables is None:
            return wanted
        if now - self._looked_at < LOOK_SECONDS:
            return ()
        self._looked_at = now
        try:
            tables = await self._live_tables()
        except (ClusterError, ProtocolError):  # unknown which nodes are there
            self._missed_since = {}
            return ()
        self._missed_since = {
            table: self._missed_since.get(table, now) for table in wanted if table not in tables
        }
        return {
            table for table, since in self._missed_since.items() if now - since >= ABANDONED_SECONDS
        }


async def calibrate_cascade(
    engine: EnginePort,
    cascade: Cascade | None,
    write: Callable[[Calibrate], Awaitable[WriteResult]],
    *,
    is_by_route: bool,
) -> tuple[Calibration, WriteResult]:
    """Measure on the route set that is visible now, and write the result to the log.

    Args:
        is_by_route: See ``Calibration``.
    """
    copied = await asyncio.wrap_future(engine.read(_RouteSetCopy))
    found = None if cascade is None else cascade.table_of(engine.encoder)
    if found is None:
        raise ConfigError(WHY_NO_TABLE[why_no_table(engine.encoder)])
    assert cascade is not None, "a table without a cascade: this is a bug"
    cascade.is_calibrating = True
    try:
        measured = await asyncio.to_thread(
            _measure, copied, engine.encoder, *found, is_by_route=is_by_route
        )
        if len(copied.texts) >= _RELEASED_UTTERANCES_MIN:
            del copied
            await asyncio.to_thread(release_memory)
        return measured, await write(Calibrate(measured.dump()))
    finally:
        cascade.is_calibrating = False


class _RouteSetCopy:
    """A copy of the route set at one position, in order of route."""

    def __init__(self, tensor: Tensor) -> None:
        records = sorted(tensor.routes.values(), key=lambda record: record.route_id)
        self.revision = tensor.revision
        self.settings = tensor.settings
        self.texts = [text for record in records for text in record.utterances]
        self.counts = np.array([len(record.slots) for record in records], np.int64)
        threshold_of = tensor.settings.threshold_of
        self.thresholds = np.array(
            [threshold_of(record.threshold) for record in records],
            np.float64,
        )
        slots = np.array([slot for record in records for slot in record.slots], np.int64)
        self.is_too_large = len(slots) > UTTERANCES_MAX
        self.vectors = tensor.vectors_of(slots[:0] if self.is_too_large else slots)
        self.aggregation: Aggregation = tensor.settings.aggregation
        self.rule: ConfidenceRule | None = None
        numbers = tensor.calibration
        scored = scored_by(tensor.settings, numbers)
        if not scored or numbers is None:
            return
        # Aggregations are named by the score that they amount to: without a fit, ``adaptive``
        # is ``blend``.
        self.aggregation = scored
        default = tensor.settings.confidence_min
        leasts = [
            default if record.confidence_min is None else record.confidence_min
            for record in records
        ]
        described = [
            (number, record.description_slot)
            for number, record in enumerate(records)
            if record.description_slot is not None and not self.is_too_large
        ]
        self.rule = ConfidenceRule(
            numbers,
            np.array([least or 0.0 for least in leasts], np.float64),
            tensor.settings.expected_unmatched_share,
            np.array([bool(record.negatives) for record in records], np.bool_),
            tensor.vectors_of(np.array([slot for _, slot in described], np.int64)),
            np.array([number for number, _ in described], np.int64),
        )


def _measure(
    copied: _RouteSetCopy,
    encoder: TextEncoder,
    table: StaticTable,
    name: str,
    *,
    is_by_route: bool,
) -> Calibration:
    at, fingerprint = str(copied.revision), encoder.fingerprint[:NAME_DIGITS]
    if copied.is_too_large or len(copied.counts) == 0:
        reason = "too_many_utterances" if copied.is_too_large else "too_few_utterances"
        scored = "" if copied.rule is None else copied.aggregation
        count = max(1, len(copied.counts))
        return Calibration(
            at, fingerprint, name, count, reason, scored=scored, is_by_route=is_by_route
        )
    owners = np.repeat(np.arange(len(copied.counts)), copied.counts)
    static_rows = table.embed_texts(copied.texts, encoder.tokenize_utterances)
    given = Utterances(
        copied.vectors, static_rows, owners, copied.thresholds, copied.aggregation, copied.rule
    )
    return calibrate(given, at, fingerprint, name, is_by_route=is_by_route)

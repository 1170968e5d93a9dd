"""Fits the numbers behind the confidence when the route set has changed enough.

One node fits and the numbers travel through the log, so every node computes the same
confidences at the same position.  Which node fits does not matter.  Members of a cluster wait a
random time first, so usually one fits, and a fit whose numbers are overtaken is dropped.

A fit runs on a thread of its own at the lowest priority, a large one in a process of its own, on
a copy of the rows that is made in short slices between two batches of queries.  A write pays
nothing for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.levels import DECISION_LEVEL
from synaptoroute.core.mutation import CalibrateDecision, Position, Revision, Settings
from synaptoroute.decision import (
    DecisionCalibration,
    fit_apart,
    read_decision_calibration,
)
from synaptoroute.decision.fitting import FITTED_ROWS_MAX, JUDGED_MIN, ROUTES_MIN
from synaptoroute.decision.starting_numbers import digest_of_tables
from synaptoroute.errors import NotFinalized, NotReady, RouteError, SynaptoRouteError
from synaptoroute.models import WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.tensor import Tensor
from synaptoroute.threads import lower_priority

REFIT_CHANGED_SHARE: Final = 0.1
"""Share of the fitted utterances that have changed since, at which they are fitted again."""
REFIT_SECONDS_MIN: Final = 30.0
"""Least time between two fits: while routes change all the time, the log must not fill up."""
POLL_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 1.0
"""Delay between a fit becoming due and its start: changes come in groups."""
SPREAD_SECONDS: Final = 4.0
RETRY_SECONDS: Final = 5.0
COPIED_ROWS: Final = 2_048  # Rows that are copied in one step between two batches
LOWEST_PRIORITY_NICE: Final = 19

FitState: TypeAlias = Literal["off", "too_small", "none", "stale", "fitted"]
FIT_STATES: Final[tuple[FitState, ...]] = get_args(FitState)
Fit: TypeAlias = Callable[..., DecisionCalibration | None]
_NO_ROUTES: Final[Mapping[str, RouteRecord]] = MappingProxyType({})
_log = logging.getLogger(__name__)


class CalibrationPoint(BaseModel):
    """Effect of a least confidence on the utterances that the fit judged.

    Attributes:
        confidence_min: The least confidence.
        coverage: Share of the utterances that are answered.
        accuracy: Share of the answered ones that are answered right.
    """

    confidence_min: float
    coverage: float
    accuracy: float


class CalibrationReport(BaseModel):
    """The numbers behind the confidence of answers, and what is pending.

    Attributes:
        state: ``off`` below level 3 of the log, ``too_small`` for a route set that cannot be
            judged, ``none`` before the first fit, ``stale`` if the numbers belong to another
            encoder or aggregation and have no effect, else ``fitted``.  Without a fit, numbers
            hold that ship for the encoder.
        changed_share: Share of the fitted utterances that have changed since.  Of a route that
            changed before this node was started, all count.
        refit_changed_share: Share at which they are fitted again.
        pending: ``nothing``, ``due``, ``waiting`` for the least time between two fits, or
            ``fitting`` on this node.
        starting_numbers: Digest of the numbers that hold without a fit, which ship or come from
            ``model prepare``; equal on nodes that answer alike.  None without any.
        at: ``epoch.seq`` of the fitted route set.
        fitted_at: When it was fitted, RFC 3339 in UTC, by the clock of that node.
        fitted_by: Identity of the node that fitted it.
        aggregation: The score that the numbers belong to.
        encoder: Fingerprint of the encoder.
        routes: Routes of the set.
        utterances: Their rows, descriptions included.
        temperature: Log odds of two routes per unit of score between them.
        inside_mean: Level of queries that belong to a route, and its deviation.
        inside_deviation: See ``inside_mean``.
        outside_mean: Level of queries that belong to none, and its deviation.
        outside_deviation: See ``outside_mean``.
        accuracy: Share of the utterances that get their route when judged without themselves.
        ece: Expected calibration error on them.
        curve: By ascending ``confidence_min``.
        payload_bytes: Size of the numbers in the log.
    """

    state: str
    changed_share: float
    refit_changed_share: float
    pending: str
    starting_numbers: str | None = None
    at: str | None = None
    fitted_at: str | None = None
    fitted_by: str | None = None
    aggregation: str | None = None
    encoder: str | None = None
    routes: int | None = None
    utterances: int | None = None
    temperature: float | None = None
    inside_mean: float | None = None
    inside_deviation: float | None = None
    outside_mean: float | None = None
    outside_deviation: float | None = None
    accuracy: float | None = None
    ece: float | None = None
    curve: list[CalibrationPoint] = Field(default_factory=list)
    payload_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RouteSetView:
    """Facts at one position that the state of the fit follows from."""

    revision: Revision
    settings: Settings
    decision: bytes
    fingerprint: str
    dim: int
    records: tuple[RouteRecord, ...]


@dataclass(frozen=True, slots=True)
class FitOutlook:
    """The state of the fit on one node.

    Attributes:
        state: ``off`` below level 3 of the log or by the configuration, ``too_small`` for a
            route set that cannot be judged, ``none`` before the first fit, ``stale`` if the
            numbers belong to another encoder or aggregation, else ``fitted``.
        numbers: Those that hold; None for none.
        changed_share: Share of the fitted utterances that have changed since.
        is_due: Whether a fit is to be made.
    """

    state: FitState
    numbers: DecisionCalibration | None = None
    changed_share: float = 0.0
    is_due: bool = False


def outlook_of(view: RouteSetView, fitted: Mapping[str, RouteRecord] = _NO_ROUTES) -> FitOutlook:
    """Judge a route set at level 3.

    Args:
        fitted: Routes as they were fitted, as far as they are known, by name.
    """
    numbers = read_decision_calibration(view.decision) if view.decision else None
    counts = [len(record.example_slots) for record in view.records]
    judged = sum(count for count in counts if count > 1)
    is_small = len(counts) < ROUTES_MIN or judged < JUDGED_MIN
    aims = (view.fingerprint, view.settings.aggregation)
    if numbers is None or (numbers.fingerprint, numbers.aggregation) != aims:
        state: FitState = "none" if numbers is None else "stale"
        return FitOutlook("too_small" if is_small else state, numbers, 1.0, not is_small)
    at = _place_of(numbers)
    pairs = zip(view.records, counts, strict=True)
    kept = sum(
        count if record.revision <= at else _kept_rows(record, fitted.get(record.name))
        for record, count in pairs
    )
    changed = max(sum(counts), numbers.utterances) - kept
    share = changed / max(1, numbers.utterances)
    return FitOutlook("fitted", numbers, share, share >= REFIT_CHANGED_SHARE and not is_small)


def _place_of(numbers: DecisionCalibration) -> Revision:
    """Place in the log of the route set that was fitted."""
    epoch, _, seq = numbers.at.partition(".")
    return Revision(int(epoch), int(seq)) if seq else Revision(0, 0)


def _fitted_records(view: RouteSetView) -> dict[str, RouteRecord]:
    """Keep the routes that have not changed since they were fitted, by name."""
    numbers = read_decision_calibration(view.decision) if view.decision else None
    if numbers is None:
        return {}
    at = _place_of(numbers)
    return {record.name: record for record in view.records if record.revision <= at}


def _kept_rows(record: RouteRecord, fitted: RouteRecord | None) -> int:
    """Count the examples of a changed route that were fitted."""
    if fitted is None:
        return 0
    is_described = record.description is not None and record.description == fitted.description
    return len({*record.utterances} & {*fitted.utterances}) + is_described


class DecisionFitter:
    """Fits by itself when it is due, or on demand.  Used on the event loop."""

    def __init__(
        self,
        engine: Callable[[], EnginePort],
        writer: Callable[[], Writer],
        *,
        is_on: bool = True,
        fit: Fit = fit_apart,
    ) -> None:
        """Prepare; ``start`` begins to look.

        Args:
            engine: Returns the engine.
            writer: Returns a writer.
            is_on: Whether it fits by itself.
            fit: As ``decision.fit_apart``.
        """
        self._engine, self._writer = engine, writer
        self._is_on, self._fit = is_on, fit
        self.fits = 0  # Since the start
        self.is_fitting = False
        self.last_seconds = 0.0  # Time that the last fit took
        self._outlook = FitOutlook("off")
        self._looked_at: Position | None = None
        self._numbers = b""
        self._fitted: dict[str, RouteRecord] = {}  # Routes as they were fitted
        self._tried_at = -REFIT_SECONDS_MIN
        self._one = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, spread_seconds: float = 0.0) -> None:
        """Begin to look, unless it is off; a member of a cluster spreads its fits."""
        if self._is_on and self._task is None:
            self._task = asyncio.create_task(self._run(spread_seconds), name="decision-fits")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.close()

    def close(self) -> None:
        """End the thread of the fits; a fit that runs is finished and not written."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    async def report(self) -> CalibrationReport:
        """Describe the numbers that hold, and what is pending."""
        outlook = await self.look()
        engine = self._engine()
        held = await asyncio.wrap_future(engine.run_on_applier(lambda state: state.table.decision))
        report = CalibrationReport(
            state=outlook.state,
            changed_share=round(outlook.changed_share, 4),
            refit_changed_share=REFIT_CHANGED_SHARE,
            pending=self._pending(outlook),
            starting_numbers=digest_of_tables(engine.encoder.fingerprint),
        )
        numbers = outlook.numbers
        if numbers is None:
            return report
        fitted_at = datetime.fromtimestamp(held.at_ms / 1_000, UTC)
        return report.model_copy(
            update={
                "at": numbers.at,
                "fitted_at": fitted_at.isoformat(timespec="milliseconds"),
                "fitted_by": held.node,
                "aggregation": numbers.aggregation,
                "encoder": numbers.fingerprint,
                "routes": numbers.routes,
                "utterances": numbers.utterances,
                "temperature": numbers.temperature,
                "inside_mean": numbers.inside_mean,
                "inside_deviation": numbers.inside_deviation,
                "outside_mean": numbers.outside_mean,
                "outside_deviation": numbers.outside_deviation,
                "accuracy": numbers.accuracy,
                "ece": numbers.ece,
                "curve": [
                    CalibrationPoint(
                        confidence_min=point.confidence_min,
                        coverage=point.coverage,
                        accuracy=point.accuracy,
                    )
                    for point in numbers.curve
                ],
                "payload_bytes": len(held.payload),
            }
        )

    def _pending(self, outlook: FitOutlook) -> Literal["nothing", "fitting", "due", "waiting"]:
        if self.is_fitting:
            return "fitting"
        if not outlook.is_due:
            return "nothing"
        return "waiting" if self._waits_seconds > 0.0 else "due"

    @property
    def outlook(self) -> FitOutlook:
        """The state as it was last seen; never blocks."""
        return self._outlook

    async def look(self) -> FitOutlook:
        """Judge the route set that is visible now."""
        engine = self._engine()
        if engine.replica_status.level < DECISION_LEVEL:
            return FitOutlook("off")
        view = await self._view()
        if view.decision != self._numbers:  # perhaps another node's
            self._numbers, self._tried_at = view.decision, time.monotonic()
            self._fitted = await asyncio.to_thread(_fitted_records, view)
        self._outlook = await asyncio.to_thread(outlook_of, view, self._fitted)
        return self._outlook

    async def fit_now(self, *, is_forced: bool = True) -> WriteResult | None:
        """Fit the visible route set and write the numbers to the log.

        Args:
            is_forced: Write the numbers even if another node wrote some meanwhile.

        Returns:
            None if another node was faster.

        Raises:
            NotFinalized: The log is below level 3.
            RouteError: The route set is too small to be judged.
            ClusterError: The log did not take the numbers.
        """
        engine = self._engine()
        if engine.replica_status.level < DECISION_LEVEL:
            raise NotFinalized(
                "a fit needs level 3 of the log: run `synaptoroute cluster finalize --apply`"
            )
        async with self._one:
            self.is_fitting, self._tried_at = True, time.monotonic()
            try:
                found = await self._measure()
            finally:
                self.is_fitting = False
            self.last_seconds = time.monotonic() - self._tried_at
            if found is None:
                raise RouteError(
                    f"the route set is too small to be fitted: {ROUTES_MIN} routes and"
                    f" {JUDGED_MIN} utterances of routes with several are needed"
                )
            before, calibration = found
            if not is_forced and (await self._view()).decision != before:
                return None
            at_ms = time.time_ns() // 1_000_000
            mutation = CalibrateDecision(calibration.dump(), engine.node_id, at_ms)
            writer = self._writer()
            if engine.is_started:
                result = await writer.write(mutation, WriteOptions())
            else:  # such a router writes on the caller's thread, which a loop must not wait for
                result = await asyncio.to_thread(writer.write_now, mutation, WriteOptions())
            self.fits += 1
            await self.look()
            return result

    async def _run(self, spread_seconds: float) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                if not await self._is_due():
                    continue
                await asyncio.sleep(SETTLE_SECONDS + spread_seconds * random.random())
                if (await self.look()).is_due:  # else another node was faster
                    await self.fit_now(is_forced=False)
            except SynaptoRouteError as error:  # no log, no room, stopping: tried again later
                _log.debug("the confidence could not be fitted: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # a bug: answers go on with the numbers that they have
                _log.exception("the fit of the confidence failed: %s", error)
                await asyncio.sleep(REFIT_SECONDS_MIN)

    async def _is_due(self) -> bool:
        engine = self._engine()
        position = engine.published.position
        if position != self._looked_at:
            await self.look()
            self._looked_at = position
        return self._outlook.is_due and self._waits_seconds <= 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether the least time since the last fit has not passed."""
        return self._waits_seconds > 0.0

    @property
    def _waits_seconds(self) -> float:
        return REFIT_SECONDS_MIN - (time.monotonic() - self._tried_at)

    async def _view(self) -> RouteSetView:
        engine = self._engine()

        def read(tensor: Tensor) -> RouteSetView:
            return RouteSetView(
                tensor.revision,
                tensor.settings,
                tensor.decision,
                engine.encoder.fingerprint,
                tensor.dim,
                tuple(tensor.routes.values()),
            )

        return await asyncio.wrap_future(engine.read(read))

    async def _measure(self) -> tuple[bytes, DecisionCalibration] | None:
        """Fit a copy of the route set; the numbers that held before, and the new ones."""
        view = await self._view()
        slots, owners = await asyncio.to_thread(_chosen_rows, view.records)
        rows = np.empty((len(slots), view.dim), np.float32)
        for start in range(0, len(slots), COPIED_ROWS):
            part = slots[start : start + COPIED_ROWS]
            rows[start : start + len(part)] = await self._copy(part, view.dim)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(
                1, "decision-fit", lower_priority, (LOWEST_PRIORITY_NICE,)
            )

        def fit() -> DecisionCalibration | None:
            return self._fit(
                rows,
                owners,
                view.settings.aggregation,
                topk=view.settings.topk,
                at=str(view.revision),
                fingerprint=view.fingerprint,
            )

        found = await asyncio.get_running_loop().run_in_executor(self._thread, fit)
        if found is None:
            return None
        # Of a set that was thinned out the whole is named, by which changes are counted.
        count = sum(len(record.example_slots) for record in view.records)
        return view.decision, replace(found, routes=len(view.records), utterances=count)

    async def _copy(self, slots: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
        def read(tensor: Tensor) -> NDArray[np.float32]:
            # Rows that change between two slices are measured as they are then: numbers of a
            # fit need not be those of one position, only the same on every node.
            if tensor.dim != dim:
                raise NotReady("the encoder changed during the fit")
            return tensor.vectors_of(slots)

        return await asyncio.wrap_future(self._engine().read(read))


def _chosen_rows(
    records: Sequence[RouteRecord],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slots and owners of the rows to fit, by route; of a large set evenly spread routes."""
    ordered = sorted(records, key=lambda record: record.route_id)
    total = sum(len(record.example_slots) for record in ordered)
    step = max(1, -(-total // FITTED_ROWS_MAX))
    slots: list[int] = []
    owners: list[int] = []
    for number, record in enumerate(ordered[::step]):
        slots += record.example_slots
        owners += [number] * len(record.example_slots)
    return np.array(slots, np.int64), np.array(owners, np.int64)

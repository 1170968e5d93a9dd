"""The serving view of the route set: everything a query needs and nothing else.

Rule 1: one thread at a time has it, by the scorer's turn; changes are applied between
batches, so a batch sees exactly one revision, and no lock is needed in here.
Rule 2: a row that a query can see is never half written: rows of a large change
are filled while nobody owns them, and ``apply`` makes the whole change visible.
Rule 3: what a change costs depends on what it touches, never on what is there.
Rule 4: equal histories give equal bytes; derived numbers are exact, so equal
contents reached by different histories give equal bytes too (``checksum``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, RouteRecord, SlotWrite
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.tensor.blocks import FREE, Block, BlockPlans, checksum
from synaptoroute.tensor.centroids import Centroids
from synaptoroute.tensor.chunked_array import Slabs, Slots
from synaptoroute.tensor.quantized import ADVANCE_ROWS, CoarseRows
from synaptoroute.tensor.staged_rows import Ahead

SLAB_SLOTS: Final = 65_536
LATER_ROWS_MAX: Final = 256
"""Of so many rows what is derived may wait until their write was answered."""
_NO_SLOTS: Final[Slots] = np.zeros(0, np.int64)


class Tensor:
    """Rows, their owners, and the routes as queries see them.

    Invariants: a slot has one owner or none; the owners are those that the
    records name; every route's centroid is that of its rows.  Runs in the
    scorer's turn.
    """

    def __init__(self, dim: int, settings: Settings | None = None) -> None:
        self.dim = dim
        self._rows: Slabs[np.float32] = Slabs(dim, SLAB_SLOTS, np.float32)
        self._coarse = CoarseRows(dim, SLAB_SLOTS)
        self._reset(settings or Settings(), Revision(1, 0))

    def _reset(self, settings: Settings, revision: Revision) -> None:
        """Forget every route; the rows stay as they are, without owners."""
        self.settings = settings
        self.revision = revision
        self.slots_used = 0
        self._owners = np.full(self._rows.rows_mapped, FREE, np.int32)
        self._thresholds = np.zeros(0)
        self._is_live = np.zeros(0, np.bool_)
        self._route_count = 0
        self._routes: dict[str, RouteRecord] = {}
        self._records: dict[int, RouteRecord] = {}
        self._slots_of: dict[int, Slots] = {}
        self._centroids = Centroids(self._rows, self._slots_of)
        self._ahead = Ahead(self._centroids, self._rows.rows_mapped)
        self._plans = BlockPlans()

    # --- what a query reads (``scoring.ScoringRows``) ---

    @property
    def routes(self) -> Mapping[str, RouteRecord]:
        """Routes by name, read-only."""
        return MappingProxyType(self._routes)

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Effective threshold by route id, float64[routes]."""
        return self._thresholds[: self._route_count]

    @property
    def is_live(self) -> NDArray[np.bool_]:
        """Whether a route id is in use, bool[routes]."""
        return self._is_live[: self._route_count]

    @property
    def mean_norms(self) -> NDArray[np.float64]:
        """Length of the mean of each route's rows, float64[routes]."""
        return self._centroids.mean_norms[: self._route_count]

    @property
    def high_water_slots(self) -> int:
        """One past the highest owned slot."""
        blocks = self.blocks()
        return blocks[-1].slot_stop if blocks else 0

    def blocks(self) -> Sequence[Block]:
        """Blocks that hold at least one owned row, in slot order."""
        return self._plans.planned(self._owners, self._rows, self._route_count - 1)

    @property
    def coarse_lost_max(self) -> float:
        """Length that no row of ``coarse_spans`` lost more than."""
        return self._coarse.lost_max

    def coarse_spans(self) -> Sequence[tuple[int, NDArray[np.uint8]]] | None:
        """Rows rounded to bytes, uint8[n, dim] from each first slot on; None if some are due."""
        if not self._coarse.is_ready:
            return None
        self._coarse.catch_up(self._rows)
        blocks = self.blocks()
        return self._coarse.spans(blocks[-1].base_slot + len(blocks[-1].rows) if blocks else 0)

    @property
    def is_behind(self) -> bool:
        """Whether ``prepare`` has anything to do."""
        return (
            self._coarse.is_behind
            or self._centroids.is_behind
            or self._plans.is_behind
            or not self._coarse.is_ready
            or self._centroids.has_due
        )

    def prepare(self) -> None:
        """Catch up on one thing that a write or a boot left for later; some milliseconds."""
        if self._coarse.is_behind:
            self._coarse.catch_up(self._rows)
        elif self._centroids.is_behind:
            self._centroids.catch_up()
        elif self._plans.is_behind:
            self._plans.plan_one(self._owners, self._rows, self._route_count - 1)
        elif not self._coarse.is_ready:
            self._coarse.advance(self._rows)
        else:
            self._centroids.pay_some(ADVANCE_ROWS)

    def derived(self) -> bytes:
        """What a boot may take over beside the rows; nothing if that would not pay."""
        ids = np.flatnonzero(self._is_live)
        return self._centroids.pack(ids) if 2 * len(ids) <= self.slots_used else b""

    def centroid_spans(self) -> Sequence[tuple[int, NDArray[np.float32]]]:
        """Unit centroids by route id, float32[n, dim] from each first id on."""
        return self._centroids.spans(self._route_count)

    def centroids_of(self, route_ids: Slots) -> NDArray[np.float32]:
        """Copy the unit centroids of routes, float32[n, dim]."""
        return self._centroids.read(route_ids)

    def slots_of(self, route_id: int) -> Slots:
        """Slots of a live route, int64[n], ascending."""
        return self._slots_of[route_id]

    def vectors_of(self, slots: Slots) -> NDArray[np.float32]:
        """Copy rows out, float32[n, dim]."""
        return self._rows.read(slots)

    def record_of(self, route_id: int) -> RouteRecord:
        """The route that has this id."""
        return self._records[route_id]

    def utterance_of(self, slot: int) -> str:
        """The text of an owned slot."""
        record = self._records[int(self._owners[slot])]
        return record.utterances[bisect_left(record.slots, slot)]

    def rows_between(self, start: int, stop: int) -> list[tuple[int, int, str, bytes]]:
        """Copy owned rows out: slot, route id, utterance, float32[dim] little-endian."""
        owners = self._owners[start:stop]
        slots = np.flatnonzero(owners != FREE) + start
        vectors = self._rows.read(slots).astype("<f4", copy=False)
        return [
            (slot, int(self._owners[slot]), self.utterance_of(slot), vector.tobytes())
            for slot, vector in zip(slots.tolist(), vectors, strict=True)
        ]

    # --- how it changes ---

    def fill(
        self,
        slots: Slots,
        vectors: NDArray[np.float32],
        at: Revision,
        route_ids: Slots | None = None,
    ) -> None:
        """Write rows of the change that comes at ``at``, ahead of it.

        Call it for slices of a large change, between batches.  Rows that have a
        visible owner are left for ``apply``; so is everything, should rows of
        another place be filled in between.

        Args:
            slots: int64[n], each at most once.
            vectors: float32[n, dim], unit length.
            at: Place in the log of the change.
            route_ids: Whose rows they will be, int64[n]; those of new routes are summed now.
        """
        self._reserve_slots(slots)
        self._ahead.begin(at)
        hidden = self._owners[slots] == FREE
        if not hidden.all():
            slots, vectors = slots[hidden], vectors[hidden]
            route_ids = None if route_ids is None else route_ids[hidden]
        self._write(slots, vectors)
        self._ahead.note(slots)
        if route_ids is not None:
            self._ahead.add(route_ids, slots, self.is_live)

    def apply(self, change: Change, at: Revision, *, filled: bool = False) -> None:
        """Make a change visible, all of it.

        What a small one changes of centroids, bytes and blocks is computed by ``prepare``,
        or by the first query that comes before.

        Args:
            change: As the table enacted it.
            at: Its place in the log; the revision of the answers from now on.
            filled: ``fill`` was called with every write of this change.
        """
        slots = np.array([write.slot for write in change.writes], np.int64)
        top = self._reserve_slots(slots)
        assert top < self.settings.capacity_slots, "beyond capacity: a bug"
        self._ahead.expect(at)
        self._centroids.pay(record.route_id for record in change.before)
        if change.before or change.deleted or change.freed:  # no other slot has an owner
            self._hide(change, slots)
        self._write_rows(change.writes, slots, filled and self._ahead.of == at)
        self._show(change, slots)
        self._put_records(change)
        self.revision = at

    def adopt(
        self,
        routes: Iterable[RouteRecord],
        settings: Settings,
        revision: Revision,
        derived: NDArray[np.uint8] | None = None,
    ) -> None:
        """Show exactly these routes; their rows were filled before.

        ``derived`` is what a tensor with the same routes and rows gave, if one did.
        """
        records = tuple(routes)
        self._reset(settings, revision)
        slots = _slots_of(records)
        ids = np.array([record.route_id for record in records], np.int64)
        counts = np.array([len(record.slots) for record in records], np.int64)
        self._reserve_slots(slots)
        self._reserve_routes(int(ids.max(initial=-1)) + 1)
        owners = np.repeat(ids, counts)
        self._owners[slots] = owners
        self.slots_used = len(slots)
        self._plans.mark_stale(slots)
        if derived is None or not self._centroids.take(np.sort(ids), derived):
            self._centroids.move(owners, slots, 1.0)
            self._centroids.settle(ids, counts.astype(np.float64))
        self._put_all(records, slots)

    def load(
        self,
        slots: Slots,
        vectors: NDArray[np.float32],
        routes: Iterable[RouteRecord],
        settings: Settings,
        revision: Revision,
        derived: NDArray[np.uint8] | None = None,
    ) -> None:
        """Take over a whole state: float32[n, dim] at ``slots``, and who owns them.

        Into an empty tensor, vectors of slots 0 to n - 1 that have room for whole slabs
        behind them are not copied: their memory is the tensor's from now on.
        """
        is_dense = np.array_equal(slots, np.arange(len(slots)))
        if is_dense and self._rows.take(vectors):
            self._coarse.owe(len(vectors))
        else:
            self._reset(settings, revision)
            self.fill(slots, vectors, revision)
        self.adopt(routes, settings, revision, derived)

    def checksum(self) -> str:
        """SHA-256 over owned rows, their owners and the centroids, hexadecimal."""
        ids = np.flatnonzero(self._is_live)
        return checksum(self.blocks(), self._owners, ids, self._centroids.read(ids))

    # --- steps of a change ---

    def _reserve_slots(self, slots: Slots) -> int:
        """Give rows and owners to slots up to the highest of these, and say which that is."""
        top = int(slots.max(initial=-1))
        if top < len(self._owners):
            return top
        self._rows.reserve(top + 1)
        missing = self._rows.rows_mapped - len(self._owners)
        self._owners = np.concatenate([self._owners, np.full(missing, FREE, np.int32)])
        self._ahead.reserve(self._rows.rows_mapped)
        return top

    def _reserve_routes(self, routes: int) -> None:
        """Make room for route ids below ``routes``."""
        self._route_count = max(self._route_count, routes)
        self._centroids.reserve(routes)
        missing = self._centroids.rows_mapped - len(self._is_live)
        if missing > 0:
            self._thresholds = np.concatenate([self._thresholds, np.zeros(missing)])
            self._is_live = np.concatenate([self._is_live, np.zeros(missing, np.bool_)])

    def _write(self, slots: Slots, vectors: NDArray[np.float32]) -> None:
        """Copy rows in, as they are and rounded."""
        self._rows.write(slots, vectors)
        self._coarse.write(slots, vectors)

    def _hide(self, change: Change, slots: Slots) -> None:
        """Take away the owners of what goes or is overwritten, and the routes that go."""
        freed = np.asarray(change.freed, np.int64)
        leaving = np.concatenate([freed, slots[self._owners[slots] != FREE]])
        if len(leaving) == 0 and not change.deleted:
            return
        owners = self._owners[leaving].astype(np.int64)
        assert np.all(owners != FREE), "a free slot was freed: this is a bug"
        gone = np.fromiter((record.route_id for record in change.deleted), np.int64)
        staying = ~np.isin(owners, gone)
        self._centroids.move(owners[staying], leaving[staying], -1.0)
        self._centroids.clear(gone)
        self._is_live[gone] = False
        for record in change.deleted:
            del self._routes[record.name], self._records[record.route_id]
            del self._slots_of[record.route_id]
        self._owners[leaving] = FREE
        self.slots_used -= len(leaving)
        self._plans.mark_stale(leaving)

    def _write_rows(self, writes: Sequence[SlotWrite], slots: Slots, filled: bool) -> None:
        """Copy the rows that were not filled ahead."""
        chosen = slots
        written = self._ahead.take_written(slots)
        if filled:
            missing = np.flatnonzero(~written)
            writes, chosen = [writes[index] for index in missing.tolist()], slots[missing]
        if len(chosen):
            vectors = b"".join([write.vector for write in writes])
            rows = np.frombuffer(vectors, "<f4").reshape(len(chosen), self.dim)
            self._rows.write(chosen, rows.astype(np.float32, copy=False))
            if len(chosen) > LATER_ROWS_MAX:
                self._coarse.write(chosen, rows)
            else:
                self._coarse.note(chosen, self._rows)

    def _show(self, change: Change, slots: Slots) -> None:
        """Give the written rows their owners; few rows of new routes are summed later."""
        owners = np.array([write.route_id for write in change.writes], np.int64)
        self._reserve_routes(max((record.route_id for record in change.put), default=-1) + 1)
        self._owners[slots] = owners
        self.slots_used += len(slots)
        self._plans.mark_stale(slots)
        due = ~self._ahead.take_summed(slots)
        new = [each.route_id for each in change.put if each.route_id not in self._records]
        if new and len(slots) <= LATER_ROWS_MAX and due.all():
            self._centroids.owe(np.array(new, np.int64))
            if len(new) == len(change.put):
                return
            due = ~np.isin(owners, new)
        self._centroids.move(owners[due], slots[due], 1.0)

    def _put_records(self, change: Change) -> None:
        """Replace records, and the centroids of those whose rows changed."""
        moved = [record for record in change.put if not self._has_rows_of(record, change.writes)]
        if change.settings is not None:
            self._put_settings(change.settings)
        self._put_all(change.put, _slots_of(change.put))
        self._centroids.settle_later(record.route_id for record in moved)

    def _has_rows_of(self, record: RouteRecord, writes: Sequence[SlotWrite]) -> bool:
        """Whether the route's rows are those it had, so that only its fields changed."""
        known = self._records.get(record.route_id)
        return not writes and known is not None and known.slots == record.slots

    def _put_all(self, records: Sequence[RouteRecord], slots: Slots) -> None:
        """Show records; their slots are parts of one array."""
        ids = [record.route_id for record in records]
        self._is_live[ids] = True
        self._thresholds[ids] = [self._threshold_of(record) for record in records]
        stop = 0
        for record in records:
            start, stop = stop, stop + len(record.slots)
            self._records[record.route_id] = self._routes[record.name] = record
            self._slots_of[record.route_id] = slots[start:stop]

    def _put_settings(self, settings: Settings) -> None:
        self.settings = settings
        for record in self._records.values():
            self._thresholds[record.route_id] = self._threshold_of(record)

    def _threshold_of(self, record: RouteRecord) -> float:
        return self.settings.threshold if record.threshold is None else record.threshold


def _slots_of(records: Sequence[RouteRecord]) -> Slots:
    """Slots of all records, one record after the other."""
    return np.array(list(chain.from_iterable(each.slots for each in records)), np.int64)

"""The serving view of the route set: everything a query needs and nothing else.

Rule 1: one thread at a time uses it; the scorer's lock decides which.  Changes are
applied between batches, so a batch sees exactly one revision, and this room needs no lock.
Rule 2: a row that a query can see is never half written: the rows of a large change
are written while no route owns them, and ``apply`` makes the whole change visible.
Rule 3: the cost of a change depends on what it touches, never on what is there.
Rule 4: equal histories give equal bytes; derived numbers are exact, so equal
contents reached by different histories give equal bytes too (``checksum``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, RouteRecord, SlotWrite
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.core.rows import ROUTE_ID_BITS, RowKind
from synaptoroute.core.same_text import same_text_form
from synaptoroute.decision import (
    DecisionCalibration,
    read_decision_calibration,
    shipped_calibration,
)
from synaptoroute.tensor.blocks import (
    FREE,
    ROWS_ALIGNED,
    BlockIndex,
    checksum,
    routes_of,
    tensor_owners,
)
from synaptoroute.tensor.centroids import Centroids, StagedRows
from synaptoroute.tensor.rows import (
    ADVANCE_ROWS,
    SMALL_ROWS,
    ChunkedArray,
    QuantizedRows,
    Slots,
)
from synaptoroute.tensor.score_terms import SMALL_ROUTES, ScoreTerms, terms_of
from synaptoroute.tensor.text_index import TextIndex, text_keys
from synaptoroute.tensor.view import NegativeRows, TensorView

CHUNK_SLOTS: Final = 65_536
DEFERRED_ROWS_MAX: Final = 256
"""A write of so many rows defers what is derived from them until it was answered."""
SUMMED_LATER_ROWS_MAX: Final = 2_048
"""A small route set of up to so many rows is summed after its boot, by ``prepare`` or a query."""
_DEFERRED_BLOCKS_MAX: Final = 8
"""So many blocks are built in one step between two batches; about a millisecond."""


class Tensor:
    """Rows, the routes that own them, and the routes as queries see them.

    Invariants: a slot has one owner or none; the owners are those that the records name;
    every route's centroid is that of its rows once ``view`` was called.

    Args:
        is_small: Begin with little memory and grow by copying, for one of many route sets.

    Attributes:
        routes: Routes by name, read-only.
        revision: Place in the log of the last change.
        slots_used: Rows that a route owns.
        texts: Slots by text; it nominates, ``exact_match`` decides.
        decision: The numbers behind the confidence, as the log holds them; empty for none.
        fingerprint: Of the encoder that made the rows; numbers of another one do not apply.
    """

    def __init__(
        self,
        dim: int,
        settings: Settings | None = None,
        fingerprint: str = "",
        *,
        is_small: bool = False,
    ) -> None:
        self.dim = dim
        self.fingerprint = fingerprint
        self._routes_at_first = SMALL_ROUTES if is_small else 0
        self._rows: ChunkedArray[np.float32] = ChunkedArray(
            dim, CHUNK_SLOTS, np.float32, SMALL_ROWS if is_small else 0
        )
        self._quantized = QuantizedRows(self._rows)
        self._reset(settings or Settings(), Revision(1, 0))

    def _reset(self, settings: Settings, revision: Revision) -> None:
        """Forget every route; the rows stay as they are, without owners."""
        self.settings = settings
        self.revision = revision
        self.slots_used = 0
        self._owners = np.full(self._rows.capacity_rows, FREE, np.int32)
        self._thresholds = np.zeros(0)
        self._confidence_mins = np.zeros(0)
        self._is_live = np.zeros(0, np.bool_)
        self._route_count = 0
        self._routes: dict[str, RouteRecord] = {}
        self.routes: Mapping[str, RouteRecord] = MappingProxyType(self._routes)
        self._records: dict[int, RouteRecord] = {}
        self._slots_of: dict[int, Slots] = {}
        self._negative_slots_of: dict[int, Slots] = {}
        self.decision = b""
        self._fit: DecisionCalibration | None = None
        self._centroids = Centroids(self._rows, self._slots_of, self._routes_at_first)
        self._staged = StagedRows(self._centroids, self._rows.capacity_rows)
        self._blocks = BlockIndex()
        self.texts = TextIndex()
        self._view: TensorView | None = None
        self._unviewed_rows = 0

    # --- what is read ---

    def view(self) -> TensorView:
        """Return what queries read; computes what earlier changes deferred."""
        if self._view is None:
            count = self._route_count
            self._centroids.flush()
            blocks = self._blocks.present(self._owners, self._rows, count - 1)
            # Slices, not copies.  A change writes into the arrays only after it has dropped
            # the view; staged rows and routes are not in it.
            is_live = self._is_live[:count]
            self._centroids.complete_terms(np.flatnonzero(is_live))
            terms, settings = self._centroids.terms, self.settings
            if settings.aggregation == "adaptive" and terms is None:
                settings = replace(settings, aggregation="blend")
            aligned = -(-count // ROWS_ALIGNED) * ROWS_ALIGNED
            aligned = min(aligned, self._centroids.units.capacity_rows)
            self._view = TensorView(
                self.dim,
                settings,
                is_live,
                int(np.count_nonzero(is_live)),
                self._thresholds[:count],
                self._confidence_mins[:count],
                self._centroids.mean_norms[:count],
                self._slots_of,
                blocks,
                blocks[-1].base_slot + len(blocks[-1].rows) if blocks else 0,
                self._rows,
                self._centroids.units,
                self._centroids.units.spans(aligned),
                self._quantized,
                self._negative_rows(),
                self.calibration,
                None if terms is None else terms.view(count, aligned),
            )
            self._unviewed_rows = 0
        return self._view

    def _negative_rows(self) -> NegativeRows | None:
        if not self._negative_slots_of:
            return None
        route_ids = sorted(self._negative_slots_of)
        parts = [self._negative_slots_of[route_id] for route_id in route_ids]
        counts = np.array([len(part) for part in parts])
        rows = self._rows.read(np.concatenate(parts))
        return NegativeRows(np.array(route_ids, np.int64), counts.cumsum() - counts, rows)

    @property
    def calibration(self) -> DecisionCalibration | None:
        """The numbers behind the confidence at this position, of the fit or that ship."""
        if self._fit is not None or not self._records:
            return self._fit
        routes = len(self._records)
        each = self.slots_used / routes
        return shipped_calibration(self.fingerprint, self.settings.aggregation, each, routes)

    def use_encoder(self, fingerprint: str) -> None:
        """Say which encoder made the rows."""
        if self.fingerprint != fingerprint:
            self.fingerprint = fingerprint
            self._use_fit()

    def _use_fit(self, terms: ScoreTerms | None = None) -> None:
        """Read the fit; its terms are computed by the next view, unless they are given."""
        self._view = None
        found = read_decision_calibration(self.decision) if self.decision else None
        if found is not None and (
            found.fingerprint != self.fingerprint or found.aggregation != self.settings.aggregation
        ):
            found = None
        self._fit = found
        if terms is None:
            terms = terms_of(found, self.dim, self._routes_at_first)
        else:
            terms.reserve(self._centroids.units.capacity_rows)
        self._centroids.terms = terms

    def derive_terms(self, payload: bytes) -> tuple[ScoreTerms, Slots] | None:
        """Make empty terms for numbers to come, and name the routes that need some.

        A caller fills them with the sums that ``sums_of`` gives, on another thread, and gives
        them to ``apply`` before anything else has changed.
        """
        found = read_decision_calibration(payload)
        if found is None or found.fingerprint != self.fingerprint:
            return None
        terms = terms_of(found, self.dim, self._routes_at_first)
        return None if terms is None else (terms, np.flatnonzero(self._is_live))

    def sums_of(self, route_ids: Slots) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Copy the sums of routes' examples, float64[n, dim], and how many there are."""
        return self._centroids.sums_of(route_ids)

    @property
    def high_water_slots(self) -> int:
        """One past the highest owned slot."""
        return int((self._owners != FREE).nonzero()[0].max(initial=-1)) + 1

    def vectors_of(self, slots: Slots) -> NDArray[np.float32]:
        """Copy rows out, float32[n, dim]."""
        return self._rows.read(slots)

    def record_of(self, route_id: int) -> RouteRecord:
        return self._records[route_id]

    def owned_among(self, writes: Sequence[SlotWrite]) -> list[int]:
        """Slots of writes that a route owns now."""
        owners, known = self._owners, len(self._owners)
        return [
            write.slot for write in writes if write.slot < known and owners.item(write.slot) != FREE
        ]

    def utterance_of(self, slot: int) -> str:
        """Text of a row, of whatever kind."""
        return self._row_at(slot)[1]

    def _row_at(self, slot: int) -> tuple[int, str]:
        """Owner, as the log names it, and text of a row."""
        record = self._records[int(routes_of(self._owners[slot : slot + 1])[0])]
        at = bisect_left(record.slots, slot)
        if at < len(record.slots) and record.slots[at] == slot:
            return record.route_id, record.utterances[at]
        return next((owner, text) for each, owner, text in record.rows() if each == slot)

    def exact_match(
        self, text: str, slots: Sequence[int], allowed: frozenset[int] | None
    ) -> tuple[int, int] | None:
        """Find the route that has a text among its utterances, and the slot of it.

        Of several, one with the same spelling comes first, then the first by name.

        Args:
            slots: What ``texts`` nominates for the text.
            allowed: Ids of the routes to consider; None for all.
        """
        return first_exact(
            text,
            (
                (record, slot)
                for record, slot in self.owners_of(slots)
                if allowed is None or record.route_id in allowed
            ),
        )

    def owners_of(self, slots: Iterable[int]) -> list[tuple[RouteRecord, int]]:
        """Find the routes of utterances; other slots are left out."""
        owned = [(int(self._owners[slot]), slot) for slot in slots]
        found = [(self._records[owner], slot) for owner, slot in owned if owner > FREE]
        return [(record, slot) for record, slot in found if slot != record.description_slot]

    def rows_between(self, start: int, stop: int) -> list[tuple[int, int, str, bytes]]:
        """Copy owned rows out: slot, owner, text, float32[dim] little-endian.

        Owners are as in ``core.rows``.
        """
        owners = self._owners[start:stop]
        slots = np.flatnonzero(owners != FREE) + start
        vectors = self._rows.read(slots).astype("<f4", copy=False)
        return [
            (slot, *self._row_at(slot), vector.tobytes())
            for slot, vector in zip(slots.tolist(), vectors, strict=True)
        ]

    def checksum(self) -> str:
        """SHA-256 over owned rows, their owners and the centroids, hexadecimal."""
        ids = np.flatnonzero(self._is_live)
        self.view()
        return checksum(self._rows, self._owners, ids, self._centroids.units.read(ids))

    def derived(self) -> bytes:
        """Return centroids that a boot may take over; nothing if they are as large as the rows."""
        ids = np.flatnonzero(self._is_live)
        return self._centroids.pack(ids) if 2 * len(ids) <= self.slots_used else b""

    def copy(self) -> Tensor:
        """Copy rows, routes and what is derived from them; nothing may be deferred here.

        Nothing may change this tensor meanwhile.  Queries may go on.
        """
        assert not self.is_behind, "deferred work cannot be copied: this is a bug"
        copied = Tensor(self.dim, self.settings, self.fingerprint, is_small=True)
        slots, routes = self.high_water_slots, self._route_count
        copied._reserve_slots(slots)
        copied._owners[:slots] = self._owners[:slots]
        copied._rows.copy_from(self._rows, slots)
        copied._quantized.copy_from(self._quantized, slots)
        copied._reserve_routes(routes)
        copied._is_live[:routes] = self._is_live[:routes]
        copied._thresholds[:routes] = self._thresholds[:routes]
        copied._confidence_mins[:routes] = self._confidence_mins[:routes]
        copied._routes.update(self._routes)
        copied._records.update(self._records)
        copied._slots_of.update(self._slots_of)
        copied._negative_slots_of.update(self._negative_slots_of)
        copied._centroids.copy_from(self._centroids, routes)
        copied._blocks = self._blocks.copy(copied._rows)
        copied.texts = self.texts.copy()
        copied.decision, copied._fit = self.decision, self._fit
        copied.slots_used, copied.revision = self.slots_used, self.revision
        copied.view()
        return copied

    # --- deferred work ---

    @property
    def is_behind(self) -> bool:
        """Whether ``prepare`` has work."""
        return (
            self._view is None
            or self._quantized.has_deferred
            or not self._quantized.is_ready
            or self._centroids.has_deferred_sums
        )

    def prepare(self) -> None:
        """Do one step of deferred work, of some milliseconds at most.

        A query that comes meanwhile waits for the step.  After a small write one step does
        all; after large ones, and after a boot, each step does one kind of work.
        """
        if self._view is None:
            if self._unviewed_rows > DEFERRED_ROWS_MAX:
                if self._quantized.has_deferred:
                    self._quantized.flush()
                    return
                if self._centroids.has_deferred:
                    self._centroids.flush()
                    return
            if len(self._blocks.stale) > _DEFERRED_BLOCKS_MAX:
                for _ in range(_DEFERRED_BLOCKS_MAX):
                    self._blocks.build_one(self._owners, self._rows, self._route_count - 1)
                return
            self._quantized.flush()
            self.view()
        elif self._quantized.has_deferred:
            self._quantized.flush()
        elif not self._quantized.is_ready:
            self._quantized.advance()
        else:
            self._centroids.flush_some_sums(ADVANCE_ROWS)

    # --- how it changes ---

    def fill(
        self,
        slots: Slots,
        vectors: NDArray[np.float32],
        at: Revision,
        owners: Slots | None = None,
        keys: Sequence[int] = (),
    ) -> None:
        """Write rows of the change at ``at`` before it becomes visible.

        Call it for slices of a large change, between batches.  Rows that have a visible
        owner are left for ``apply``.  Rows of another change that are filled in between
        void what was filled.

        Args:
            slots: int64[n], each at most once.
            vectors: float32[n, dim], unit length.
            at: Place in the log of the change.
            owners: Their future owners, int64[n] (see ``core.rows``); examples of new routes are
                summed now.
            keys: ``text_keys`` of the rows' texts; without them ``apply`` makes them.
        """
        self._reserve_slots(int(slots.max(initial=-1)) + 1)
        self._staged.begin(at)
        # A row that has an owner is in use: a query between two slices must not see it change.
        is_free = self._owners[slots] == FREE
        if not is_free.all():
            slots, vectors = slots[is_free], vectors[is_free]
            owners = None if owners is None else owners[is_free]
            keys = [key for key, chosen in zip(keys, is_free.tolist(), strict=False) if chosen]
        if keys:
            self.texts.put(slots.tolist(), keys)
        elif len(self.texts):
            self.texts.free(slots.tolist())
        self._rows.write(slots, vectors)
        self._quantized.write(slots, vectors)
        self._staged.mark_written(slots)
        if owners is not None:
            held = tensor_owners(owners).astype(np.int64)
            is_live, is_example = self._is_live[: self._route_count], held > FREE
            self._staged.add_sums(held[is_example], slots[is_example], is_live)

    def apply(
        self,
        change: Change,
        at: Revision,
        *,
        filled: bool = False,
        terms: ScoreTerms | None = None,
    ) -> None:
        """Make a change visible, all of it.

        Centroids, bytes and blocks that a small change touches are computed by ``prepare``,
        or by the next query if that comes first.

        Args:
            at: Its place in the log; the revision of the answers from now on.
            filled: ``fill`` was called with every write of this change.
            terms: What ``derive_terms`` made for its numbers, filled.
        """
        slots = np.array([write.slot for write in change.writes], np.int64)
        top = int(slots.max(initial=-1))
        assert top < self.settings.capacity_slots, "beyond capacity: a bug"
        if top >= len(self._owners):
            self._reserve_slots(top + 1)
        is_written = is_summed = np.zeros(len(slots), np.bool_)
        if self._staged.revision is not None:
            is_written, is_summed = self._staged.take(slots, at)
        # Below, owners, records and rows disagree for a moment.  No query sees that: it would
        # need the scorer's lock, and a new view.
        self._view = None
        aggregation = self.settings.aggregation
        self._unviewed_rows += len(slots) + len(change.freed)
        if change.before or change.deleted or change.freed:  # else no written slot has an owner
            # A deferred sum reads the rows that the route has now; the change may free or
            # overwrite them.
            self._centroids.flush_sums([record.route_id for record in change.before])
            self._hide(change, slots)
        if len(slots):
            self._write_rows(change.writes, slots, is_written & filled)
        self._show(change, slots, is_summed)
        self._put_records(change)
        if change.decision is not None or self.settings.aggregation != aggregation:
            self._use_fit(terms)
        self.revision = at

    def adopt(
        self,
        routes: Iterable[RouteRecord],
        settings: Settings,
        revision: Revision,
        derived: NDArray[np.uint8] | None = None,
        decision: bytes = b"",
    ) -> None:
        """Show exactly these routes; their rows were filled before.

        ``derived`` is the result of ``derived`` of a tensor with the same routes and rows.
        """
        records = tuple(routes)
        self._reset(settings, revision)
        self.decision = decision
        slots = _slots_of(records)
        ids = np.array([record.route_id for record in records], np.int64)
        counts = np.array([len(record.example_slots) for record in records], np.int64)
        negatives = np.array(
            [slot for record in records for slot in record.negative_slots], np.int64
        )
        self._reserve_slots(max(int(slots.max(initial=-1)), int(negatives.max(initial=-1))) + 1)
        self._reserve_routes(int(ids.max(initial=-1)) + 1)
        owners = np.repeat(ids, counts)
        self._owners[slots] = owners
        texts = chain.from_iterable([each.utterances for each in records])
        held = chain.from_iterable([each.slots for each in records])
        self.texts.put(list(held), text_keys(texts))
        of = np.repeat(ids, [len(record.negative_slots) for record in records])
        self._owners[negatives] = tensor_owners(of | RowKind.NEGATIVE << ROUTE_ID_BITS)
        self.slots_used = self._unviewed_rows = len(slots) + len(negatives)
        self._blocks.mark_stale(slots)
        is_known = derived is not None and self._centroids.unpack(np.sort(ids), derived)
        is_deferred = self._routes_at_first and len(slots) <= SUMMED_LATER_ROWS_MAX
        if not is_known and not is_deferred:
            self._centroids.add_rows(owners, slots)
            self._centroids.normalize(ids, counts.astype(np.float64))
        self._put_all(records, slots)
        if not is_known and is_deferred:
            # A boot with a thousand small sets must not wait for all of them.
            self._centroids.defer_sums(ids)
            self._centroids.defer(ids.tolist())
        self._use_fit()

    def load(
        self,
        slots: Slots,
        vectors: NDArray[np.float32],
        routes: Iterable[RouteRecord],
        settings: Settings,
        revision: Revision,
        derived: NDArray[np.uint8] | None = None,
        decision: bytes = b"",
        *,
        is_owner: bool = True,
    ) -> None:
        """Take over a whole state: float32[n, dim] at ``slots``, and the routes that own them.

        Into an empty tensor, vectors of slots 0 to n - 1 with room for whole chunks behind
        them are not copied: the tensor owns their memory from now on, unless ``is_owner`` is
        false.
        """
        is_dense = is_owner and np.array_equal(slots, np.arange(len(slots)))
        if is_dense and self._rows.adopt(vectors):
            self._quantized.defer_all(len(vectors))
        else:
            if self._routes:
                self._reset(settings, revision)
            self.fill(slots, vectors, revision)
        self.adopt(routes, settings, revision, derived, decision)

    # --- steps of a change ---

    def _reserve_slots(self, count: int) -> None:
        """Give memory and owners to slots below ``count``."""
        if count <= len(self._owners):
            return
        if self._rows.reserve(count):
            self._blocks.mark_all_stale()
        self._quantized.wake()
        missing = self._rows.capacity_rows - len(self._owners)
        self._owners = np.concatenate([self._owners, np.full(missing, FREE, np.int32)])
        self._staged.reserve(self._rows.capacity_rows)

    def _reserve_routes(self, count: int) -> None:
        """Make room for route ids below ``count``."""
        if count <= self._route_count:
            return
        self._route_count = count
        self._centroids.reserve(count)
        missing = self._centroids.units.capacity_rows - len(self._is_live)
        if missing > 0:
            self._thresholds = np.concatenate([self._thresholds, np.zeros(missing)])
            self._confidence_mins = np.concatenate([self._confidence_mins, np.zeros(missing)])
            self._is_live = np.concatenate([self._is_live, np.zeros(missing, np.bool_)])

    def _hide(self, change: Change, slots: Slots) -> None:
        """Take the owners from freed and overwritten rows, and remove deleted routes."""
        freed = np.asarray(change.freed, np.int64)
        leaving = np.concatenate([freed, slots[self._owners[slots] != FREE]])
        if len(leaving) == 0 and not change.deleted:
            return
        owners = self._owners[leaving].astype(np.int64)
        assert np.all(owners != FREE), "a free slot was freed: this is a bug"
        is_example = owners > FREE
        examples, owners = leaving[is_example], owners[is_example]
        gone = np.array([record.route_id for record in change.deleted], np.int64)
        # Sums of deleted routes are cleared, which is cheaper than subtracting their rows.
        staying = ~np.isin(owners, gone)
        self._centroids.add_rows(owners[staying], examples[staying], -1.0)
        self._centroids.clear(gone)
        self._is_live[gone] = False
        for record in change.deleted:
            del self._routes[record.name], self._records[record.route_id]
            del self._slots_of[record.route_id]
            self._negative_slots_of.pop(record.route_id, None)
        self._owners[leaving] = FREE
        self.texts.free(change.freed)
        self.slots_used -= len(leaving)
        self._blocks.mark_stale(leaving)

    def _write_rows(
        self, writes: Sequence[SlotWrite], slots: Slots, is_written: NDArray[np.bool_]
    ) -> None:
        """Copy the rows that were not filled before."""
        if is_written.any():
            for at in self.texts.missing(slots):
                if is_written[at]:
                    self.texts.put([slots.item(at)], text_keys([writes[at].utterance]))
            missing = np.flatnonzero(~is_written)
            writes, slots = [writes[index] for index in missing.tolist()], slots[missing]
            if len(slots) == 0:
                return
        self.texts.put(slots.tolist(), text_keys([write.utterance for write in writes]))
        vectors = b"".join([write.vector for write in writes])
        rows = np.frombuffer(vectors, "<f4").reshape(len(slots), self.dim)
        self._rows.write(slots, rows.astype(np.float32, copy=False))
        if len(slots) > DEFERRED_ROWS_MAX:
            self._quantized.write(slots, rows)
        else:
            self._quantized.defer(slots)

    def _show(self, change: Change, slots: Slots, is_summed: NDArray[np.bool_]) -> None:
        """Give the written rows their owners; sums of small new routes are deferred."""
        put, new = [], []
        for record in change.put:
            put.append(record.route_id)
            if record.route_id not in self._records:
                new.append(record.route_id)
        self._reserve_routes(max(put, default=-1) + 1)
        held = tensor_owners(np.array([write.owner for write in change.writes], np.int64))
        # From here on the rows count; they were complete before.
        self._owners[slots] = held
        self.slots_used += len(slots)
        self._blocks.mark_stale(slots)
        is_example = held > FREE
        owners, slots = held[is_example].astype(np.int64), slots[is_example]
        due = ~is_summed[is_example]
        # A deferred sum takes all rows of its route, so no row may be in the sum already.
        if new and len(slots) <= DEFERRED_ROWS_MAX and due.all():
            self._centroids.defer_sums(np.array(new, np.int64))
            if len(new) == len(put):
                return
            due = ~np.isin(owners, new)
        self._centroids.add_rows(owners[due], slots[due])

    def _put_records(self, change: Change) -> None:
        """Replace records, and defer the centroids of routes whose rows changed."""
        moved = []
        for record in change.put:
            known = self._records.get(record.route_id)
            if change.writes or known is None or known.example_slots != record.example_slots:
                moved.append(record.route_id)
        if change.decision is not None:
            self.decision = change.decision.payload
        if change.settings is not None:
            self.settings = change.settings
            self._put_thresholds(self._records.values())
        self._put_all(change.put, _slots_of(change.put))
        self._centroids.defer(moved)

    def _put_all(self, records: Sequence[RouteRecord], slots: Slots) -> None:
        """Show records; their slots are parts of one array."""
        self._is_live[[record.route_id for record in records]] = True
        self._put_thresholds(records)
        stop = 0
        for record in records:
            start = stop
            stop += len(record.slots) + (record.description_slot is not None)
            self._records[record.route_id] = self._routes[record.name] = record
            self._slots_of[record.route_id] = slots[start:stop]
            if record.negative_slots:
                negatives = np.array(record.negative_slots, np.int64)
                self._negative_slots_of[record.route_id] = negatives
            else:
                self._negative_slots_of.pop(record.route_id, None)

    def _put_thresholds(self, records: Iterable[RouteRecord]) -> None:
        settings = self.settings
        default = settings.confidence_min or 0.0
        for record in records:
            self._thresholds[record.route_id] = settings.threshold_of(record.threshold)
            own = record.confidence_min
            self._confidence_mins[record.route_id] = default if own is None else own


def _slots_of(records: Sequence[RouteRecord]) -> Slots:
    """Slots of the examples of all records, one record after the other."""
    owned = [each.example_slots if each.description else each.slots for each in records]
    return np.array(list(chain.from_iterable(owned)), np.int64)


def first_exact(text: str, found: Iterable[tuple[RouteRecord, int]]) -> tuple[int, int] | None:
    """Choose the route and slot whose utterance is a text; see ``Tensor.exact_match``."""
    form, best = same_text_form(text), None
    for record, slot in found:
        utterance = record.utterances[bisect_left(record.slots, slot)]
        if same_text_form(utterance) == form:
            rank = (utterance != text, record.name, slot, record.route_id)
            best = rank if best is None else min(best, rank)
    return None if best is None else (best[3], best[2])

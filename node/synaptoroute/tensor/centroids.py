"""Centroids of the routes, exact after any history, and the rows of a change to come.

The sum of a route's rows is held on the grid of ``synaptoroute.exact``.  There float64
adds and subtracts rows without rounding, so the sum, and with it the centroid, depends
only on the rows that the route has now: it is the same on every node, after any replay
or snapshot.

Two kinds of work are deferred.  A boot may take over centroids that were packed when the
same rows were served: the sums of those routes are computed before a route changes, or
while the node is idle.  So are the sums of new routes with few rows.  Centroids of changed
routes are computed before the next query reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.mutation import Revision
from synaptoroute.exact import to_grid, tree_sum
from synaptoroute.tensor.rows import CACHED_ROWS, ChunkedArray, Slots
from synaptoroute.tensor.score_terms import ScoreTerms

DEFERRED_ROUTES_MAX: Final = 256
"""Centroids that may be out of date until the next query."""
_CHUNK_ROUTES: Final = 4_096
_THREADED_ROWS_MIN: Final = 16_384
"""From so many rows on, a second thread takes half of a sum."""


class Centroids:
    """Sums, unit centroids and mean lengths, by route id.

    Invariants: a route id that is not in use has a zero centroid.  After ``flush``,
    ``units`` and ``mean_norms`` are those of the routes' rows.

    Attributes:
        units: Centroids of unit length, float32[routes, dim].
        mean_norms: Length of the mean of each route's rows, between 0 and about 1.
        has_deferred: Whether a centroid is out of date.
        has_deferred_sums: Whether a sum has not been computed yet.
        terms: Of the adaptive score; None without a fit for it.
    """

    def __init__(
        self,
        rows: ChunkedArray[np.float32],
        slots_of: Mapping[int, Slots],
        routes_at_first: int = 0,
    ) -> None:
        self.units: ChunkedArray[np.float32] = ChunkedArray(
            rows.dim, _CHUNK_ROUTES, np.float32, routes_at_first
        )
        self.mean_norms = np.zeros(0)
        self.has_deferred = False
        self.has_deferred_sums = False
        self.terms: ScoreTerms | None = None
        self._rows = rows
        self._slots_of = slots_of
        self._sums: ChunkedArray[np.float64] = ChunkedArray(
            rows.dim, _CHUNK_ROUTES, np.float64, routes_at_first
        )
        self._is_sum_deferred = np.zeros(0, np.bool_)
        self._deferred: set[int] = set()

    def reserve(self, routes: int) -> None:
        if self.terms is not None:
            self.terms.reserve(routes)
        if routes <= self.units.capacity_rows:
            return
        self._sums.reserve(routes)
        self.units.reserve(routes)
        missing = self.units.capacity_rows - len(self.mean_norms)
        self.mean_norms = np.concatenate([self.mean_norms, np.zeros(missing)])
        more = np.zeros(missing, np.bool_)
        self._is_sum_deferred = np.concatenate([self._is_sum_deferred, more])

    def copy_from(self, other: Centroids, routes: int) -> None:
        """Copy the sums and centroids of routes below ``routes``; none may be deferred there."""
        self.reserve(routes)
        self.units.copy_from(other.units, routes)
        self._sums.copy_from(other._sums, routes)
        self.mean_norms[:routes] = other.mean_norms[:routes]
        self.terms = None if other.terms is None else other.terms.copy(routes)
        if self.terms is not None:
            self.terms.reserve(self.units.capacity_rows)

    def add_rows(self, route_ids: Slots, slots: Slots, sign: float = 1.0) -> None:
        """Add the rows at ``slots`` to the sums of their routes; subtract with ``sign`` -1.

        Routes with equally many rows are summed together: a sum over an axis of fixed
        length runs at the speed of memory, one over runs of any length does not.
        """
        if len(route_ids) == 0:
            return
        if bool((route_ids == route_ids[0]).all()):  # a write of one route
            self._add_equal(route_ids[:1], slots[np.newaxis], sign)
            return
        by_route = np.argsort(route_ids, kind="stable")
        owners = route_ids[by_route]
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        counts = np.diff(firsts, append=len(owners))
        by_count = np.argsort(counts, kind="stable")
        for group in np.split(by_count, np.flatnonzero(np.diff(counts[by_count])) + 1):
            places = firsts[group, np.newaxis] + np.arange(int(counts[group[0]]))
            self._add_on_threads(owners[firsts[group]], slots[by_route[places]], sign)

    def _add_on_threads(self, route_ids: Slots, slots: Slots, sign: float) -> None:
        """Add int64[routes, n] slots; a second thread takes half of many rows."""
        if slots.size < _THREADED_ROWS_MIN:
            self._add_equal(route_ids, slots, sign)
            return
        # The halves touch different routes, and sums are exact: no order of the threads
        # can change a bit of the result.
        half = len(route_ids) // 2
        with ThreadPoolExecutor(1, "tensor-sums") as pool:
            other = pool.submit(self._add_equal, route_ids[half:], slots[half:], sign)
            self._add_equal(route_ids[:half], slots[:half], sign)
            other.result()

    def _add_equal(self, route_ids: Slots, slots: Slots, sign: float) -> None:
        """Add int64[routes, n] slots, n of each route."""
        count = slots.shape[1]
        routes_per_step = max(1, CACHED_ROWS // count)
        for start in range(0, len(route_ids), routes_per_step):
            part = slots[start : start + routes_per_step]
            touched = route_ids[start : start + routes_per_step]
            sums = self._sums.read(touched)
            for first in range(0, count, CACHED_ROWS):
                chosen = part[:, first : first + CACHED_ROWS]
                grid = to_grid(self._rows.peek(chosen.reshape(-1)))
                grid = grid.reshape(*chosen.shape, self._rows.dim)
                sums += sign * grid.sum(axis=1)
            self._sums.write(touched, sums)

    def clear(self, route_ids: Slots) -> None:
        """Forget deleted routes."""
        if len(route_ids) == 0:
            return
        self._sums.write(route_ids, np.zeros((len(route_ids), self._sums.dim)))
        # A new route may get the id: nothing deferred may outlive the old one.
        self._is_sum_deferred[route_ids] = False
        self._deferred.difference_update(route_ids.tolist())
        self.normalize(route_ids, np.ones(len(route_ids)))

    def normalize(self, route_ids: Slots, row_counts: NDArray[np.float64]) -> None:
        """Compute centroids and mean lengths from the sums."""
        for start in range(0, len(route_ids), CACHED_ROWS):
            chosen = route_ids[start : start + CACHED_ROWS]
            sums = self._sums.read(chosen)
            if self.terms is not None and self.terms.is_complete:
                self.terms.write(chosen, sums, row_counts[start : start + CACHED_ROWS])
            norms = np.sqrt(tree_sum(sums * sums))
            # Opposite rows may cancel out: a zero sum keeps a zero centroid.
            sums /= np.where(norms > 0.0, norms, 1.0)[:, np.newaxis]
            self.units.write(chosen, sums.astype(np.float32))
            self.mean_norms[chosen] = norms / row_counts[start : start + CACHED_ROWS]

    def sums_of(self, route_ids: Slots) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Copy the sums of routes, float64[n, dim], and the numbers of their rows."""
        ids = route_ids.tolist()
        if self.has_deferred_sums:
            self.flush_sums(ids)
        counts = [float(len(self._slots_of[route_id])) for route_id in ids]
        return self._sums.read(route_ids), np.array(counts)

    def complete_terms(self, route_ids: Slots) -> None:
        """Compute the terms of all routes, if a fit is new."""
        terms = self.terms
        if terms is None or terms.is_complete:
            return
        terms.reserve(self.units.capacity_rows)
        for start in range(0, len(route_ids), _CHUNK_ROUTES):
            chosen = route_ids[start : start + _CHUNK_ROUTES]
            terms.write(chosen, *self.sums_of(chosen))
        terms.is_complete = True

    def defer(self, route_ids: list[int]) -> None:
        """Compute the centroids of changed routes later, by ``flush``."""
        self._deferred.update(route_ids)
        self.has_deferred = bool(self._deferred)
        if len(self._deferred) > DEFERRED_ROUTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Compute the centroids that ``defer`` was given."""
        if self._deferred:
            route_ids = sorted(self._deferred)
            self._deferred.clear()
            if self.has_deferred_sums:
                self.flush_sums(route_ids)
                self.has_deferred_sums = bool(self._is_sum_deferred.any())
            counts = [float(len(self._slots_of[route_id])) for route_id in route_ids]
            self.normalize(np.array(route_ids, np.int64), np.array(counts))
        self.has_deferred = False

    def defer_sums(self, route_ids: Slots) -> None:
        """Sum all rows of these new routes later, by ``flush_sums``."""
        # The rows are read when the sum is computed: it must be before they change.
        self._is_sum_deferred[route_ids] = self.has_deferred_sums = True

    def flush_some_sums(self, rows_max: int) -> None:
        """Compute the next deferred sums, of about ``rows_max`` rows."""
        deferred = np.flatnonzero(self._is_sum_deferred)
        self.flush_sums(deferred[:rows_max].tolist(), rows_max)
        self.has_deferred_sums = bool(self._is_sum_deferred.any())

    def flush_sums(self, route_ids: Iterable[int], rows_max: int | None = None) -> None:
        """Compute the deferred sums among these routes, before their rows change.

        Stops once ``rows_max`` rows are summed, if that is given.
        """
        owners: list[int] = []
        parts: list[Slots] = []
        rows = 0
        for route_id in route_ids:
            if not self._is_sum_deferred[route_id]:
                continue
            owners.append(route_id)
            parts.append(self._slots_of[route_id])
            rows += len(parts[-1])
            if rows_max is not None and rows >= rows_max:
                break
        if owners:
            ids = np.repeat(np.array(owners, np.int64), [len(part) for part in parts])
            self.add_rows(ids, np.concatenate(parts))
            self._is_sum_deferred[owners] = False

    def pack(self, route_ids: Slots) -> bytes:
        """Return centroids and mean lengths as bytes, for ``unpack``."""
        self.flush()
        units = self.units.read(route_ids).astype("<f4", copy=False)
        return units.tobytes() + self.mean_norms[route_ids].astype("<f8", copy=False).tobytes()

    def unpack(self, route_ids: Slots, packed: NDArray[np.uint8]) -> bool:
        """Take over what was packed for the same routes and rows; their sums are deferred.

        Returns:
            Whether the length fits so many routes; if not, nothing changed.
        """
        units_bytes = len(route_ids) * self.units.dim * np.dtype("<f4").itemsize
        if len(packed) != units_bytes + len(route_ids) * np.dtype("<f8").itemsize:
            return False
        units = packed[:units_bytes].view("<f4").reshape(len(route_ids), self.units.dim)
        self.units.write(route_ids, units)
        self.mean_norms[route_ids] = packed[units_bytes:].view("<f8")
        self.defer_sums(route_ids)
        return True


class StagedRows:
    """The rows of a large change that are written and summed before it becomes visible.

    The rows are written where no route owns them, and added to the sums of routes that no
    query can see yet.  Then one short step makes the change visible, however large it is.
    Invariants: staged rows belong to the change at ``revision``, None if there is none;
    the routes they are summed for are not live.
    """

    def __init__(self, centroids: Centroids, capacity_rows: int) -> None:
        self.revision: Revision | None = None
        self._centroids = centroids
        self._is_written = np.zeros(capacity_rows, np.bool_)
        self._is_summed = np.zeros(capacity_rows, np.bool_)
        self._routes: set[int] = set()

    def reserve(self, capacity_rows: int) -> None:
        missing = np.zeros(capacity_rows - len(self._is_written), np.bool_)
        self._is_written = np.concatenate([self._is_written, missing])
        self._is_summed = np.concatenate([self._is_summed, missing])

    def begin(self, at: Revision) -> None:
        """Stage the change at ``at``; rows staged for another change are dropped."""
        if self.revision != at:
            self._drop_sums()
            self._is_written[:] = False
            self.revision = at

    def mark_written(self, slots: Slots) -> None:
        """Note that rows were written."""
        self._is_written[slots] = True

    def add_sums(self, route_ids: Slots, slots: Slots, is_live: NDArray[np.bool_]) -> None:
        """Add written rows to the sums of those routes that are not live yet."""
        within = np.minimum(route_ids, len(is_live) - 1)
        is_new = (route_ids >= len(is_live)) | ~is_live[within] if len(is_live) else route_ids >= 0
        route_ids, slots = route_ids[is_new], slots[is_new]
        if len(slots):
            self._centroids.reserve(int(route_ids.max()) + 1)
            self._centroids.add_rows(route_ids, slots)
            self._is_summed[slots] = True
            self._routes.update(route_ids.tolist())

    def take(self, slots: Slots, at: Revision) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Say which rows of the change at ``at`` are written, and which are summed.

        The rows at ``slots`` are no longer staged: this change overwrites them.
        """
        if self.revision != at:
            # Another change came first.  It may create the routes that were summed.
            self._drop_sums()
        written, summed = self._is_written[slots], self._is_summed[slots]
        self._is_written[slots] = self._is_summed[slots] = False
        if self.revision != at:
            written[:] = False
        else:
            self._routes.clear()
            self.revision = None
        return written, summed

    def _drop_sums(self) -> None:
        if self._routes:
            self._centroids.clear(np.array(sorted(self._routes), np.int64))
            self._routes.clear()
            self._is_summed[:] = False

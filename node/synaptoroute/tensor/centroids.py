"""What is derived from a route's rows: its centroid, kept exact at any history.

The sum of a route's rows is held on the grid of ``synaptoroute.exact``, where
adding and subtracting rows is free of rounding: the sum, and so the centroid, is
that of the rows the route has now, on every node, after any replay or snapshot.

Not all is computed at once.  A boot may take centroids over that were packed when the
same rows were served: their sums are owed until a route changes or there is time.  So
are those of a new route with few rows.  Centroids follow their sums before anybody
reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.exact import to_grid, tree_sum
from synaptoroute.tensor.blocks import ROWS_ALIGNED
from synaptoroute.tensor.chunked_array import Slabs, Slots

_SLAB_ROUTES: Final = 4_096
_HALVED_ROWS_MIN: Final = 16_384
_SUM_ROWS: Final = 256
"""Rows summed at once; their float64 copy stays in the processor's cache."""
LATER_ROUTES_MAX: Final = 256
"""Centroids that may wait until a write was answered."""


class Centroids:
    """Sums, unit centroids and mean lengths, by route id.

    Invariants: a route id that is not in use has a zero centroid; ``mean_norms``
    is the length of the mean of the route's rows, between 0 and about 1; where the sum
    of any route is due, ``has_due`` is true.
    """

    def __init__(self, rows: Slabs[np.float32], slots_of: Mapping[int, Slots]) -> None:
        dim = rows.dim
        self._rows = rows
        self._slots_of = slots_of
        self._unsettled: set[int] = set()
        self._sums: Slabs[np.float64] = Slabs(dim, _SLAB_ROUTES, np.float64)
        self._units: Slabs[np.float32] = Slabs(dim, _SLAB_ROUTES, np.float32)
        self._is_due = np.zeros(_SLAB_ROUTES, np.bool_)
        self.has_due = False
        self._mean_norms = np.zeros(_SLAB_ROUTES)

    @property
    def rows_mapped(self) -> int:
        """Route ids that have a place."""
        return self._units.rows_mapped

    def reserve(self, routes: int) -> None:
        """Make room for route ids below ``routes``."""
        self._sums.reserve(routes)
        self._units.reserve(routes)
        missing = self._units.rows_mapped - len(self._mean_norms)
        if missing > 0:
            self._mean_norms = np.concatenate([self._mean_norms, np.zeros(missing)])
            self._is_due = np.concatenate([self._is_due, np.zeros(missing, np.bool_)])

    @property
    def mean_norms(self) -> NDArray[np.float64]:
        """Length of the mean of each route's rows, by route id."""
        self.catch_up()
        return self._mean_norms

    def move(self, route_ids: Slots, slots: Slots, sign: float) -> None:
        """Add (``sign`` 1) or take away (-1) the rows at ``slots``, each of its route.

        Routes that move equally many rows are summed together: a sum over an axis of
        fixed length runs at the speed of memory, one over runs of any length does not.
        """
        if len(route_ids) == 0:
            return
        if bool((route_ids == route_ids[0]).all()):  # what a write of one route moves
            self._move_alike(route_ids[:1], slots[np.newaxis], sign)
            return
        by_route = np.argsort(route_ids, kind="stable")
        owners = route_ids[by_route]
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        counts = np.diff(firsts, append=len(owners))
        by_count = np.argsort(counts, kind="stable")
        for alike in np.split(by_count, np.flatnonzero(np.diff(counts[by_count])) + 1):
            places = firsts[alike, np.newaxis] + np.arange(int(counts[alike[0]]))
            alike_slots = slots[by_route[places]]
            self._move_halves(owners[firsts[alike]], alike_slots, sign)

    def _move_halves(self, route_ids: Slots, slots: Slots, sign: float) -> None:
        """Move int64[routes, n] slots; many are shared with a second thread.

        The halves touch different routes, and sums are exact, so it changes nothing.
        """
        if slots.size < _HALVED_ROWS_MIN:
            self._move_alike(route_ids, slots, sign)
            return
        half = len(route_ids) // 2
        with ThreadPoolExecutor(1, "tensor-sums") as pool:
            other = pool.submit(self._move_alike, route_ids[half:], slots[half:], sign)
            self._move_alike(route_ids[:half], slots[:half], sign)
            other.result()

    def _move_alike(self, route_ids: Slots, slots: Slots, sign: float) -> None:
        """Move int64[routes, n] slots, n of each route."""
        count = slots.shape[1]
        routes_at_once = max(1, _SUM_ROWS // count)
        for start in range(0, len(route_ids), routes_at_once):
            part = slots[start : start + routes_at_once]
            touched = route_ids[start : start + routes_at_once]
            sums = self._sums.read(touched)
            for first in range(0, count, _SUM_ROWS):
                chosen = part[:, first : first + _SUM_ROWS]
                grid = to_grid(self._rows.look(chosen.reshape(-1)))
                grid = grid.reshape(*chosen.shape, self._rows.dim)
                sums += sign * grid.sum(axis=1)
            self._sums.write(touched, sums)

    def clear(self, route_ids: Slots) -> None:
        """Forget routes that are gone."""
        if len(route_ids) == 0:
            return
        self._sums.write(route_ids, np.zeros((len(route_ids), self._sums.dim)))
        self._is_due[route_ids] = False
        self._unsettled.difference_update(route_ids.tolist())
        self.settle(route_ids, np.ones(len(route_ids)))

    def settle(self, route_ids: Slots, row_counts: NDArray[np.float64]) -> None:
        """Make the centroids follow their sums again."""
        for start in range(0, len(route_ids), _SUM_ROWS):
            chosen = route_ids[start : start + _SUM_ROWS]
            sums = self._sums.read(chosen)
            norms = np.sqrt(tree_sum(sums * sums))
            sums /= np.where(norms > 0.0, norms, 1.0)[:, np.newaxis]
            self._units.write(chosen, sums.astype(np.float32))
            self._mean_norms[chosen] = norms / row_counts[start : start + _SUM_ROWS]

    def settle_later(self, route_ids: Iterable[int]) -> None:
        """Note routes whose centroids follow their rows again before anybody looks."""
        self._unsettled.update(route_ids)
        if len(self._unsettled) > LATER_ROUTES_MAX:
            self.catch_up()

    @property
    def is_behind(self) -> bool:
        """Whether such routes were noted."""
        return bool(self._unsettled)

    def catch_up(self) -> None:
        """Make the centroids of these routes follow their rows."""
        if self._unsettled:
            route_ids = sorted(self._unsettled)
            self._unsettled.clear()
            self.pay(route_ids)
            counts = [float(len(self._slots_of[route_id])) for route_id in route_ids]
            self.settle(np.array(route_ids, np.int64), np.array(counts))

    def pack(self, route_ids: Slots) -> bytes:
        """Centroids and mean lengths as bytes, for ``take``."""
        self.catch_up()
        units = self._units.read(route_ids).astype("<f4", copy=False)
        return units.tobytes() + self._mean_norms[route_ids].astype("<f8", copy=False).tobytes()

    def take(self, route_ids: Slots, packed: NDArray[np.uint8]) -> bool:
        """Take over what was packed of these routes, with these rows; their sums are due.

        Returns:
            Whether it is of so many routes; if not, nothing changed.
        """
        units_bytes = len(route_ids) * self._units.dim * np.dtype("<f4").itemsize
        if len(packed) != units_bytes + len(route_ids) * np.dtype("<f8").itemsize:
            return False
        self._units.write(route_ids, packed[:units_bytes].view("<f4").reshape(len(route_ids), -1))
        self._mean_norms[route_ids] = packed[units_bytes:].view("<f8")
        self._is_due[route_ids] = self.has_due = True
        return True

    def owe(self, route_ids: Slots) -> None:
        """Note routes that are new: the sums of all their rows are due."""
        self._is_due[route_ids] = self.has_due = True

    def due(self) -> Slots:
        """Routes whose sums are due, ascending."""
        return np.flatnonzero(self._is_due)

    def pay_some(self, rows_max: int) -> None:
        """Pay for the next routes, about so many rows."""
        due = self.due()
        self.pay(due[:rows_max].tolist(), rows_max)
        self.has_due = bool(self._is_due.any())

    def pay(self, route_ids: Iterable[int], rows_max: int | None = None) -> None:
        """Sum the rows of those routes whose sums are due, before they change.

        With ``rows_max`` it ends once so many are summed.
        """
        owners: list[int] = []
        parts: list[Slots] = []
        rows = 0
        for route_id in route_ids:
            if not self._is_due[route_id]:
                continue
            owners.append(route_id)
            parts.append(self._slots_of[route_id])
            rows += len(parts[-1])
            if rows_max is not None and rows >= rows_max:
                break
        if owners:
            ids = np.repeat(np.array(owners, np.int64), [len(part) for part in parts])
            self.move(ids, np.concatenate(parts), 1.0)
            self._is_due[owners] = False

    def read(self, route_ids: Slots) -> NDArray[np.float32]:
        """Copy centroids out, float32[n, dim]."""
        self.catch_up()
        return self._units.read(route_ids)

    def spans(self, routes: int) -> list[tuple[int, NDArray[np.float32]]]:
        """View the centroids of route ids below ``routes``, with the first id of each view.

        The views hold a multiple of ``ROWS_ALIGNED`` rows; those beyond are zero.
        """
        self.catch_up()
        aligned = -(-routes // ROWS_ALIGNED) * ROWS_ALIGNED
        return [
            (start, self._units.span(start, min(start + _SLAB_ROUTES, aligned)))
            for start in range(0, aligned, _SLAB_ROUTES)
        ]

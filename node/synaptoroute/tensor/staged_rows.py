"""What is done of a large change before it becomes visible.

Its rows are written where nobody owns them, and added to the sums of routes that nobody
can see yet.  To show the change is then one short step, however large it is: a query that
comes meanwhile waits for that step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.mutation import Revision
from synaptoroute.tensor.centroids import Centroids
from synaptoroute.tensor.chunked_array import Slots


class Ahead:
    """Rows of one change that is still to come.

    Invariants: rows that are written or summed are of the change at ``of``; the routes
    that they are summed for are not live.
    """

    def __init__(self, centroids: Centroids, rows_mapped: int) -> None:
        self.of: Revision | None = None
        self._centroids = centroids
        self._is_written = np.zeros(rows_mapped, np.bool_)
        self._is_summed = np.zeros(rows_mapped, np.bool_)
        self._routes: set[int] = set()

    def reserve(self, rows_mapped: int) -> None:
        """Follow the rows as they grow."""
        missing = np.zeros(rows_mapped - len(self._is_written), np.bool_)
        self._is_written = np.concatenate([self._is_written, missing])
        self._is_summed = np.concatenate([self._is_summed, missing])

    def begin(self, at: Revision) -> None:
        """Go on with the change at ``at``; what was done of another one is void."""
        if self.of != at:
            self._drop_sums()
            self._is_written[:] = False
            self.of = at

    def note(self, slots: Slots) -> None:
        """Rows were written."""
        self._is_written[slots] = True

    def add(self, route_ids: Slots, slots: Slots, is_live: NDArray[np.bool_]) -> None:
        """Add rows that were written to the sums of their routes, where those are new."""
        within = np.minimum(route_ids, len(is_live) - 1)
        is_new = (route_ids >= len(is_live)) | ~is_live[within] if len(is_live) else route_ids >= 0
        route_ids, slots = route_ids[is_new], slots[is_new]
        if len(slots):
            self._centroids.reserve(int(route_ids.max()) + 1)
            self._centroids.move(route_ids, slots, 1.0)
            self._is_summed[slots] = True
            self._routes.update(route_ids.tolist())

    def expect(self, at: Revision) -> None:
        """The change at ``at`` comes now: sums of another one are void."""
        if self.of != at:
            self._drop_sums()

    def _drop_sums(self) -> None:
        """Forget what was summed."""
        if self._routes:
            self._centroids.clear(np.array(sorted(self._routes), np.int64))
            self._routes.clear()
            self._is_summed[:] = False

    def take_written(self, slots: Slots) -> NDArray[np.bool_]:
        """Say which rows were written, bool[n]; they are no longer ahead."""
        written = self._is_written[slots]
        self._is_written[slots] = False
        return written

    def take_summed(self, slots: Slots) -> NDArray[np.bool_]:
        """Say which rows were summed, bool[n]; they are no longer ahead."""
        summed = self._is_summed[slots]
        self._is_summed[slots] = False
        self._routes.clear()
        return summed

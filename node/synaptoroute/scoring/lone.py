"""A lone query: few calls of numpy and plain Python, with the bits that it has in a batch.

A call of numpy costs about a microsecond, and a lone query is made of little else.  What depends
on the route set alone is therefore made once for each of its states (``_Plan``): the stacks of the
products, the bounds of the routes, the arrays for results.  A handful of candidates is
scored in plain Python, by the same exact arithmetic as in a batch.

A plan is for a route set of one block, where every id is in use and no route has negatives.  Others
are scanned as a batch is; their candidates are scored here all the same (``rank_lone``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.exact import dot_error
from synaptoroute.scoring.rule import DecisionRule, ExactScore
from synaptoroute.scoring.scan import Scan, Scratch
from synaptoroute.scoring.values import Float32s, Float64s, QuerySpec, Ranking
from synaptoroute.tensor import TensorView
from synaptoroute.tensor.blocks import Block

ROUNDED_UP: Final = 1.0 + 2.0**-12
"""Makes a length that float32 added up, of thousands of components, no shorter than it is."""

_PLANNED: Final = frozenset({"adaptive", "blend", "max"})
_ROUTES_MAX: Final = 16
_ROWS_MAX: Final = 48
"""Candidates that plain Python scores; more are scored as a batch."""
_ROUTES_ALIGNED: Final = 16
_PRODUCT_MAX: Final = 9_000
"""Most multiplications of one product: above, OpenBLAS may start threads."""


def rank_small(
    view: TensorView, query: Float32s, spec: QuerySpec, scratch: Scratch, rule: DecisionRule
) -> Ranking | None:
    """Rank all routes of a small set for one query.

    Args:
        query: float32[dim].

    Returns:
        None where there is no plan for the set or there are too many candidates.
    """
    if spec.routes is not None:
        return None
    plan: _Plan | None = scratch.lone_plan
    if plan is None or plan.view is not view:
        plan = scratch.lone_plan = _Plan(view, scratch)
    if not plan.is_usable:
        return None
    length = math.sqrt(float(query.dot(query)) * ROUNDED_UP)
    assert math.isfinite(length), "an encoder gave a vector that is not finite"
    column = query.reshape(-1, 1)
    plan.scan(column)
    longer = max(1.0, length)
    count = rule.widened_limit(spec.limit)
    route_ids = _candidates(
        plan.upper, plan.upper_error * longer, count, rule, plan.leading, plan.is_candidate
    )
    if len(route_ids) > _ROUTES_MAX:
        return None
    places, counts = plan.close(route_ids, 2.0 * plan.error * longer)
    if len(places) > _ROWS_MAX:
        return None
    slots, vectors, has_centroids = plan.gather(places, route_ids, rule)
    values = scratch.few_dots(vectors, column.astype(np.float64))
    found = _scores(view, rule, route_ids, slots, counts, values, has_centroids=has_centroids)
    return rule.decide(view, found, spec.limit, len(plan.upper))


class _Plan:
    """Arrays for scoring one query against a view, kept between queries; belongs to one thread.

    Attributes:
        view: The view that it was made for; valid until the next change.
        is_usable: Whether the route set is one that a plan serves.
        upper: Approximate scores of the last query, float64[routes].
        leading, is_candidate: Room for selecting among them.
        error: Bound of |approximate similarity - exact| for a query of length one.
        upper_error: The same of a score.
    """

    def __init__(self, view: TensorView, scratch: Scratch) -> None:
        self.view = view
        self.is_usable = _is_small(view, scratch)
        if not self.is_usable:
            return
        (block,) = view.blocks
        routes, dim = len(view.is_live), view.dim
        self._block = block
        self._rows, self._similarities = _stack(block.rows, len(block.rows), dim)
        self._flat = self._similarities.reshape(-1)
        # Utterances that were added route by route lie as they are read.
        used = len(block.order)
        self._is_in_order = bool((block.order == np.arange(used)).all())
        self._by_route = self._flat[:used] if self._is_in_order else np.empty(used, np.float32)
        self._bounds = [*block.starts.tolist(), len(block.order)]
        self._read: dict[int, Callable[[], list[float]]] = {}
        self._largest = np.empty(routes, np.float32)
        self.upper, self.leading = np.empty(routes), np.empty(routes)
        self.is_candidate = np.empty(routes, np.bool_)
        self._gathered = np.empty((_ROWS_MAX + 2 * _ROUTES_MAX, dim), np.float32)
        self._centroids = view.centroid_spans[0][1]
        aggregation, adaptive = view.settings.aggregation, view.adaptive
        self._terms = adaptive.spans[0][1] if adaptive and aggregation == "adaptive" else None
        self._offsets = adaptive.offsets if adaptive else np.zeros(routes)
        self.error = dot_error(dim)
        # The error of a product grows with the lengths of both vectors.
        linear, weight, longest, share = None, 1.0, 0.0, 0.0
        if aggregation == "blend":
            linear, weight, longest, share = self._centroids, 0.5, 1.0, 0.5
        elif adaptive is not None and self._terms is not None:
            linear, weight, share = self._terms, adaptive.largest, 1.0
            longest = max(1.0, adaptive.length_max)
        # As an array of no axes it is float64; a Python number would take on float32.
        self._weight = np.float64(weight)
        self._share = share
        self._has_linear = linear is not None
        if linear is not None:
            used = min(-(-routes // _ROUTES_ALIGNED) * _ROUTES_ALIGNED, len(linear))
            self._linear, self._linear_out = _stack(linear, used, dim)
            self._linear_of = self._linear_out.reshape(-1)[:routes]
        self.upper_error = self.error * (abs(weight) + longest * share)

    def scan(self, column: Float32s) -> None:
        """Approximate similarities and scores of a query, float32[dim, 1]."""
        upper = self.upper
        np.matmul(self._rows, column, self._similarities)
        if not self._is_in_order:
            # ``clip`` spares numpy's bounds check; the indexes are within the block.
            self._flat.take(self._block.order, None, self._by_route, "clip")
        np.maximum.reduceat(self._by_route, self._block.starts, 0, None, self._largest)
        np.multiply(self._largest, self._weight, upper)
        if self._has_linear:
            np.matmul(self._linear, column, self._linear_out)
            if self._share == 1.0:
                np.add(upper, self._linear_of, upper)
                np.add(upper, self._offsets, upper)
            else:
                np.add(upper, self._linear_of * np.float64(self._share), upper)

    def close(self, route_ids: list[int], margin: float) -> tuple[list[int], list[int]]:
        """Find utterances that may be the most similar of their route.

        Returns:
            Their places in the order of the block, and how many each route has.
        """
        bounds, read = self._bounds, self._read
        places: list[int] = []
        counts: list[int] = []
        for route_id in route_ids:
            own = (read.get(route_id) or self._reader(route_id))()
            largest, start = max(own), bounds[route_id]
            bar, at = largest - margin, own.index(largest)
            own[at] = -math.inf
            if max(own) < bar:  # as most routes have one utterance that is nearest by far
                places.append(start + at)
                counts.append(1)
                continue
            own[at] = largest
            close = [place for place, value in enumerate(own, start) if value >= bar]
            places += close
            counts.append(len(close))
        return places, counts

    def _reader(self, route_id: int) -> Callable[[], list[float]]:
        """Make what reads the similarities of a route's utterances, and keep it."""
        own = self._by_route[self._bounds[route_id] : self._bounds[route_id + 1]]
        found = self._read[route_id] = own.tolist
        return found

    def gather(
        self, places: list[int], route_ids: list[int], rule: DecisionRule
    ) -> tuple[list[int], Float32s, bool]:
        """Copy the vectors that decide together.

        Returns:
            Slots of the utterances; the vectors of the utterances, then of the routes'
            centroids, if those count, then of their terms; and whether the centroids are there.
        """
        block, room = self._block, self._gathered
        within = places if self._is_in_order else block.order.take(places).tolist()
        count, more = len(places), len(route_ids)
        stop = count
        block.rows.take(within, 0, room[:count], "clip")
        has_centroids = _needs_centroids(self.view, rule)
        for vectors in (self._centroids if has_centroids else None, self._terms):
            if vectors is not None:
                vectors.take(route_ids, 0, room[stop : stop + more], "clip")
                stop += more
        base = block.base_slot
        return [slot + base for slot in within] if base else within, room[:stop], has_centroids


def _is_small(view: TensorView, scratch: Scratch) -> bool:
    """Whether a plan can serve a route set: one block, every id in use, no negatives."""
    if view.settings.aggregation not in _PLANNED or view.negatives is not None:
        return False
    if len(view.blocks) != 1 or view.live_count != len(view.is_live):
        return False
    is_in_bytes = scratch.has_product and view.slot_stop >= scratch.bytes_rows_min
    spans = view.adaptive.spans if view.adaptive is not None else view.centroid_spans
    return (
        not is_in_bytes
        and _has_all(view.blocks[0], view.live_count)
        and len(spans) == len(view.centroid_spans) == 1
    )


def _has_all(block: Block, routes: int) -> bool:
    return len(block.route_ids) == routes


def _stack(
    vectors: Float32s, count: int, dim: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """View the first vectors as a stack of small products, and make room for their results."""
    height = count & -count
    while height > 1 and height * dim > _PRODUCT_MAX:
        height //= 2
    stack = vectors[:count].reshape(-1, height, dim)
    return stack, np.empty((len(stack), height, 1), np.float32)


# --- what both ways have in common ---


def rank_lone(
    view: TensorView,
    query: Float32s,
    scan: Scan,
    upper_scores: Float64s,
    upper_error: Float64s,
    spec: QuerySpec,
    limit: int,
    scratch: Scratch,
    rule: DecisionRule,
) -> Ranking | None:
    """Rank all routes for one query that was scanned, where every id is in use.

    Args:
        view: The routes; their aggregation is ``blend``, ``max`` or ``adaptive``.
        query: float32[1, dim].
        spec: Widened by the rule.
        limit: How many routes to list.

    Returns:
        None where there are too many candidates.
    """
    upper = upper_scores[0]
    route_ids = _candidates(upper, upper_error.item(0), spec.limit, rule)
    if len(route_ids) > _ROUTES_MAX:
        return None
    slots, counts = _utterances(view, route_ids, scan)
    if len(slots) > _ROWS_MAX:
        return None
    has_centroids = _needs_centroids(view, rule)
    parts, ids = [view.rows.read(np.array(slots))], np.array(route_ids)
    if has_centroids:
        parts.append(view.centroids.read(ids))
    if view.settings.aggregation == "adaptive" and view.adaptive is not None:
        parts.append(view.adaptive.vectors.read(ids))
    vectors = np.concatenate(parts) if len(parts) > 1 else parts[0]
    values = scratch.few_dots(vectors, query.T.astype(np.float64))
    found = _scores(view, rule, route_ids, slots, counts, values, has_centroids=has_centroids)
    return rule.decide(view, found, limit, len(upper))


def _needs_centroids(view: TensorView, rule: DecisionRule) -> bool:
    aggregation = view.settings.aggregation
    return aggregation == "blend" or (aggregation == "adaptive" and rule.needs_blend)


def _candidates(
    upper: Float64s,
    error: float,
    limit: int,
    rule: DecisionRule,
    leading: Float64s | None = None,
    is_candidate: NDArray[np.bool_] | None = None,
) -> list[int]:
    """Choose the routes that may be among the ``limit`` best and one more, or the best that passes.

    Args:
        upper: Approximate scores, float64[routes].
        error: Bound of their error.
        leading, is_candidate: Room of that length.
    """
    least = len(upper) - min(limit + 1, len(upper))
    if leading is None:
        leading = upper.copy()
    else:
        np.copyto(leading, upper)
    leading.partition(least)
    chosen: NDArray[np.bool_]
    chosen = np.greater_equal(upper, leading.item(least) - 2.0 * error, is_candidate)
    if rule.bars is not None:
        first = int(upper.argmax())
        if upper.item(first) < rule.bars.item(first) + error:
            # A lower route with a lower threshold may be the best that passes.
            chosen |= upper >= rule.bars - error
    found: list[int] = chosen.nonzero()[0].tolist()
    return found


def _utterances(view: TensorView, route_ids: list[int], scan: Scan) -> tuple[list[int], list[int]]:
    """Find utterances that may be the most similar of their route; and how many a route has."""
    parts = [view.slots_of[route_id] for route_id in route_ids]
    every = np.concatenate(parts) if len(parts) > 1 else parts[0]
    values, all_slots = scan.similarities.reshape(-1).take(every).tolist(), every.tolist()
    # In steps of the scan: the similarities are not scaled to cosines.
    margin = 2.0 * scan.error.item(0) / scan.sizes.item(0)
    slots: list[int] = []
    counts: list[int] = []
    start = 0
    for part in parts:
        stop = start + len(part)
        own = values[start:stop]
        bar = max(own) - margin
        before = len(slots)
        slots += [all_slots[start + at] for at, value in enumerate(own) if value >= bar]
        counts.append(len(slots) - before)
        start = stop
    return slots, counts


def _scores(
    view: TensorView,
    rule: DecisionRule,
    route_ids: list[int],
    slots: list[int],
    counts: list[int],
    values: list[float],
    *,
    has_centroids: bool,
) -> Sequence[ExactScore]:
    """Score the routes exactly; highest first, of equals that of the lowest slot.

    Args:
        values: Products of the query with the utterances, then with the centroids, if those
            count, then with the terms of the routes.
    """
    adaptive = view.adaptive if view.settings.aggregation == "adaptive" else None
    # As in ``rank``: a cosine, of vectors that are unit only within rounding.
    cosines = len(slots) + (len(route_ids) if has_centroids else 0)
    if max(values[:cosines]) > 1.0 or min(values[:cosines]) < -1.0:
        values[:cosines] = [min(1.0, max(-1.0, value)) for value in values[:cosines]]
    scores: list[tuple[float, int, ExactScore]] = []
    start, centroids, terms = 0, len(slots), cosines
    for place, (route_id, count) in enumerate(zip(route_ids, counts, strict=True)):
        if count == 1:
            largest, slot = values[start], slots[start]
        else:
            own = values[start : start + count]
            largest = max(own)
            slot = slots[start + own.index(largest)]
        start += count
        score, judged = largest, None
        if has_centroids:
            score = (largest + values[centroids + place]) / 2.0
        if adaptive is not None:
            judged = score if has_centroids else None
            score = largest * adaptive.largest + values[terms + place]
            score += adaptive.offsets.item(route_id)
        # No two routes share a slot, so the tuples differ before they reach the score.
        scores.append((-score, slot, ExactScore(route_id, score, slot, largest, judged)))
    scores.sort()
    return [score for _, _, score in scores]

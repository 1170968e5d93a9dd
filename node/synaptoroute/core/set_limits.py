"""Limits of a route set that every node keeps alike."""

from __future__ import annotations

from collections.abc import Iterable

from synaptoroute.core.change import Change, Rejection, RouteRecord
from synaptoroute.core.mutation import SetLimits
from synaptoroute.core.table import RouteTable


def check_limits(table: RouteTable, change: Change, limits: SetLimits) -> None:
    """Refuse a planned change by which a set grows beyond a limit.

    Raises:
        Rejection: It does; the message has the name of the limit.
    """
    if not (change.writes or change.put):
        return
    rows_more = len(change.writes) - len(change.replaced)
    rows_after = len(table.row_hashes) + rows_more
    if limits.utterances_max and rows_more > 0 and rows_after > limits.utterances_max:
        raise _over("utterances_max", limits.utterances_max, rows_after)
    routes_more = len(change.put) - len(change.before) - len(change.deleted)
    routes_after = len(table.routes) + routes_more
    if limits.routes_max and routes_more > 0 and routes_after > limits.routes_max:
        raise _over("routes_max", limits.routes_max, routes_after)
    if limits.bytes_max:
        more = _bytes_of(change.put) - _bytes_of(change.before) - _bytes_of(change.deleted)
        # Counted anew for each write: a set with this limit is small.
        after = _bytes_of(table.routes.values()) + more
        if more > 0 and after > limits.bytes_max:
            raise _over("bytes_max", limits.bytes_max, after)


def _over(name: str, limit: int, wanted: int) -> Rejection:
    return Rejection("limit_exceeded", f"{name} of the route set is {limit}, it would be {wanted}")


def _bytes_of(routes: Iterable[RouteRecord]) -> int:
    """Bytes of names, texts, payloads and metadata."""
    return sum(
        len("".join((route.name, route.metadata, route.payload)).encode())
        + sum(len(text.encode()) for _, _, text in route.rows())
        for route in routes
    )

"""Looking at the route set: every answer is of one position."""

from __future__ import annotations

import asyncio
import heapq
from typing import Final

from synaptoroute.cascade.cascade import CascadeStatus
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Settings
from synaptoroute.errors import InvalidQuery, RouteNotFound
from synaptoroute.models import CascadeReport, RouteSetSettings, StoredRoute
from synaptoroute.ports import EnginePort
from synaptoroute.router.results import RoutePage, stored_route
from synaptoroute.tensor import Tensor

PAGE_ROUTES_MAX: Final = 1_000


async def get_route(engine: EnginePort, name: str) -> StoredRoute:
    """Show one route.

    Raises:
        RouteNotFound: No route has this name.
    """

    def look(tensor: Tensor) -> tuple[RouteRecord | None, Settings]:
        return tensor.routes.get(name), tensor.settings

    record, settings = await asyncio.wrap_future(engine.read(look))
    if record is None:
        raise RouteNotFound(f"no route is named {name!r}")
    return stored_route(record, settings)


async def list_routes(engine: EnginePort, after: str, limit: int) -> RoutePage:
    """Show up to ``limit`` routes whose names follow ``after``, in order of name.

    Raises:
        InvalidQuery: The limit is not 1 to ``PAGE_ROUTES_MAX``.
    """
    if not 1 <= limit <= PAGE_ROUTES_MAX:
        raise InvalidQuery(f"limit must be 1 to {PAGE_ROUTES_MAX}")

    def look(tensor: Tensor) -> tuple[list[RouteRecord], Settings, str]:
        names = heapq.nsmallest(limit + 1, (n for n in tensor.routes if n > after))
        return [tensor.routes[name] for name in names], tensor.settings, str(tensor.revision)

    records, settings, version = await asyncio.wrap_future(engine.read(look))
    shown = [stored_route(record, settings) for record in records[:limit]]
    has_more = len(records) > limit
    return RoutePage(shown, shown[-1].name if has_more else None, version)


async def get_settings(engine: EnginePort) -> RouteSetSettings:
    """Show the settings of the route set."""
    settings = await asyncio.wrap_future(engine.read(lambda tensor: tensor.settings))
    return RouteSetSettings(
        aggregation=settings.aggregation,
        topk=settings.topk,
        threshold=settings.threshold,
        capacity_slots=settings.capacity_slots,
        cascade=settings.cascade,
    )


def cascade_report(status: CascadeStatus) -> CascadeReport:
    """Show how the cascade stands here, and by which numbers it judges."""
    report = CascadeReport(
        state=status.state,
        reason=status.reason,
        static=status.static,
        deferred=status.deferred,
        changed_share=round(status.changed_share, 4),
    )
    judged = status.calibration
    if judged is None:
        return report
    measured: dict[str, object] = {"at": judged.at, "table": judged.table}
    if judged.guard is not None:
        guard = judged.guard
        measured |= {"guard_margin": guard.margin, "slope": guard.slope, "floor": guard.floor}
        measured |= {"share": judged.share, "agreement": judged.agreement, "strays": judged.strays}
    return report.model_copy(update=measured)


async def checksum(engine: EnginePort) -> dict[str, str]:
    """Show by what two nodes compare: version, digest and the tensor's SHA-256."""

    def look(tensor: Tensor) -> tuple[str, str, str]:
        return tensor.checksum(), str(tensor.revision), engine.published.digest

    tensor_sha256, version, digest = await asyncio.wrap_future(engine.read(look))
    return {"version": version, "digest": digest, "tensor_sha256": tensor_sha256}

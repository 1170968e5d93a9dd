"""``/v1/aliases/{alias}/shadow``: what the shadow of an alias would have answered."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.change_models import (
    ShadowPair,
    ShadowReport,
    ShadowSample,
)
from synaptoroute.ports import ShadowFigures
from synaptoroute.router.route_sets import alias_not_found
from synaptoroute.server.responses import READ_PROBLEMS, model_response, problems, success
from synaptoroute.server.runtime import runtime_of
from synaptoroute.server.set_access import check_may, may
from synaptoroute.server.set_endpoints import AliasName

endpoints = APIRouter(tags=["sets"])


_EXAMPLE: Final[dict[str, Any]] = {
    "alias": "support",
    "node": "5f0c6a5e9d1b4b0f",
    "set": "support@12",
    "shadow": "support@13",
    "revision": "1.42",
    "shadow_revision": "1.56",
    "compared": 1_000,
    "agreed": 990,
    "disagreed": 10,
    "agreement": 0.99,
    "skipped": 0,
    "pairs": [{"answered": None, "shadowed": "returns", "count": 10}],
    "other": 0,
    "sample": [],
}


@endpoints.get(
    "/v1/aliases/{alias}/shadow",
    summary="Show what a shadow would have answered",
    responses={
        200: success("Counts of this node", _EXAMPLE, ShadowReport),
        **problems(*READ_PROBLEMS, 404),
    },
)
async def show_shadow(request: Request, alias: AliasName) -> Response:
    """How often the shadow of an alias agrees with the set that answers, by pairs of routes, as
    this node counted it; the coordinator adds up the nodes. The counts begin again once one of
    both sets changes.
    """
    check_may(request, "read", alias, alias_not_found(alias))
    router = runtime_of(request).serving_router
    record = await router.changes.promotions.alias(alias)
    figures = router.changes.promotions.shadow_figures(alias)
    node = router.status().node
    if figures is None:
        report = ShadowReport(alias=alias, node=node, set=record.target, shadow=None)
    else:
        report = report_of(alias, node, figures, has_sample=may(request, "admin", alias))
        if not may(request, "read", figures.shadow):
            # Its answers reach nobody who asks the alias: neither do the names of its routes.
            report = report.model_copy(
                update={"pairs": [], "other": report.disagreed, "sample": []}
            )
    return model_response(report)


@endpoints.delete(
    "/v1/aliases/{alias}/shadow",
    summary="Count a shadow from zero",
    responses={
        200: success("Counts of this node", _EXAMPLE, ShadowReport),
        **problems(*READ_PROBLEMS, 404),
    },
)
async def reset_shadow(request: Request, alias: AliasName) -> Response:
    """Forget the counts and the sample of this node; the shadow stays."""
    check_may(request, "write", alias, alias_not_found(alias))
    promotions = runtime_of(request).serving_router.changes.promotions
    await promotions.alias(alias)
    promotions.reset_shadow(alias)
    return await show_shadow(request, alias)


def report_of(alias: str, node: str, figures: ShadowFigures, *, has_sample: bool) -> ShadowReport:
    """The counts of a node as a document."""
    compared = figures.compared
    return ShadowReport(
        alias=alias,
        node=node,
        set=figures.target,
        shadow=figures.shadow,
        revision=None if figures.target_revision is None else str(figures.target_revision),
        shadow_revision=None if figures.shadow_revision is None else str(figures.shadow_revision),
        compared=compared,
        agreed=figures.agreed,
        disagreed=figures.disagreed,
        agreement=round(figures.agreed / compared, 6) if compared else None,
        skipped=figures.skipped,
        pairs=[
            ShadowPair(answered=answered, shadowed=shadowed, count=count)
            for (answered, shadowed), count in figures.pairs
        ],
        other=figures.other,
        sample=[
            ShadowSample(
                text=each.text,
                at_ms=each.at_ms,
                answered=each.answered,
                shadowed=each.shadowed,
                answered_confidence=each.answered_confidence,
                shadowed_confidence=each.shadowed_confidence,
            )
            for each in (figures.sample if has_sample else ())
        ],
    )

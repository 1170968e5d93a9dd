"""Clients of a cluster, sync and async; they need neither the encoder nor arrays.

    from synaptoroute.client import Client

    with Client(["http://node-a:8080", "http://node-b:8080"], api_key="...") as client:
        client.put_route({"name": "billing", "utterances": ["I need a refund"]})
        print(client.query("How do I get my money back?").route)

The public names are imported on first use, so that a program loads only what it needs.
``core`` makes all decisions, without a transport; ``calls`` has the requests of the API.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in

if TYPE_CHECKING:
    from synaptoroute.change_models import (
        Erasure,
        ErasureStatus,
        HistoryPage,
        Promotion,
        SetDiff,
        SetTestPage,
        SetTestRun,
        ShadowReport,
    )
    from synaptoroute.client.async_client import AsyncClient
    from synaptoroute.client.calls import KEEP, Choice, Operation, RoutePage, WriteOptions
    from synaptoroute.client.core import RetryPolicy
    from synaptoroute.client.errors import (
        ApiError,
        AuthenticationFailed,
        BadRequest,
        CallTimeout,
        ClientError,
        Conflict,
        ConnectionFailed,
        DeadlinePassed,
        InvalidRequest,
        NotFound,
        Overloaded,
        PermissionDenied,
        PreconditionFailed,
        ServerFailed,
        TooLarge,
        Unavailable,
        UnexpectedAnswer,
    )
    from synaptoroute.client.sync_client import Client
    from synaptoroute.models import (
        FeedbackReceipt,
        ImportResult,
        Match,
        Route,
        RouteSetSettings,
        StoredRoute,
        WriteResult,
    )

_NAMES_BY_HOME = {
    "synaptoroute.change_models": (
        "Erasure",
        "ErasureStatus",
        "HistoryPage",
        "Promotion",
        "SetDiff",
        "SetTestPage",
        "SetTestRun",
        "ShadowReport",
    ),
    "synaptoroute.client.async_client": ("AsyncClient",),
    "synaptoroute.client.calls": (
        "KEEP",
        "Choice",
        "Operation",
        "RoutePage",
        "WriteOptions",
    ),
    "synaptoroute.client.core": ("RetryPolicy",),
    "synaptoroute.client.errors": (
        "ApiError",
        "AuthenticationFailed",
        "BadRequest",
        "CallTimeout",
        "ClientError",
        "Conflict",
        "ConnectionFailed",
        "DeadlinePassed",
        "InvalidRequest",
        "NotFound",
        "Overloaded",
        "PermissionDenied",
        "PreconditionFailed",
        "ServerFailed",
        "TooLarge",
        "Unavailable",
        "UnexpectedAnswer",
    ),
    "synaptoroute.client.sync_client": ("Client",),
    "synaptoroute.models": (
        "FeedbackReceipt",
        "ImportResult",
        "Match",
        "Route",
        "RouteSetSettings",
        "StoredRoute",
        "WriteResult",
    ),
}
_HOMES = {name: home for home, names in _NAMES_BY_HOME.items() for name in names}

__all__ = [
    "KEEP",
    "ApiError",
    "AsyncClient",
    "AuthenticationFailed",
    "BadRequest",
    "CallTimeout",
    "Choice",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "DeadlinePassed",
    "Erasure",
    "ErasureStatus",
    "FeedbackReceipt",
    "HistoryPage",
    "ImportResult",
    "InvalidRequest",
    "Match",
    "NotFound",
    "Operation",
    "Overloaded",
    "PermissionDenied",
    "PreconditionFailed",
    "Promotion",
    "RetryPolicy",
    "Route",
    "RoutePage",
    "RouteSetSettings",
    "ServerFailed",
    "SetDiff",
    "SetTestPage",
    "SetTestRun",
    "ShadowReport",
    "StoredRoute",
    "TooLarge",
    "Unavailable",
    "UnexpectedAnswer",
    "WriteOptions",
    "WriteResult",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

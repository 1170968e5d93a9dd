"""The HTTP server of a node.

Start at ``app`` for the endpoints, at ``query_handler`` for the way of a query, at
``process`` for the life of a node process.  The public names load on first use: the command
line reads route files with ``documents`` and needs no HTTP framework for that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synaptoroute.server.app import create_app
    from synaptoroute.server.process import serve

_MODULES = {
    "create_app": "synaptoroute.server.app",
    "serve": "synaptoroute.server.process",
}

__all__ = ["create_app", "serve"]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

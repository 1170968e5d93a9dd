"""The HTTP server of a node: the only room that knows the HTTP framework.

Start at ``app`` for the endpoints, at ``door`` for what every request passes, at
``process`` for the life of a node process.  The names below load on first use: the
command line reads route files by ``documents`` without loading a web framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synaptoroute.server.app import create_app
    from synaptoroute.server.process import serve

_HOMES = {
    "create_app": "synaptoroute.server.app",
    "serve": "synaptoroute.server.process",
}

__all__ = ["create_app", "serve"]


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

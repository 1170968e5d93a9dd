"""SynaptoRoute: a distributed semantic router; every node holds all routes in memory.

The public names are imported on first use, so that importing the package does not load
the encoder.
"""

from __future__ import annotations

__distribution__ = "synaptoroute-cluster"

from importlib import import_module
from typing import TYPE_CHECKING

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in
from synaptoroute.version import __version__

if TYPE_CHECKING:
    from synaptoroute.encoder import Encoder
    from synaptoroute.models import Match, Route
    from synaptoroute.router import AdaptiveRouter
    from synaptoroute.storage import SQLiteStorage

_HOMES = {
    "AdaptiveRouter": "synaptoroute.router",
    "Encoder": "synaptoroute.encoder",
    "Match": "synaptoroute.models",
    "Route": "synaptoroute.models",
    "SQLiteStorage": "synaptoroute.storage",
}

__all__ = ["AdaptiveRouter", "Encoder", "Match", "Route", "SQLiteStorage", "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

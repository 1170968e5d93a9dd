"""What one entry changes."""

from synaptoroute.core.mutation import (
    Change,
    Commit,
    Outcome,
    RouteRecord,
    SlotWrite,
    StagedImport,
)

__all__ = ["Change", "Commit", "Outcome", "RouteRecord", "SlotWrite", "StagedImport"]

"""Views of a fleet for tests of the coordinator."""

from __future__ import annotations

from typing import Any

from synaptoroute.sequencer.node_rows import NodeReport, NodeSeen
from synaptoroute.sequencer.scripts import Head
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet import FleetView, build_view

CHAIN = "c" * 40
DIGEST = "d" * 32


def head(seq: int = 100, **changes: Any) -> Head:
    """The header of an open log; fields that a release adds take the value of their kind."""
    said: dict[str, Any] = {
        "epoch": 1,
        "seq": seq,
        "chain": CHAIN,
        "state": "open",
        "is_same_server": True,
        "role": "master",
        "time_us": 1_000_000,
        "floor": 1,
        "floor_chain": "0" * 40,
        "kept_bytes": 1_000,
        "cluster_id": "l" * 32,
        "epoch_id": "e",
        "fingerprint": "f",
        "dim": 4,
        "level": 1,
        "voters": ("a", "b", "c"),
    }
    return Head(**{name: said.get(name, "") for name in Head.__dataclass_fields__} | changes)


def seen(node: str, seq: int = 100, *, age_ms: int = 100, **changes: Any) -> NodeSeen:
    """A node as the others see it."""
    said: dict[str, Any] = {
        "node_id": node,
        "url": f"http://{node}",
        "role": "voter",
        "version": "1.0.0",
        "level": 1,
        "fingerprint": "f",
        "epoch": 1,
        "seq": seq,
        "chain": CHAIN if seq == 100 else f"{seq:040x}",
        "digest": DIGEST,
        "state": "live",
    }
    return NodeSeen(NodeReport(**(said | changes)), age_ms)


def fleet(*nodes: NodeSeen, at: Head | None = None, **more: Any) -> FleetView:
    """A view; three equal nodes if none is named."""
    shown = nodes or (seen("a"), seen("b"), seen("c"))
    return build_view(at or head(), shown, **{"holder": "x#1", **more})


def policy(**changes: Any) -> Policy:
    """A policy without what the test does not ask for."""
    quiet: dict[str, Any] = {"audit_seconds": 0, "scrub_seconds": 0, "backup_seconds": 0}
    return Policy(**(quiet | changes))

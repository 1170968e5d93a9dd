"""Learning: every review that took effect is in the queue, or was resolved or given up later."""

from __future__ import annotations

from collections.abc import Mapping

from sim.history import History, Op
from synaptoroute.core.mutation import (
    CalibrateDecision,
    Proposal,
    PutFeedback,
    PutSettings,
    ReviseRoutes,
)
from synaptoroute.core.table import RouteTable

KINDS = frozenset({"say", "learn", "fit", "queue", "off"})


def forgotten(history: History, tables: Mapping[str, RouteTable]) -> list[str]:
    """Find state of nodes that does not follow from the effective writes, once all is healed."""
    applied = [
        op for op in history.ops.values() if op.outcome == "applied" and op.at and op.kind in KINDS
    ]
    queue: dict[str, int] = {}
    fitted = b""
    for op in sorted(applied, key=_place):
        assert isinstance(op.proposal, Proposal)
        match op.proposal.mutation:
            case PutFeedback(item_id=item_id):
                queue[item_id] = queue.get(item_id, 0) + 1
            case ReviseRoutes(resolved=resolved):
                for item_id in resolved:
                    queue.pop(item_id, None)
            case CalibrateDecision(payload=payload):
                fitted = payload
            case PutSettings(settings):
                queue = queue if settings.feedback else {}
    found = []
    for node, table in tables.items():
        held = {item.item_id: item.times for item in table.feedback.values()}
        if held != queue:
            found.append(f"{node} holds the reviews {held}, {queue} were accepted")
        if table.decision.payload != fitted:
            found.append(f"{node} uses {table.decision.payload!r}, the newest fit is {fitted!r}")
    return found


def _place(op: Op) -> tuple[int, int]:
    assert op.at is not None
    return op.at.epoch, op.at.seq

"""No loss: what a majority of the voters held is in the history that survives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sim.history import History


def lost(history: History, survivors: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Acknowledged writes that a surviving node's history does not hold."""
    found = []
    for node, op_ids in survivors.items():
        held = set(op_ids)
        missing = [op.op_id.hex()[-4:] for op in history.acknowledged if op.op_id not in held]
        if missing:
            found.append(f"{node} lost acknowledged writes: {', '.join(missing[:5])}")
    return found

"""Exactly once: a write takes effect once, however often it was sent."""

from __future__ import annotations

from collections.abc import Mapping


def doubled(effects: Mapping[str, Mapping[bytes, int]]) -> list[str]:
    """Writes that took effect more than once in one node's history."""
    return [
        f"{node} applied {op_id.hex()[-4:]} {count} times"
        for node, counts in effects.items()
        for op_id, count in counts.items()
        if count > 1
    ]

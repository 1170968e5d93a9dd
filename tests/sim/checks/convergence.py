"""Convergence: when faults stop, all nodes are one with the log."""

from __future__ import annotations

from collections.abc import Mapping

from synaptoroute.core.mutation import Position


def apart(
    head: Position | None, positions: Mapping[str, Position], digests: Mapping[str, str]
) -> list[str]:
    """What differs although nothing stands against agreement any more.

    Args:
        head: Newest entry of the open log; None where it is not open.
        positions: Where each node stands.
        digests: Digest of each node's state.
    """
    if head is None:
        return ["the log is not open after everything was healed"]
    found = [
        f"{node} stands at {position.revision}, the log at {head.revision}"
        for node, position in positions.items()
        if position != head
    ]
    if len(set(digests.values())) > 1:
        found.append(f"states differ: {sorted(set(digests.values()))}")
    return found

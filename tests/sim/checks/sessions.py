"""Sessions: whoever names a version sees at least that version."""

from __future__ import annotations

from sim.history import History


def blind(history: History) -> list[str]:
    """Reads that did not see the write whose version they named."""
    return [
        f"{read.node} answered {read.wanted} at {read.got} without the write"
        for read in history.reads
        if not read.is_seen or (read.got.epoch == read.wanted.epoch and read.got < read.wanted)
    ]

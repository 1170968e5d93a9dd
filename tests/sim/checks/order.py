"""Order: places follow real time, and conditional writes saw what they replaced."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from sim.history import History, Op
from synaptoroute.core.mutation import Revision


def backwards(history: History) -> list[str]:
    """Acknowledged writes whose places contradict real time.

    Who began after another one's end was known has the later place: one sweep over the
    moments, with the newest place that had ended before each beginning.
    """
    moments: list[tuple[float, int, Op]] = []
    for op in history.acknowledged:
        if op.at is not None:
            assert op.ended is not None
            moments += [(op.began, 1, op), (op.ended, 0, op)]
    found: list[str] = []
    newest: Revision | None = None
    floor: dict[bytes, Revision | None] = {}
    for _, is_beginning, op in sorted(moments, key=lambda moment: moment[:2]):
        assert op.at is not None
        if is_beginning:
            floor[op.op_id] = newest
        else:
            newest = op.at if newest is None else max(newest, op.at)
    for op in history.acknowledged:
        before = floor.get(op.op_id)
        if op.at is not None and before is not None and op.at <= before:
            found.append(f"{op.op_id.hex()[-4:]} is at {op.at}, not after {before}")
    return found


def unserial(history: History) -> list[str]:
    """Conditional writes that replaced another revision than the one they named."""
    found: list[str] = []
    by_name: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops.values():
        if op.outcome == "applied" and op.at is not None:
            by_name[op.name].append(op)
    for name, ops in by_name.items():
        ops.sort(key=lambda op: op.at or Revision(0, 0))
        for before, after in pairwise(ops):
            if after.kind == "cas" and after.if_match != before.at:
                found.append(f"{name}: {after.at} replaced {before.at}, not {after.if_match}")
    return found

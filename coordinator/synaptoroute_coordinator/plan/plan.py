"""View + policy + memory -> actions.  Pure; equal arguments give equal plans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from synaptoroute.sequencer.node_commands import DONORS_MAX
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet import FleetView, NodeView, Verdict
from synaptoroute_coordinator.plan.actions import (
    AbortImport,
    Action,
    Judge,
    Repair,
    StartAudit,
    TakeBackup,
    Trim,
)
from synaptoroute_coordinator.plan.controller_state import Memory

FIRST_AUDIT_SECONDS: Final = 5.0
"""A coordinator that has just taken over looks soon."""
TRIM_STEP_MIN: Final = 64
REPAIRS_MAX: Final = 3
"""Repairs of one node in a row; whom they do not help has a broken memory or disk."""
DEEP_WAIT_FACTOR: Final = 12
RepairKind = Literal["mend", "resync"]


def plan(view: FleetView, policy: Policy, memory: Memory, now_seconds: float) -> tuple[Action, ...]:
    """Say what is to be done now.

    Args:
        view: The fleet now.
        policy: What it shall be like.
        memory: What was done already.
        now_seconds: The coordinator's monotonic clock.

    Returns:
        Actions, the most urgent first; empty while the log is not open.
    """
    if view.log.state != "open":
        return ()
    return (
        *_repairs(view, policy, memory),
        *_audits(view, policy, memory, now_seconds),
        *_trim(view, policy),
        *_imports(policy, memory, now_seconds),
        *_backup(view, policy, memory, now_seconds),
    )


def _trim(view: FleetView, policy: Policy) -> Iterator[Action]:
    """Drop what nobody needs: never what a majority of the voters does not hold."""
    log = view.log
    floor = min(log.seq - policy.retain_entries + 1, _held_by_majority(view) + 1, log.seq)
    if log.kept_bytes * 2 < policy.log_bytes_max:
        # While there is room, a live node that is behind need not ask a peer.
        behind = [node.seq for node in view.live if node.epoch == log.epoch]
        floor = min([floor, *(seq + 1 for seq in behind)])
    step = max(TRIM_STEP_MIN, policy.retain_entries // 10) if policy.retain_entries else 1
    if floor - log.floor >= step:
        yield Trim(log.epoch, floor)


def _held_by_majority(view: FleetView) -> int:
    """The newest place that more than half of the voters have made durable."""
    log = view.log
    by_id = {node.node: node.seq for node in view.nodes if node.epoch == log.epoch}
    held = sorted((by_id.get(voter, 0) for voter in log.voters), reverse=True)
    return held[len(held) // 2] if held else 0


def _audits(
    view: FleetView, policy: Policy, memory: Memory, now_seconds: float
) -> Iterator[Action]:
    """Compare digests at one place, time and again; wait for the reports."""
    pending = memory.pending
    if pending is not None:
        wait_seconds = policy.audit_wait_seconds * (DEEP_WAIT_FACTOR if pending.is_deep else 1)
        live = {node.node for node in view.live}
        expected = sum(node in live for node in pending.live)
        is_last = now_seconds - pending.at_seconds >= wait_seconds
        if is_last or memory.reported >= expected:
            yield Judge(is_last)
        return
    if not view.live:
        return
    if memory.recheck is not None:
        yield StartAudit(memory.recheck.is_deep)
        return
    first = now_seconds - memory.began_seconds >= FIRST_AUDIT_SECONDS
    if _is_due(memory.scrub_seconds, policy.scrub_seconds, now_seconds) and first:
        yield StartAudit(is_deep=True)
    elif _is_due(memory.audit_seconds, policy.audit_seconds, now_seconds) and first:
        yield StartAudit(is_deep=False)


def _is_due(last_seconds: float | None, every_seconds: float, now_seconds: float) -> bool:
    if every_seconds <= 0:
        return False
    return last_seconds is None or now_seconds - last_seconds >= every_seconds


def _repairs(view: FleetView, policy: Policy, memory: Memory) -> Iterator[Action]:
    """Have the minority put its rows right, then take the majority's state."""
    if not policy.is_repair_on:
        return
    by_id = {node.node: node for node in view.live}
    told: set[str] = set(memory.repairing)
    for verdict in (memory.deep_verdict, memory.verdict):
        if verdict is None or not verdict.wrong:
            continue
        donors = _donors(by_id, verdict)
        for node in verdict.wrong:
            if donors and node in by_id and node not in told and _may_repair(memory, verdict, node):
                told.add(node)
                why = "differs from the majority" if node in verdict.differing else "is damaged"
                reason = f"the audit at {verdict.seq} found that this node {why}"
                # Rows first; what that does not put right takes a whole snapshot.
                kind: RepairKind = "resync" if memory.repair_counts.get(node) else "mend"
                yield Repair(node, donors, reason, verdict.seq, kind)


def _may_repair(memory: Memory, verdict: Verdict, node: str) -> bool:
    """One order a finding; a node that nothing helps is left to a person."""
    is_told = (verdict.seq, node) in memory.repairs
    return not is_told and memory.repair_counts.get(node, 0) < REPAIRS_MAX


def _donors(by_id: dict[str, NodeView], verdict: Verdict) -> tuple[str, ...]:
    return tuple(n for n in verdict.agreeing if n in by_id and by_id[n].url)[:DONORS_MAX]


def _imports(policy: Policy, memory: Memory, now_seconds: float) -> Iterator[Action]:
    for found, since_seconds in memory.imports.items():
        if now_seconds - since_seconds >= policy.import_idle_seconds:
            yield AbortImport(found.import_id, found.touched_seq)


def _backup(
    view: FleetView, policy: Policy, memory: Memory, now_seconds: float
) -> Iterator[Action]:
    if not _is_due(memory.backup_seconds, policy.backup_seconds, now_seconds):
        return
    node = backup_source(view)
    if node is not None:
        yield TakeBackup(node.node, node.url)


def backup_source(view: FleetView) -> NodeView | None:
    """The node to take a backup of: sound, at the head, and with little to do."""
    sound = [n for n in view.live if n.url and n.health == "ok"]
    return min(sound, key=lambda n: (n.lag_entries, n.queue_requests, n.node), default=None)

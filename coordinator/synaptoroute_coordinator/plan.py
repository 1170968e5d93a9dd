"""View + policy + state -> actions.  Pure; equal arguments give equal plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from synaptoroute.sequencer.node_commands import DONORS_MAX
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet import AuditVerdict, FleetView, NodeView

FIRST_AUDIT_SECONDS: Final = 5.0
"""A coordinator that has just taken over looks soon."""
TRIM_STEP_MIN: Final = 64
REPAIRS_MAX: Final = 3
"""Repairs of one node in a row; whom they do not help has a broken state or disk."""
DEEP_WAIT_FACTOR: Final = 12
RepairKind = Literal["mend", "resync"]


def plan_actions(
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> tuple[Action, ...]:
    """Say what is to be done now.

    Args:
        view: The fleet now.
        policy: What it shall be like.
        state: What was done already.
        now_seconds: The coordinator's monotonic clock.

    Returns:
        Actions, the most urgent first; empty while the log is not open.
    """
    if view.log.state != "open":
        return ()
    return (
        *_repairs(view, policy, state),
        *_audits(view, policy, state, now_seconds),
        *_trim(view, policy),
        *_imports(policy, state, now_seconds),
        *_backup(view, policy, state, now_seconds),
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
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> Iterator[Action]:
    """Compare digests at one place, time and again; wait for the reports."""
    pending = state.pending
    if pending is not None:
        wait_seconds = policy.audit_wait_seconds * (DEEP_WAIT_FACTOR if pending.is_deep else 1)
        live = {node.node for node in view.live}
        expected = sum(node in live for node in pending.live)
        is_last = now_seconds - pending.at_seconds >= wait_seconds
        if is_last or state.reported >= expected:
            yield CompleteAudit(is_last)
        return
    if not view.live:
        return
    if state.recheck is not None:
        yield StartAudit(state.recheck.is_deep)
        return
    first = now_seconds - state.started_seconds >= FIRST_AUDIT_SECONDS
    if _is_due(state.scrub_seconds, policy.scrub_seconds, now_seconds) and first:
        yield StartAudit(is_deep=True)
    elif _is_due(state.audit_seconds, policy.audit_seconds, now_seconds) and first:
        yield StartAudit(is_deep=False)


def _is_due(last_seconds: float | None, every_seconds: float, now_seconds: float) -> bool:
    if every_seconds <= 0:
        return False
    return last_seconds is None or now_seconds - last_seconds >= every_seconds


def _repairs(view: FleetView, policy: Policy, state: ControllerState) -> Iterator[Action]:
    """Have the minority put its rows right, then take the majority's state."""
    if not policy.is_repair_on:
        return
    by_id = {node.node: node for node in view.live}
    told: set[str] = set(state.repairing)
    for verdict in (state.deep_verdict, state.verdict):
        if verdict is None or not verdict.wrong:
            continue
        donors = _donors(by_id, verdict)
        for node in verdict.wrong:
            if (
                donors
                and node in by_id
                and node not in told
                and _is_repair_due(state, verdict, node)
            ):
                told.add(node)
                why = "differs from the majority" if node in verdict.differing else "is damaged"
                reason = f"the audit at {verdict.seq} found that this node {why}"
                # Rows first; what that does not put right takes a whole snapshot.
                kind: RepairKind = "resync" if state.repair_counts.get(node) else "mend"
                yield Repair(node, donors, reason, verdict.seq, kind)


def _is_repair_due(state: ControllerState, verdict: AuditVerdict, node: str) -> bool:
    """One order a finding; a node that nothing helps is left to a person."""
    is_told = (verdict.seq, node) in state.repairs
    return not is_told and state.repair_counts.get(node, 0) < REPAIRS_MAX


def _donors(by_id: dict[str, NodeView], verdict: AuditVerdict) -> tuple[str, ...]:
    return tuple(n for n in verdict.agreeing if n in by_id and by_id[n].url)[:DONORS_MAX]


def _imports(policy: Policy, state: ControllerState, now_seconds: float) -> Iterator[Action]:
    for found, since_seconds in state.imports.items():
        if now_seconds - since_seconds >= policy.import_idle_seconds:
            yield AbortImport(found.import_id, found.touched_seq)


def _backup(
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> Iterator[Action]:
    if not _is_due(state.backup_seconds, policy.backup_seconds, now_seconds):
        return
    node = choose_backup_source(view)
    if node is not None:
        yield TakeBackup(node.node, node.url)


def choose_backup_source(view: FleetView) -> NodeView | None:
    """The node to take a backup of: sound, at the head, and with little to do."""
    sound = [n for n in view.live if n.url and n.health == "ok"]
    return min(sound, key=lambda n: (n.lag_entries, n.queue_requests, n.node), default=None)


@dataclass(frozen=True, slots=True)
class Trim:
    """Drop the entries before a floor; the script refuses to go beyond a majority."""

    epoch: int
    floor: int


@dataclass(frozen=True, slots=True)
class StartAudit:
    """Log an audit; a deep one compares state and disk as well."""

    is_deep: bool


@dataclass(frozen=True, slots=True)
class CompleteAudit:
    """Compare what was reported to the pending audit; ``is_last`` waits no longer."""

    is_last: bool


@dataclass(frozen=True, slots=True)
class Repair:
    """Tell a node to put its rows right, or to take the state of one of the donors."""

    node: str
    donors: tuple[str, ...]
    reason: str
    audit_seq: int = 0
    kind: Literal["mend", "resync"] = "resync"


@dataclass(frozen=True, slots=True)
class AbortImport:
    """Drop what an abandoned import staged."""

    import_id: str
    touched_seq: int


@dataclass(frozen=True, slots=True)
class TakeBackup:
    """Keep a snapshot of this node."""

    node: str
    url: str


Action: TypeAlias = Trim | StartAudit | CompleteAudit | Repair | AbortImport | TakeBackup


@dataclass(frozen=True, slots=True)
class OpenImport:
    """An import that is neither committed nor aborted.

    Attributes:
        import_id: Its identity.
        touched_seq: Place of its newest entry.
    """

    import_id: str
    touched_seq: int


@dataclass(frozen=True, slots=True)
class PendingAudit:
    """An audit whose reports are coming in.

    Attributes:
        seq: Its place in the log.
        is_deep: Whether state and disk are compared.
        at_seconds: When it was logged.
        live: Nodes that are expected to report.
    """

    seq: int
    is_deep: bool
    at_seconds: float
    live: tuple[str, ...]


@dataclass(slots=True)
class ControllerState:
    """What was done, and when.

    Attributes:
        began_seconds: When this coordinator became active.
        audit_seconds: When the newest audit was logged; None for never.
        scrub_seconds: The same of the newest deep one.
        backup_seconds: When the newest backup was tried.
        pending: The audit whose reports are coming in.
        verdict: The newest audit's outcome.
        deep_verdict: The newest deep audit's outcome.
        reported: How many nodes have reported to the pending audit.
        repairing: Nodes that were told to resync and have not yet.
        repairs: Which audit each repair was ordered for: its place and the node.
        repair_counts: Repairs of a node since it was last found sound.
        imports: When each open import was first seen as it stands.
        voters_seen: When each voter was last live.
        wanted: Actions that an operator asked for.
    """

    started_seconds: float
    audit_seconds: float | None = None
    scrub_seconds: float | None = None
    backup_seconds: float | None = None
    pending: PendingAudit | None = None
    verdict: AuditVerdict | None = None
    deep_verdict: AuditVerdict | None = None
    reported: int = 0
    repairing: frozenset[str] = frozenset()
    repairs: set[tuple[int, str]] = field(default_factory=set)
    repair_counts: dict[str, int] = field(default_factory=dict)
    imports: dict[OpenImport, float] = field(default_factory=dict)
    voters_seen: dict[str, float] = field(default_factory=dict)

    def record_imports(self, found: Iterable[OpenImport], now_seconds: float) -> None:
        """Remember since when each import stands as it does."""
        self.imports = {each: self.imports.get(each, now_seconds) for each in found}

    def record_voters(self, view: FleetView, now_seconds: float) -> None:
        """Remember when each voter was last live."""
        live = {node.node for node in view.live}
        self.voters_seen = {
            voter: now_seconds if voter in live else self.voters_seen.get(voter, now_seconds)
            for voter in view.log.voters
        }

    def missing_voters(self, now_seconds: float, silent_seconds: float) -> tuple[str, ...]:
        """Voters that have been silent for so long."""
        seen: Mapping[str, float] = self.voters_seen
        return tuple(v for v, at in sorted(seen.items()) if now_seconds - at >= silent_seconds)

    def record_verdict(self, verdict: AuditVerdict) -> None:
        """Keep the outcome of the pending audit."""
        self.pending = None
        self.repairs = {each for each in self.repairs if each[0] == verdict.seq}
        if verdict.is_deep or self.deep_verdict is None:
            for node in verdict.agreeing:
                self.repair_counts.pop(node, None)
        self.verdict = verdict
        if verdict.is_deep or self._is_mended(verdict):
            self.deep_verdict = verdict if verdict.is_deep else None

    def record_repair(self, seq: int, node: str) -> None:
        """Remember a repair, so that one finding gives one order."""
        self.repairs.add((seq, node))
        self.repairing |= {node}
        self.repair_counts[node] = self.repair_counts.get(node, 0) + 1

    @property
    def recheck(self) -> AuditVerdict | None:
        """The finding whose repairs are all done, so that somebody should look again."""
        if self.repairing or self.pending is not None:
            return None
        for verdict in (self.deep_verdict, self.verdict):
            if verdict is not None and any((verdict.seq, n) in self.repairs for n in verdict.wrong):
                return verdict
        return None

    def _is_mended(self, verdict: AuditVerdict) -> bool:
        """Whether those who were found damaged have since resynced and agree."""
        deep = self.deep_verdict
        return (
            deep is not None
            and bool(deep.unsound)
            and set(deep.unsound) <= set(verdict.agreeing) - set(self.repairing)
        )

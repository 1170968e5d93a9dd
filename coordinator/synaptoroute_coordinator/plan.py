"""The plan: fleet view + policy + controller state -> actions.

Everything here is pure: equal arguments give equal plans, and time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from synaptoroute.sequencer.presence import DONORS_MAX
from synaptoroute.sequencer.retention import RetentionLimits
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet import AuditVerdict, FleetView, NodeView

FIRST_AUDIT_SECONDS: Final = 5.0
"""Delay of the first audit after a coordinator became active."""
TRIM_STEP_MIN: Final = 64
VOTER_CHANGE_SECONDS: Final = 5.0
"""Time between two changes of the voters: a majority has to hold the first."""
BACKUP_RETRY_SECONDS: Final = 60.0
"""Time from a backup that failed to the next try, doubled with each failure in a row."""
REPAIRS_MAX: Final = 3
"""Repairs of one node in a row; after that its memory or disk is probably broken."""
DEEP_WAIT_FACTOR: Final = 12
RepairKind = Literal["mend", "resync"]


# --- actions: each is safe to do twice, and by two coordinators at once ----------------


@dataclass(frozen=True, slots=True)
class Trim:
    """Drop the entries before a floor; the script never trims beyond a majority."""

    epoch: int
    floor: int
    keep_bytes: int = 0  # Drop only as many as needed to keep no more bytes; 0 drops all


@dataclass(frozen=True, slots=True)
class StartAudit:
    """Log an audit; a deep audit compares memory and disk as well."""

    is_deep: bool


@dataclass(frozen=True, slots=True)
class CompleteAudit:
    """Compare the reports to the pending audit; ``is_last`` if the wait is over."""

    is_last: bool


@dataclass(frozen=True, slots=True)
class Repair:
    """Tell a node to repair its rows, or to install the snapshot of a donor."""

    node: str
    donors: tuple[str, ...]
    reason: str
    audit_seq: int = 0
    kind: RepairKind = "resync"


@dataclass(frozen=True, slots=True)
class AbortImport:
    """Drop what an abandoned import staged."""

    import_id: str
    touched_seq: int


@dataclass(frozen=True, slots=True)
class TakeBackup:
    node: str
    url: str


@dataclass(frozen=True, slots=True)
class ChangeVoter:
    """Give a node a vote, or take one away: a step of the replacement of a lost voter."""

    node: str
    is_adding: bool
    reason: str


Action: TypeAlias = (
    Trim | StartAudit | CompleteAudit | Repair | AbortImport | TakeBackup | ChangeVoter
)


# --- controller state ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenImport:
    """An import that is neither committed nor aborted."""

    import_id: str
    touched_seq: int


@dataclass(frozen=True, slots=True)
class PendingAudit:
    """An audit whose reports are coming in."""

    seq: int
    is_deep: bool
    at_seconds: float
    live: tuple[str, ...]


@dataclass(slots=True)
class ControllerState:
    """Past actions of the coordinator, with their times.

    Times are seconds of the coordinator's monotonic clock.  A coordinator that takes over
    starts with an empty state: actions then come a little later, but never wrongly.
    """

    started_seconds: float
    audit_seconds: float | None = None  # of the newest audit; None for never
    scrub_seconds: float | None = None
    backup_seconds: float | None = None  # of the newest attempt
    backup_failures: int = 0  # in a row
    pending: PendingAudit | None = None
    verdict: AuditVerdict | None = None
    deep_verdict: AuditVerdict | None = None
    reported: int = 0  # nodes that have reported to the pending audit
    repairing: frozenset[str] = frozenset()  # told to resync and not done yet
    repairs: set[tuple[int, str]] = field(default_factory=set)  # (seq of the audit, node)
    # Repairs of a node since it was last found sound.
    repair_counts: dict[str, int] = field(default_factory=dict)
    # When each open import was first seen in its present state.
    imports: dict[OpenImport, float] = field(default_factory=dict)
    voters_seen: dict[str, float] = field(default_factory=dict)
    # Address and name of each voter when it was last in the view.
    voters_known: dict[str, tuple[str, str]] = field(default_factory=dict)
    voter_change_seconds: float | None = None  # of the newest change of the voters

    def record_imports(self, found: Iterable[OpenImport], now_seconds: float) -> None:
        """Record the open imports; one that changed counts from now on."""
        self.imports = {each: self.imports.get(each, now_seconds) for each in found}

    def record_voters(self, view: FleetView, now_seconds: float) -> None:
        live = {node.node for node in view.live}
        self.voters_seen = {
            voter: now_seconds if voter in live else self.voters_seen.get(voter, now_seconds)
            for voter in view.log.voters
        }
        known = {node.node: (node.url, node.given_name) for node in view.nodes}
        self.voters_known = {
            voter: known.get(voter) or self.voters_known.get(voter, ("", ""))
            for voter in view.log.voters
        }

    def missing_voters(self, now_seconds: float, silent_seconds: float) -> tuple[str, ...]:
        """Return the voters that have been silent for this long."""
        seen = sorted(self.voters_seen.items())
        return tuple(voter for voter, at in seen if now_seconds - at >= silent_seconds)

    def record_verdict(self, verdict: AuditVerdict) -> None:
        self.pending = None
        self.repairs = {each for each in self.repairs if each[0] == verdict.seq}
        # A shallow audit cannot see damage, so it must not reset the count of repairs
        # while a deep verdict is open.
        if verdict.is_deep or self.deep_verdict is None:
            for node in verdict.agreeing:
                self.repair_counts.pop(node, None)
        self.verdict = verdict
        if verdict.is_deep or self._is_repaired(verdict):
            self.deep_verdict = verdict if verdict.is_deep else None

    def record_repair(self, seq: int, node: str) -> None:
        """Record a repair, so that one verdict leads to one repair of a node."""
        self.repairs.add((seq, node))
        self.repairing |= {node}
        self.repair_counts[node] = self.repair_counts.get(node, 0) + 1

    @property
    def recheck(self) -> AuditVerdict | None:
        """The verdict whose repairs are all done and need another audit."""
        if self.repairing or self.pending is not None:
            return None
        for verdict in (self.deep_verdict, self.verdict):
            if verdict is not None and any((verdict.seq, n) in self.repairs for n in verdict.wrong):
                return verdict
        return None

    def _is_repaired(self, verdict: AuditVerdict) -> bool:
        """Whether all damaged nodes have since resynced and agree."""
        deep = self.deep_verdict
        return (
            deep is not None
            and bool(deep.unsound)
            and set(deep.unsound) <= set(verdict.agreeing) - set(self.repairing)
        )


# --- plan ------------------------------------------------------------------------------


def plan_actions(
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> tuple[Action, ...]:
    """Return what to do now, the most urgent first; nothing while the log is not open."""
    if view.log.state != "open":
        return ()
    return (
        *_plan_repairs(view, policy, state),
        *_plan_audits(view, policy, state, now_seconds),
        *_plan_trim(view, policy),
        *(
            AbortImport(found.import_id, found.touched_seq)
            for found, since_seconds in state.imports.items()
            if now_seconds - since_seconds >= policy.import_idle_seconds
        ),
        *_plan_backup(view, policy, state, now_seconds),
        *_plan_voters(view, policy, state, now_seconds),
    )


def _plan_trim(view: FleetView, policy: Policy) -> Iterator[Action]:
    log = view.log
    # Never trim what a majority of the voters has not made durable: a recovery after the
    # loss of Redis could not restore it.
    floor_max = min(_held_by_majority(view) + 1, log.seq)
    retention = RetentionLimits(policy.log_bytes_max, policy.retain_bytes, policy.retain_entries)
    if log.kept_bytes < retention.pressed_bytes:
        # While there is room, keep what live nodes still need, so that a node that is
        # behind catches up from the log and need not install a peer's snapshot.
        behind = [node.seq for node in view.live if node.epoch == log.epoch]
        floor_max = min([floor_max, *(seq + 1 for seq in behind)])
    floor = min(floor_max, log.seq - policy.retain_entries + 1)
    # The number of entries says nothing about their size: bytes count as well.
    if log.kept_bytes > retention.bytes_max and floor_max > max(floor, log.floor):
        yield Trim(log.epoch, floor_max, retention.target_bytes)
        return
    step = max(TRIM_STEP_MIN, policy.retain_entries // 10) if policy.retain_entries else 1
    if floor - log.floor >= step:
        yield Trim(log.epoch, floor)


def _held_by_majority(view: FleetView) -> int:
    """Return the newest sequence number that more than half of the voters hold."""
    log = view.log
    by_id = {node.node: node.seq for node in view.nodes if node.epoch == log.epoch}
    held = sorted((by_id.get(voter, 0) for voter in log.voters), reverse=True)
    return held[len(held) // 2] if held else 0


def _plan_audits(
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> Iterator[Action]:
    """Start audits periodically, and complete the pending one."""
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
    if now_seconds - state.started_seconds < FIRST_AUDIT_SECONDS:
        return
    if _is_due(state.scrub_seconds, policy.scrub_seconds, now_seconds):
        yield StartAudit(is_deep=True)
    elif _is_due(state.audit_seconds, policy.audit_seconds, now_seconds):
        yield StartAudit(is_deep=False)


def _is_due(last_seconds: float | None, every_seconds: float, now_seconds: float) -> bool:
    if every_seconds <= 0:
        return False
    return last_seconds is None or now_seconds - last_seconds >= every_seconds


def _plan_repairs(view: FleetView, policy: Policy, state: ControllerState) -> Iterator[Action]:
    if not policy.is_repair_on:
        return
    by_id = {node.node: node for node in view.live}
    commanded: set[str] = set(state.repairing)
    for verdict in (state.deep_verdict, state.verdict):
        if verdict is None:
            continue
        donors = _donors(by_id, verdict)
        for node in verdict.wrong:
            is_free = node in by_id and node not in commanded
            if donors and is_free and _is_repair_due(state, verdict, node):
                commanded.add(node)
                why = "differs from the majority" if node in verdict.differing else "is damaged"
                reason = f"the audit at {verdict.seq} found that this node {why}"
                # Repairing single rows is cheap, so it comes first; if it did not help,
                # the next repair installs a whole snapshot.
                kind: RepairKind = "resync" if state.repair_counts.get(node) else "mend"
                yield Repair(node, donors, reason, verdict.seq, kind)


def _is_repair_due(state: ControllerState, verdict: AuditVerdict, node: str) -> bool:
    """Whether a node was not repaired for this verdict and repairs may still help it."""
    is_commanded = (verdict.seq, node) in state.repairs
    return not is_commanded and state.repair_counts.get(node, 0) < REPAIRS_MAX


def _donors(by_id: dict[str, NodeView], verdict: AuditVerdict) -> tuple[str, ...]:
    return tuple(n for n in verdict.agreeing if n in by_id and by_id[n].url)[:DONORS_MAX]


def _plan_backup(
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> Iterator[Action]:
    every = policy.backup_seconds
    if state.backup_failures:
        # A restart or an election fails a backup, and is over long before the next one is due.
        every = min(every, BACKUP_RETRY_SECONDS * 2.0 ** min(state.backup_failures - 1, 16))
    if not _is_due(state.backup_seconds, every, now_seconds):
        return
    node = choose_backup_source(view)
    if node is not None:
        yield TakeBackup(node.node, node.url)


def find_replacements(
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> dict[str, NodeView]:
    """Find the node that came back in the place of each lost voter.

    A node whose disk was lost starts with another identity, at the same address or with the same
    name.  It is ready, so its state is complete, and certified where that is required.
    """
    found = {}
    for voter in state.missing_voters(now_seconds, policy.voter_missing_seconds):
        url, name = state.voters_known.get(voter, ("", ""))
        same = [
            node
            for node in view.live
            if node.node != voter
            and node.health == "ok"
            and ((url and node.url == url) or (name and node.given_name == name))
        ]
        if len(same) == 1:
            found[voter] = same[0]
    return found


def _plan_voters(
    view: FleetView, policy: Policy, state: ControllerState, now_seconds: float
) -> Iterator[Action]:
    """Replace a lost voter: first the vote of its successor, then the end of its own."""
    if not policy.is_voter_replacement_on:
        return
    changed = state.voter_change_seconds
    if changed is not None and now_seconds - changed < VOTER_CHANGE_SECONDS:
        return
    voters = set(view.log.voters)
    healthy = sum(node.node in voters and node.health == "ok" for node in view.live)
    for voter, node in find_replacements(view, policy, state, now_seconds).items():
        is_adding = node.node not in voters
        # Only if the voters after the change have a majority that is healthy: otherwise the
        # change itself could not be held by one.
        if 2 * (healthy + is_adding) <= len(voters) + (1 if is_adding else -1):
            continue
        reason = f"{node.given_name or node.url} lost its disk: {node.node} replaces {voter}"
        yield ChangeVoter(node.node if is_adding else voter, is_adding, reason)
        return


def choose_backup_source(view: FleetView) -> NodeView | None:
    """Choose a sound node that is at the head of the log and has little to do."""
    sound = [n for n in view.live if n.url and n.health == "ok"]
    return min(sound, key=lambda n: (n.lag_entries, n.queue_requests, n.node), default=None)

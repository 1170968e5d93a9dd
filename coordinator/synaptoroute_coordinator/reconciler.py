"""The control loop: observe, plan, act.

Every coordinator observes; only the holder of the lease acts.  No query and no write waits
for this loop, and a cycle that fails is followed by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from synaptoroute.core.imports import encoder_of
from synaptoroute.errors import ClusterError, SynaptoRouteError
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.sequencer.presence import CommandKind, NodeCommand
from synaptoroute.sequencer.proven_http import Target
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.threads import end_task
from synaptoroute.trust.statements import Signer
from synaptoroute_coordinator.actions.audit_log import AuditLog
from synaptoroute_coordinator.actions.backups import NO_BACKUP_STORE, Backups
from synaptoroute_coordinator.actions.executor import ActionResult, Executor
from synaptoroute_coordinator.actions.fleet_client import FleetClient
from synaptoroute_coordinator.alarms import AlarmKeeper
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.drift import DriftWatch, drift_sets
from synaptoroute_coordinator.events import Alarm, Event, EventFeed, Tone, find_alarms, find_changes
from synaptoroute_coordinator.fleet import FleetView, LogView, Telemetry, build_view, evaluate_audit
from synaptoroute_coordinator.fleet_history import FleetHistory
from synaptoroute_coordinator.leader_lease import LeaderLease
from synaptoroute_coordinator.memory import Memory
from synaptoroute_coordinator.plan import (
    AbortImport,
    Action,
    ChangeVoter,
    CompleteAudit,
    ControllerState,
    OpenImport,
    PendingAudit,
    Repair,
    StartAudit,
    TakeBackup,
    Trim,
    find_replacements,
    plan_actions,
)
from synaptoroute_coordinator.traffic import TrafficHistory

OBSERVE_SECONDS: Final = 0.5
TELEMETRY_SECONDS: Final = 2.0
TRAFFIC_SECONDS: Final = 5.0
DRIFT_SECONDS: Final = 15.0
SAVE_SECONDS: Final = 10.0
SAVED_BYTES_PER_SECOND: Final = 20_000
ANSWERING_SECONDS: Final = 7.0
"""A node that answered no scrape for this long is not live while Redis does not answer."""
IMPORTS_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0
VOTER_SECONDS: Final = 20.0  # For a change of the voters, which asks all of them
SELF: Final = "coordinator itself"  # no name of a key has a space

_log = logging.getLogger(__name__)


class NotActive(ClusterError):
    """Another coordinator holds the lease."""

    code = "not_active"


class Reconciler:
    """The control loop of one coordinator.  Used on one event loop."""

    def __init__(
        self,
        log: RedisLog,
        policy: Policy,
        lease: LeaderLease,
        client: FleetClient,
        backups: Backups,
        audit_log: AuditLog,
        signer: Signer,
    ) -> None:
        self.log = log
        self.policy = policy
        self.lease = lease
        self.client = client
        self.backups = backups
        self.audit_log = audit_log
        self.view = FleetView(LogView("away"))
        self.alarm_keeper = AlarmKeeper(policy)
        self.state = ControllerState(time.monotonic())
        self.feed = EventFeed()
        self.counts: dict[tuple[str, str], int] = {}
        self.traffic = TrafficHistory(time.time())
        self.history = FleetHistory(time.time())
        self.drifts = DriftWatch(policy, self.traffic)
        self._memory = Memory(
            log.saved_state, self.traffic, self.alarm_keeper, self.drifts, policy.traffic_bytes_max
        )
        self.backup_error = ""
        self._executor = Executor(log, signer)
        self._telemetry: dict[str, Telemetry] = {}
        self._answered_at: dict[str, float] = {}  # When each node last answered a scrape
        self._clones: dict[str, str] = {}
        self._nodes_seen: tuple[NodeSeen, ...] = ()
        self._previous_view: FleetView | None = None
        self._acquired_count = 0
        self._clock_offset_ms = time.time() * 1_000 - time.monotonic() * 1_000
        self._tasks: list[asyncio.Task[None]] = []
        self._backup_task: asyncio.Task[None] | None = None

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Alarms that are raised."""
        return self.alarm_keeper.alarms

    @property
    def level(self) -> int:
        """The highest feature level that was seen in force; it never falls."""
        return self._executor.level

    # --- lifecycle -------------------------------------------------------------------

    def start(self) -> None:
        for name, run in (
            ("lease", self.lease.run),
            ("reconcile", self._reconcile_loop),
            ("telemetry", self._telemetry_loop),
            ("imports", self._imports_loop),
            ("traffic", self._traffic_loop),
            ("memory", self._memory_loop),
        ):
            self._tasks.append(asyncio.create_task(self._run_forever(name, run), name=name))

    async def _run_forever(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
            except Exception as error:
                _log.exception("the %s loop failed and is restarted: %s", name, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        tasks = [*self._tasks, *([self._backup_task] if self._backup_task else [])]
        await asyncio.gather(*map(end_task, tasks))
        await self._save()
        await self.lease.release()

    async def _reconcile_loop(self) -> None:
        while True:
            try:
                await self.reconcile()
            except SynaptoRouteError as error:
                _log.warning("a cycle failed: %s", error)
            await asyncio.sleep(OBSERVE_SECONDS)

    # --- observe ---------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Run one cycle: observe, and as holder of the lease plan and act."""
        await self.observe()
        held = self.lease.held
        if held is None:
            return
        if self._acquired_count != self.lease.acquired_count:
            # Another coordinator acted in between, so what we remember is out of date.
            self._acquired_count = self.lease.acquired_count
            self.state = ControllerState(time.monotonic())
        now_seconds = time.monotonic()
        self.state.record_voters(self.view, now_seconds)
        for action in plan_actions(self.view, self.policy, self.state, now_seconds):
            await self._execute(action, SELF)

    async def observe(self) -> None:
        """Read the log's header and the heartbeats; keep the old ones if Redis does not answer."""
        head: Head | NoLog | None = None
        try:
            sent_at = time.monotonic()
            head = await self.log.head()
            # Redis read its clock about halfway between the request and the answer.
            middle = (sent_at + time.monotonic()) / 2
            self._clock_offset_ms = head.time_us / 1_000 - middle * 1_000
            if isinstance(head, Head):
                self._executor.update_head(head)
            self._nodes_seen = await self.log.presence.nodes()
            if self._executor.update_level(self._nodes_seen):
                # Unsigned rows do not count at this level.
                self._nodes_seen = await self.log.presence.nodes()
            self._clones = await self.log.presence.claims()
            commands = await self.log.node_commands.all_pending()
            self.state.repairing = frozenset(
                node for node, command in commands.items() if command.kind in ("resync", "mend")
            )
            if self.state.pending is not None:
                reports = await self._executor.reports(self.state.pending.seq)
                is_deep = self.state.pending.is_deep
                self.state.reported = sum(r.is_scrubbed or not is_deep for r in reports.values())
        except ClusterError as error:
            _log.debug("the log does not answer: %s", error)
        self._update_view(head)

    def _update_view(self, head: Head | NoLog | None) -> None:
        since = time.monotonic() - ANSWERING_SECONDS
        self.view = build_view(
            head,
            self._nodes_seen,
            answering=frozenset(node for node, at in self._answered_at.items() if at > since),
            telemetry=self._telemetry,
            repairing=self.state.repairing,
            holder=self.lease.holder,
            verdict=self.state.verdict,
            deep_verdict=self.state.deep_verdict,
        )
        missing = self.state.missing_voters(time.monotonic(), self.policy.voter_missing_seconds)
        found = find_alarms(
            self.view,
            self.policy,
            missing_voters=missing,
            replacements=find_replacements(self.view, self.policy, self.state, time.monotonic()),
            backup_error=self.backup_error,
            clones=self._clones,
            refused_rows=self.log.presence.rows.refused,
            drifts={name: each.message for name, each in drift_sets(self.drifts.drifts).items()},
        )
        keeper = self.alarm_keeper
        before = keeper.raised
        keeper.update(
            found, time.monotonic(), time.time_ns() // 1_000_000, is_known=self.view.is_known
        )
        for event in find_changes(self._previous_view, self.view, before, keeper.raised):
            self.feed.add(event)
        self._previous_view = self.view
        self.history.add(self.view, time.time())
        self.feed.notify_view()

    def now_ms(self) -> int:
        return int(time.monotonic() * 1_000 + self._clock_offset_ms)

    async def _telemetry_loop(self) -> None:
        while True:
            # While Redis does not answer, a node that is silent now may have started again.
            asked = self.view.live if self.view.is_known else self.view.nodes
            urls = {node.node: node.url for node in asked if node.url}
            found = await self.client.fetch_telemetry(urls)
            self._telemetry = {**self._telemetry, **found}
            self._answered_at |= dict.fromkeys(found, time.monotonic())
            known = {node.node for node in self.view.nodes}
            self._telemetry = {node: f for node, f in self._telemetry.items() if node in known}
            self._answered_at = {node: t for node, t in self._answered_at.items() if node in known}
            await asyncio.sleep(TELEMETRY_SECONDS)

    async def _traffic_loop(self) -> None:
        """Read how many answers each route got, on every node."""
        judged_at = -math.inf
        while True:
            with contextlib.suppress(ClusterError):  # Redis does not answer yet
                await self._memory.load()
            targets = [(node.node, node.url) for node in self.view.live if node.url]
            found = await self.client.documents(targets, "/-/traffic")
            self.traffic.add(found, time.time())
            if time.monotonic() >= judged_at + DRIFT_SECONDS:
                judged_at = time.monotonic()
                self.drifts.update(time.time())
            await asyncio.sleep(TRAFFIC_SECONDS)

    async def _memory_loop(self) -> None:
        """Save traffic and alarms from time to time, as the holder of the lease."""
        written_bytes = 0
        while True:
            # A large history is saved less often, so that it is no load on Redis' disk.
            await asyncio.sleep(SAVE_SECONDS + written_bytes / SAVED_BYTES_PER_SECOND)
            written_bytes = await self._save()

    async def _save(self) -> int:
        if self.lease.is_active:
            try:
                return await self._memory.save()
            except ClusterError as error:
                _log.debug("traffic and alarms are not saved: %s", error)
        return 0

    async def _imports_loop(self) -> None:
        """Read the open imports from one node; they are the same on all nodes."""
        while True:
            source = next((node for node in self.view.live if node.health == "ok"), None)
            if source is not None and self.lease.is_active:
                with contextlib.suppress(ClusterError, KeyError, TypeError):
                    found = await self.client.document(
                        Target(source.url, source.node), "/-/imports"
                    )
                    imports = [
                        OpenImport(str(each["import_id"]), int(each["touched_seq"]))
                        for each in (found or {}).get("imports", [])
                        # Staged vectors of an encoder are imports too, but not abandoned ones.
                        if encoder_of(str(each["import_id"])) is None
                    ]
                    self.state.record_imports(imports, time.monotonic())
            # Often enough to notice a change of an import within its idle time.
            await asyncio.sleep(min(IMPORTS_SECONDS, self.policy.import_idle_seconds / 3))

    # --- act -------------------------------------------------------------------------

    async def execute(self, action: Action, actor: str) -> ActionResult:
        """Do what an operator requested, now."""
        if self.lease.held is None:
            holder = self.lease.holder.partition("#")[0]
            raise NotActive(
                f"the active coordinator is {holder or 'not known yet'}", retry_after_seconds=2.0
            )
        return await self._execute(action, actor)

    async def command_node(
        self,
        kind: CommandKind,
        node: str,
        actor: str,
        reason: str,
        *,
        donors: tuple[str, ...] = (),
        encoder: str = "",
    ) -> ActionResult:
        """Send an operator's command to a node."""
        held = self.lease.held
        if held is None:
            raise NotActive("another coordinator is active", retry_after_seconds=2.0)
        command = NodeCommand(uuid.uuid4().hex, kind, reason, self.now_ms(), donors, encoder)
        done = await self._executor.command(held, node, command)
        result = ActionResult(done.outcome, f"{self._names((node,))[0]} {done.detail}")
        await self.record_result(actor, kind, result)
        return result

    async def _execute(self, action: Action, actor: str) -> ActionResult:
        """Execute an action; a failure is a result, not an exception."""
        held = self.lease.held
        if held is None:
            return ActionResult("refused", "the lease has expired")
        try:
            result = await self._dispatch(held, action)
        except (SynaptoRouteError, OSError) as error:
            result = ActionResult("failed", str(error))
        if not isinstance(action, CompleteAudit):
            await self.record_result(actor, _name_of(action), result)
        return result

    async def _dispatch(self, held: Held, action: Action) -> ActionResult:
        now_seconds = time.monotonic()
        match action:
            case Trim():
                return await self._executor.trim(held, action)
            case StartAudit(is_deep):
                # Set before the append, which may fail: otherwise every cycle would try again.
                self.state.audit_seconds = now_seconds
                if is_deep:
                    self.state.scrub_seconds = now_seconds
                live = tuple(node.node for node in self.view.live)
                done = await self._executor.start_audit(action)
                self.state.reported = 0
                self.state.pending = PendingAudit(done.seq, is_deep, now_seconds, live)
                return done
            case CompleteAudit():
                return await self._complete_audit()
            case Repair(node):
                done = await self._executor.repair(held, action, self.now_ms())
                if done.outcome == "done":
                    self.state.record_repair(action.audit_seq, node)
                return ActionResult(done.outcome, f"{self._names((node,))[0]} {done.detail}")
            case ChangeVoter():
                self.state.voter_change_seconds = now_seconds
                if self.log.has_genesis:
                    return await self._have_voter_changed(action)
                return await self._executor.change_voter(action)
            case AbortImport(import_id, touched_seq):
                self.state.imports.pop(OpenImport(import_id, touched_seq), None)
                return await self._executor.abort_import(action)
            case TakeBackup(node, url):
                # Counts from the start, so that a failing backup is not retried at once.
                self.state.backup_seconds = now_seconds
                return self._start_backup(node, url)

    async def _have_voter_changed(self, action: ChangeVoter) -> ActionResult:
        """Ask a node: where voters are pinned, a change needs the voters' agreement."""
        voters = set(self.view.log.voters)
        sound = [node for node in self.view.live if node.url and node.health == "ok"]
        chosen = max(sound, key=lambda node: node.node in voters, default=None)
        if chosen is None:
            return ActionResult("failed", "no node can be asked")
        answer = await self.client.ask(
            Target(chosen.url, chosen.node),
            "POST",
            "/v1/cluster/voters",
            body=json.dumps({"node": action.node, "vote": action.is_adding}).encode(),
            headers={"Content-Type": "application/json"},
            timeout_seconds=VOTER_SECONDS,
        )
        if answer.status not in (200, 202):
            return ActionResult("failed", answer.body.decode(errors="replace")[:500])
        return ActionResult("done", f"{action.reason}; by {chosen.node}")

    async def _complete_audit(self) -> ActionResult:
        pending = self.state.pending
        assert pending is not None, "no audit is pending: this is a bug"
        reports = await self._executor.reports(pending.seq)
        live = {node.node for node in self.view.live}
        expected = [node for node in pending.live if node in live]
        verdict = evaluate_audit(pending.seq, reports, expected, is_deep=pending.is_deep)
        before = self.state.verdict
        self.state.record_verdict(verdict)
        if not verdict.is_sound and verdict.agreeing + verdict.differing + verdict.unsound:
            wrong = ", ".join(self._names((*verdict.differing, *verdict.unsound)))
            self.feed.add(
                Event("audit", "bad", f"the audit at {verdict.seq} found errors on {wrong}")
            )
        elif before is None or not before.is_sound or verdict.is_deep:
            depth = " in memory and on disk" if verdict.is_deep else ""
            message = f"the audit at {verdict.seq}: {len(verdict.agreeing)} nodes agree{depth}"
            self.feed.add(Event("audit", "good", message))
        return ActionResult("done", f"{len(verdict.agreeing)} agree", verdict.seq)

    def _names(self, nodes: tuple[str, ...]) -> list[str]:
        names = {node.node: node.name for node in self.view.nodes}
        return [names.get(node, node) for node in dict.fromkeys(nodes)]

    def _start_backup(self, node: str, url: str) -> ActionResult:
        """Start a backup in a task of its own, so that the control loop continues."""
        if self._backup_task is not None and not self._backup_task.done():
            return ActionResult("failed", "a backup is already running")
        if not self.backups.is_on:
            return ActionResult("failed", NO_BACKUP_STORE)
        self._backup_task = asyncio.create_task(self._run_backup(node, url), name="backup")
        return ActionResult("done", "the backup has started")

    async def _run_backup(self, node: str, url: str) -> None:
        try:
            backup = await self.backups.take(node, url)
        except (SynaptoRouteError, OSError) as error:
            self.backup_error = str(error)
            self.state.backup_failures += 1
            await self.record_result(SELF, "backup", ActionResult("failed", str(error)))
            return
        self.backup_error, self.state.backup_failures = "", 0
        self.feed.add(Event("backup", "good", f"backup {backup.name} was taken"))
        await self.record_result(
            SELF, "backup", ActionResult("done", f"{backup.name}, {backup.size_bytes} bytes")
        )

    async def record_result(self, actor: str, action: str, done: ActionResult) -> None:
        """Count an action, and write its result to the audit log."""
        key = (action, done.outcome)
        self.counts[key] = self.counts.get(key, 0) + 1
        if done.outcome != "done":
            _log.warning("%s by %s: %s: %s", action, actor, done.outcome, done.detail)
        if actor == SELF and action in ("audit", "scrub") and done.outcome == "done":
            return  # periodic audits would fill the audit log; their findings are events
        await self.audit_log.add(actor, action, done.outcome, done.detail)
        if action == "voter" and actor == SELF:
            self.feed.add(Event("voters", "warn", f"voters: {done.detail}"))
        if action == "repair" and done.outcome == "done":
            self.feed.add(Event("repair", "warn", f"repair: {done.detail}"))
        elif actor != SELF:
            tone: Tone = "info" if done.outcome == "done" else "warn"
            self.feed.add(Event("action", tone, f"{actor}: {action}: {done.detail}"))


def _name_of(action: Action) -> str:
    match action:
        case Trim():
            return "trim"
        case StartAudit(is_deep):
            return "scrub" if is_deep else "audit"
        case CompleteAudit():
            return "complete-audit"
        case Repair():
            return "repair"
        case AbortImport():
            return "abort-import"
        case TakeBackup():
            return "backup"
        case ChangeVoter():
            return "voter"

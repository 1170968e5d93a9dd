"""The loop: observe, plan, act.

Every coordinator observes; only the holder of the lease acts.  Nothing the cluster does
for a query or a write waits for any of it, and a turn that fails is followed by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from synaptoroute.core.imports import encoder_of
from synaptoroute.errors import ClusterError, SynaptoRouteError
from synaptoroute.sequencer.client import end_task
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_commands import CommandKind, NodeCommand
from synaptoroute.sequencer.presence import NodeSeen
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute_coordinator.actions import Acts, Backups, Done, Nodes, Record
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet import (
    Alarm,
    Event,
    FleetView,
    LogView,
    Telemetry,
    Tone,
    alarms_of,
    changes,
    fold,
    judge_audit,
)
from synaptoroute_coordinator.leader_lease import Tenure
from synaptoroute_coordinator.plan import (
    AbortImport,
    Action,
    Judge,
    Memory,
    OpenImport,
    PendingAudit,
    Repair,
    StartAudit,
    TakeBackup,
    Trim,
    plan,
)
from synaptoroute_coordinator.reconciler.feed import Feed

OBSERVE_SECONDS: Final = 0.5
FIGURES_SECONDS: Final = 2.0
IMPORTS_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0
OWN: Final = "coordinator"

_log = logging.getLogger(__name__)


class NotActive(ClusterError):
    """Standing by: another coordinator holds the lease."""

    code = "not_active"


class Reconciler:
    """One coordinator's loop.  Used on one event loop.

    Attributes:
        view: The fleet as last observed.
        alarms: What holds now.
        memory: What was done.
        feed: Events for whoever watches.
        counts: Actions by kind and outcome.
    """

    def __init__(
        self,
        log: RedisLog,
        policy: Policy,
        tenure: Tenure,
        nodes: Nodes,
        backups: Backups,
        record: Record,
    ) -> None:
        self.log = log
        self.policy = policy
        self.tenure = tenure
        self.nodes = nodes
        self.backups = backups
        self.record = record
        self.view = FleetView(LogView("away"))
        self.alarms: tuple[Alarm, ...] = ()
        self.memory = Memory(time.monotonic())
        self.feed = Feed()
        self.counts: dict[tuple[str, str], int] = {}
        self.backup_error = ""
        self._acts = Acts(log)
        self._figures: dict[str, Telemetry] = {}
        self._seen: tuple[NodeSeen, ...] = ()
        self._before: FleetView | None = None
        self._tenures = 0
        self._clock_offset_ms = time.time() * 1_000 - time.monotonic() * 1_000
        self._tasks: list[asyncio.Task[None]] = []
        self._backing: asyncio.Task[None] | None = None

    # --- life ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to observe; returns at once."""
        for name, run in (
            ("lease", self.tenure.run),
            ("turns", self._turns),
            ("figures", self._look_at_figures),
            ("imports", self._look_at_imports),
        ):
            self._tasks.append(asyncio.create_task(self._last(name, run), name=name))

    async def _last(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a loop for good: a mistake in it costs one turn, never the whole of it."""
        while True:
            try:
                await run()
            except Exception as error:
                _log.exception("the loop %s failed and begins again: %s", name, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        """Stop, and give the lease back."""
        tasks = [*self._tasks, *([self._backing] if self._backing else [])]
        await asyncio.gather(*map(end_task, tasks))
        await self.tenure.release()

    async def _turns(self) -> None:
        while True:
            try:
                await self.turn()
            except SynaptoRouteError as error:
                _log.warning("a turn failed: %s", error)
            await asyncio.sleep(OBSERVE_SECONDS)

    # --- observe ---------------------------------------------------------------------

    async def turn(self) -> None:
        """Observe, and as holder of the lease plan and act."""
        await self.observe()
        held = self.tenure.held
        if held is None:
            return
        if self._tenures != self.tenure.taken_count:
            self._tenures = self.tenure.taken_count
            self.memory = Memory(time.monotonic())
        now_seconds = time.monotonic()
        self.memory.note_voters(self.view, now_seconds)
        for action in plan(self.view, self.policy, self.memory, now_seconds):
            await self._attempt(action, OWN)

    async def observe(self) -> None:
        """Look at the log and at the nodes; without an answer what was seen stands."""
        head: Head | NoLog | None = None
        try:
            sent_at = time.monotonic()
            head = await self.log.head()
            middle = (sent_at + time.monotonic()) / 2
            self._clock_offset_ms = head.time_us / 1_000 - middle * 1_000
            self._seen = await self.log.presence.nodes()
            orders = await self.log.node_commands.all_pending()
            self.memory.repairing = frozenset(
                node for node, order in orders.items() if order.kind in ("resync", "mend")
            )
            if self.memory.pending is not None:
                reports = await self._acts.reports(self.memory.pending.seq)
                is_deep = self.memory.pending.is_deep
                self.memory.reported = sum(r.is_scrubbed or not is_deep for r in reports.values())
        except ClusterError as error:
            _log.debug("the log does not answer: %s", error)
        if isinstance(head, Head):
            self._acts.see(head)
        self._fold(head)

    def _fold(self, head: Head | NoLog | None) -> None:
        """Make the view, and say what changed."""
        self.view = fold(
            head,
            self._seen,
            telemetry=self._figures,
            repairing=self.memory.repairing,
            holder=self.tenure.holder,
            verdict=self.memory.verdict,
            deep_verdict=self.memory.deep_verdict,
        )
        missing = self.memory.missing_voters(time.monotonic(), self.policy.voter_missing_seconds)
        alarms = alarms_of(
            self.view, self.policy, missing_voters=missing, backup_error=self.backup_error
        )
        for event in changes(self._before, self.view, self.alarms, alarms):
            self.feed.add(event)
        self._before, self.alarms = self.view, alarms
        self.feed.renew()

    def now_ms(self) -> int:
        """Redis' clock as this process reckons it."""
        return int(time.monotonic() * 1_000 + self._clock_offset_ms)

    async def _look_at_figures(self) -> None:
        while True:
            urls = {node.node: node.url for node in self.view.live if node.url}
            self._figures = {**self._figures, **await self.nodes.figures(urls)}
            known = {node.node for node in self.view.nodes}
            self._figures = {node: f for node, f in self._figures.items() if node in known}
            await asyncio.sleep(FIGURES_SECONDS)

    async def _look_at_imports(self) -> None:
        """Ask one node for the imports that are open: the state is the same on all."""
        while True:
            source = next((node for node in self.view.live if node.health == "ok"), None)
            if source is not None and self.tenure.is_active:
                with contextlib.suppress(ClusterError, KeyError, TypeError):
                    found = await self.nodes.document(source.url, "/-/imports")
                    imports = [
                        OpenImport(str(each["import_id"]), int(each["touched_seq"]))
                        for each in (found or {}).get("imports", [])
                        if encoder_of(str(each["import_id"])) is None
                    ]
                    self.memory.note_imports(imports, time.monotonic())
            await asyncio.sleep(min(IMPORTS_SECONDS, self.policy.import_idle_seconds / 3))

    # --- act -------------------------------------------------------------------------

    async def order(self, action: Action, actor: str) -> Done:
        """Do what a person asks for, now.

        Raises:
            NotActive: Another coordinator holds the lease.
        """
        if self.tenure.held is None:
            holder = self.tenure.holder.partition("#")[0]
            raise NotActive(
                f"the active coordinator is {holder or 'not known yet'}", retry_after_seconds=2.0
            )
        return await self._attempt(action, actor)

    async def order_node(self, order: NodeCommand, node: str, actor: str) -> Done:
        """Leave an order of a person for a node.

        Raises:
            NotActive: Another coordinator holds the lease.
            SequencerUnavailable: No answer.
        """
        held = self.tenure.held
        if held is None:
            raise NotActive("another coordinator is active", retry_after_seconds=2.0)
        done = await self._acts.order(held, node, order)
        named = Done(done.outcome, f"{self._names((node,))[0]} {done.detail}")
        await self.tell(actor, order.kind, named)
        return named

    async def _attempt(self, action: Action, actor: str) -> Done:
        """Carry an action out; a failure is an outcome."""
        held = self.tenure.held
        if held is None:
            return Done("refused", "the lease ran out")
        try:
            done = await self._carry_out(held, action)
        except (SynaptoRouteError, OSError) as error:
            done = Done("failed", str(error))
        if not isinstance(action, Judge):
            await self.tell(actor, _name_of(action), done)
        return done

    async def _carry_out(self, held: Held, action: Action) -> Done:
        now_seconds = time.monotonic()
        match action:
            case Trim():
                return await self._acts.trim(held, action)
            case StartAudit(is_deep):
                self.memory.audit_seconds = now_seconds
                if is_deep:
                    self.memory.scrub_seconds = now_seconds
                live = tuple(node.node for node in self.view.live)
                done = await self._acts.start_audit(action)
                self.memory.reported = 0
                self.memory.pending = PendingAudit(done.seq, is_deep, now_seconds, live)
                return done
            case Judge():
                return await self._judge()
            case Repair(node):
                done = await self._acts.repair(held, action, self.now_ms())
                if done.outcome == "done":
                    self.memory.note_repair(action.audit_seq, node)
                return Done(done.outcome, f"{self._names((node,))[0]} {done.detail}")
            case AbortImport(import_id, touched_seq):
                self.memory.imports.pop(OpenImport(import_id, touched_seq), None)
                return await self._acts.abort_import(action)
            case TakeBackup(node, url):
                self.memory.backup_seconds = now_seconds
                return self._begin_backup(node, url)

    async def _judge(self) -> Done:
        """Compare what was reported to the pending audit."""
        pending = self.memory.pending
        assert pending is not None, "no audit is pending: this is a bug"
        reports = await self._acts.reports(pending.seq)
        live = {node.node for node in self.view.live}
        expected = [node for node in pending.live if node in live]
        verdict = judge_audit(pending.seq, reports, expected, is_deep=pending.is_deep)
        before = self.memory.verdict
        self.memory.note_verdict(verdict)
        if not verdict.is_sound and verdict.agreeing + verdict.differing + verdict.unsound:
            wrong = ", ".join(self._names((*verdict.differing, *verdict.unsound)))
            self.feed.add(Event("audit", "bad", f"the audit at {verdict.seq} found {wrong} wrong"))
        elif before is None or not before.is_sound or verdict.is_deep:
            depth = " in memory and on disk" if verdict.is_deep else ""
            message = f"the audit at {verdict.seq}: {len(verdict.agreeing)} nodes agree{depth}"
            self.feed.add(Event("audit", "good", message))
        return Done("done", f"{len(verdict.agreeing)} agree", verdict.seq)

    def _names(self, nodes: tuple[str, ...]) -> list[str]:
        names = {node.node: node.name for node in self.view.nodes}
        return [names.get(node, node) for node in dict.fromkeys(nodes)]

    def _begin_backup(self, node: str, url: str) -> Done:
        """Take a backup in a task of its own: the lease and the turns go on."""
        if self._backing is not None and not self._backing.done():
            return Done("failed", "a backup is being taken already")
        if not self.backups.is_on:
            return Done("failed", "no place for backups is set (backup_folder, backup_bucket)")
        self._backing = asyncio.create_task(self._back_up(node, url), name="backup")
        return Done("done", "the backup has begun")

    async def _back_up(self, node: str, url: str) -> None:
        try:
            backup = await self.backups.take(node, url)
        except (SynaptoRouteError, OSError) as error:
            self.backup_error = str(error)
            await self.tell(OWN, "backup", Done("failed", str(error)))
            return
        self.backup_error = ""
        self.feed.add(Event("backup", "good", f"backup {backup.name} was taken"))
        await self.tell(OWN, "backup", Done("done", f"{backup.name}, {backup.size_bytes} bytes"))

    async def tell(self, actor: str, action: str, done: Done) -> None:
        """Record what came of an action."""
        key = (action, done.outcome)
        self.counts[key] = self.counts.get(key, 0) + 1
        if done.outcome != "done":
            _log.warning("%s by %s: %s: %s", action, actor, done.outcome, done.detail)
        if actor == OWN and action in ("audit", "scrub") and done.outcome == "done":
            return  # every minute: the events tell what it found
        await self.record.add(actor, action, done.outcome, done.detail)
        if action == "repair" and done.outcome == "done":
            self.feed.add(Event("repair", "warn", f"repair: {done.detail}"))
        elif actor != OWN:
            tone: Tone = "info" if done.outcome == "done" else "warn"
            self.feed.add(Event("action", tone, f"{actor}: {action}: {done.detail}"))


def new_order(
    kind: CommandKind, reason: str, now_ms: int, donors: tuple[str, ...] = (), encoder: str = ""
) -> NodeCommand:
    """Make an order of a person."""
    return NodeCommand(uuid.uuid4().hex, kind, reason, now_ms, donors, encoder)


def _name_of(action: Action) -> str:
    match action:
        case Trim():
            return "trim"
        case StartAudit(is_deep):
            return "scrub" if is_deep else "audit"
        case Judge():
            return "judge"
        case Repair():
            return "repair"
        case AbortImport():
            return "abort-import"
        case TakeBackup():
            return "backup"

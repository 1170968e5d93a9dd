"""Alarms, events (what changed between two views), and the feed of events to subscribers.

Alarms and changes are pure functions of views.  Each alarm is a metric as well.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from synaptoroute.sequencer.retention import FULL_PERCENT
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.fleet import FleetView, LogView, NodeView

Severity = Literal["critical", "warning"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One condition that needs an operator.

    Attributes:
        since_ms: When it was first found, milliseconds since 1970; 0 if nobody recorded it.
        is_over: Whether the condition is over, and the alarm is cleared unless it comes back.
    """

    code: str
    severity: Severity
    message: str
    nodes: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    since_ms: int = 0
    is_over: bool = False


CODES: Final = (
    "divergence",
    "damage",
    "lag",
    "node_gone",
    "no_coordinator",
    "log_closed",
    "log_near_full",
    "log_full",
    "voters_missing",
    "backup_failed",
    "mixed_encoders",
    "clone",
    "forged_rows",
    "drift",
)
DRIFTS_NAMED_MAX: Final = 3


_UNKNOWN: Final = Alarm(
    "log_closed",
    "critical",
    "Redis does not answer this coordinator: the state of the log and of the nodes is unknown",
)


def find_alarms(
    view: FleetView,
    policy: Policy,
    *,
    missing_voters: tuple[str, ...] = (),
    replacements: Mapping[str, NodeView] | None = None,
    backup_error: str = "",
    clones: Mapping[str, str] | None = None,
    refused_rows: Mapping[str, str] | None = None,
    drifts: Mapping[str, str] | None = None,
) -> tuple[Alarm, ...]:
    """Find every alarm that is raised now.

    Args:
        view: The fleet.
        policy: The limits.
        missing_voters: Voters that have been silent for too long.
        replacements: The node that came back in the place of a missing voter, by voter.
        backup_error: Why the last backup failed; empty if it did not.
        clones: Processes that were refused as the second of an identity, by node.
        refused_rows: Why rows in Redis do not count, by node.
        drifts: How the use of route sets has changed, by set.
    """
    if not view.is_known:
        # What it last saw may be wrong by now, in both directions.
        found = [_UNKNOWN]
        missing_voters = ()
    else:
        found = [*_state_alarms(view), *_node_alarms(view, policy), *_log_alarms(view, policy)]
    if not view.holder and view.log.state != "away":
        found.append(Alarm("no_coordinator", "warning", "no coordinator holds the lease"))
    if missing_voters:
        # Without a majority of the voters no recovery can finish by itself.
        is_majority_gone = len(missing_voters) * 2 >= len(view.log.voters)
        found.append(
            Alarm(
                "voters_missing",
                "critical" if is_majority_gone else "warning",
                f"{len(missing_voters)} of {len(view.log.voters)} voters are missing"
                + _advice(replacements or {}),
                missing_voters,
            )
        )
    for node, other in (clones or {}).items():
        url = next((each.url for each in view.nodes if each.node == node), "")
        message = f"a second process ({other}) has the identity of {node} at {url} and is refused"
        found.append(Alarm("clone", "critical", message, (node,)))
    if refused_rows:
        reason = next(iter(refused_rows.values()))
        message = f"{len(refused_rows)} rows in Redis are forged, foreign or replayed: {reason}"
        found.append(Alarm("forged_rows", "critical", message, tuple(refused_rows)))
    if backup_error:
        found.append(Alarm("backup_failed", "warning", f"the backup failed: {backup_error}"))
    if drifts:
        named = "; ".join(list(drifts.values())[:DRIFTS_NAMED_MAX])
        count = "1 route set is" if len(drifts) == 1 else f"{len(drifts)} route sets are"
        message = f"{count} used otherwise than in the week before: {named}"
        found.append(Alarm("drift", "warning", message, sets=tuple(drifts)))
    return tuple(found)


def _advice(replacements: Mapping[str, NodeView]) -> str:
    """Advise how to replace missing voters by the nodes that came back in their place."""
    commands = [
        f"synaptoroute cluster voter {node.node} --replace {voter}"
        for voter, node in replacements.items()
    ]
    return f"; to replace them: {', '.join(commands)}" if commands else ""


def _state_alarms(view: FleetView) -> list[Alarm]:
    differing = tuple(node.node for node in view.nodes if node.digest_state == "differs")
    unsound = tuple(node.node for node in view.nodes if node.digest_state == "unsound")
    found = []
    if differing:
        message = f"{len(differing)} nodes differ from the majority at the same position"
        if view.verdict is not None and not view.verdict.has_majority:
            message = "nodes have different states and there is no majority: choose one by hand"
        found.append(Alarm("divergence", "critical", message, differing))
    if unsound:
        message = "memory or disk does not match the digest"
        found.append(Alarm("damage", "critical", message, unsound))
    return found


def _node_alarms(view: FleetView, policy: Policy) -> list[Alarm]:
    found = []
    behind = tuple(node.node for node in view.live if node.lag_entries > policy.lag_entries_max)
    if behind:
        message = f"{len(behind)} nodes are more than {policy.lag_entries_max} entries behind"
        found.append(Alarm("lag", "warning", message, behind))
    gone = tuple(node.node for node in view.nodes if not node.is_live)
    if gone:
        message = f"{len(gone)} of {len(view.nodes)} nodes are silent"
        found.append(Alarm("node_gone", "warning", message, gone))
    foreign = tuple(
        node.node
        for node in view.live
        if view.log.encoder and view.log.encoder not in (node.encoder, *node.encoders)
    )
    if foreign:
        message = "nodes do not have the encoder of the vectors in the log"
        found.append(Alarm("mixed_encoders", "critical", message, foreign))
    return found


def is_log_full(log: LogView, policy: Policy) -> bool:
    """Whether an open log has no room for writes; the nodes report it likewise."""
    is_over = 100 * log.kept_bytes >= FULL_PERCENT * policy.log_bytes_max
    return log.state == "open" and is_over


def _log_alarms(view: FleetView, policy: Policy) -> list[Alarm]:
    found = []
    if view.log.state == "lost" and not any(node.epoch for node in view.nodes):
        message = "no node has opened a log yet: writes are refused"
        found.append(Alarm("log_closed", "warning", message))
    elif view.log.state != "open":
        message = f"the log is {view.log.state}: writes are refused, queries continue"
        found.append(Alarm("log_closed", "critical", message))
    percent = 100 * view.log.kept_bytes / policy.log_bytes_max
    if is_log_full(view.log, policy):
        message = (
            f"the log is full ({view.log.kept_bytes} of {policy.log_bytes_max} bytes): writes are "
            "refused until a majority of the voters holds more of it"
        )
        found.append(Alarm("log_full", "critical", message))
    elif percent >= policy.log_full_percent:
        message = f"the log is {percent:.0f} % full; when it is full, writes are refused"
        found.append(Alarm("log_near_full", "warning", message))
    return found


# --- events ----------------------------------------------------------------------------

Tone = Literal["good", "info", "warn", "bad"]
_DIGEST_MESSAGES: Final = {"differs": "differs from the others", "unsound": "is damaged"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the fleet."""

    kind: str
    tone: Tone
    message: str
    node: str = ""


def find_changes(
    before: FleetView | None,
    now: FleetView,
    alarms_before: Sequence[Alarm] = (),
    alarms: Sequence[Alarm] = (),
) -> tuple[Event, ...]:
    """Find what changed between two views; nothing before the first view."""
    if before is None:
        return ()
    found = [
        *_log_events(before, now),
        *_membership_events(before, now),
        *_alarm_events(alarms_before, alarms),
    ]
    if before.holder != now.holder and now.is_known:
        if now.holder:
            message = f"{now.holder.partition('#')[0]} is the active coordinator"
            found.append(Event("coordinator", "info", message))
        else:
            found.append(Event("coordinator", "warn", "no coordinator holds the lease"))
    return tuple(found)


def _log_events(before: FleetView, now: FleetView) -> Iterator[Event]:
    if before.log.state != now.log.state:
        tone: Tone = "good" if now.log.state == "open" else "bad"
        message = f"the log is {now.log.state}" if now.is_known else "Redis does not answer"
        yield Event("log", tone, message)
    if before.log.encoder and now.log.encoder and before.log.encoder != now.log.encoder:
        yield Event("encoder", "good", f"the cluster changed to encoder {now.log.encoder[:10]}")
    if now.log.epoch > before.log.epoch > 0:
        yield Event("epoch", "info", f"epoch {now.log.epoch} was opened")
    if now.log.floor > before.log.floor > 0:
        dropped = now.log.floor - before.log.floor
        yield Event("trim", "info", f"{dropped} entries were trimmed from the log")


def _membership_events(before: FleetView, now: FleetView) -> Iterator[Event]:
    if not (before.is_known and now.is_known):
        return
    known = {node.node: node for node in before.nodes}
    for node in now.nodes:
        old = known.get(node.node)
        if old is None:
            yield Event("joined", "good", f"{node.name} joined", node.node)
        else:
            yield from _node_events(old, node)
    left = known.keys() - {node.node for node in now.nodes}
    for identity in sorted(left):
        yield Event("forgotten", "info", f"{known[identity].name} was forgotten", identity)


def _node_events(old: NodeView, node: NodeView) -> Iterator[Event]:
    if old.is_live and not node.is_live:
        yield Event("gone", "bad", f"{node.name} is silent", node.node)
    elif node.is_live and not old.is_live:
        yield Event("returned", "good", f"{node.name} is back", node.node)
    if old.state != node.state:
        tone: Tone = "bad" if node.state in ("diverged", "halted") else "info"
        yield Event("state", tone, f"{node.name} is {node.state.replace('_', ' ')}", node.node)
    if old.digest_state != node.digest_state and "unknown" not in (
        old.digest_state,
        node.digest_state,
    ):
        if node.digest_state in ("differs", "unsound"):
            yield Event(
                "digest", "bad", f"{node.name} {_DIGEST_MESSAGES[node.digest_state]}", node.node
            )
        elif old.digest_state in ("differs", "unsound"):
            yield Event("digest", "good", f"{node.name} agrees again", node.node)
    if old.release != node.release:
        yield Event("release", "info", f"{node.name} runs release {node.release}", node.node)


def _alarm_events(before: Sequence[Alarm], now: Sequence[Alarm]) -> Iterator[Event]:
    old, new = {each.code for each in before}, {each.code for each in now}
    for alarm in now:
        if alarm.code not in old:
            tone: Tone = "bad" if alarm.severity == "critical" else "warn"
            yield Event("alarm", tone, f"alarm: {alarm.message}")
    for code in sorted(old - new):
        yield Event("alarm_over", "good", f"alarm over: {code.replace('_', ' ')}")


# --- the feed: the newest events are kept, and each subscriber has a queue ---------------

EVENTS_KEPT_MAX: Final = 500
QUEUE_MAX: Final = 256
SUBSCRIBERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event with its number and its time."""

    number: int
    at_ms: int
    event: Event


class EventFeed:
    """Events of one coordinator.  Used on one event loop."""

    def __init__(self) -> None:
        self._kept: deque[FeedEvent] = deque(maxlen=EVENTS_KEPT_MAX)
        self._number = 0
        self._subscribers: set[asyncio.Queue[FeedEvent | None]] = set()

    @property
    def newest(self) -> list[FeedEvent]:
        return list(self._kept)

    @property
    def is_full(self) -> bool:
        return len(self._subscribers) >= SUBSCRIBERS_MAX

    def after(self, number: int) -> list[FeedEvent]:
        return [each for each in self._kept if each.number > number]

    def add(self, event: Event) -> None:
        self._number += 1
        feed_event = FeedEvent(self._number, int(time.time() * 1_000), event)
        self._kept.append(feed_event)
        self._publish(feed_event)

    def notify_view(self) -> None:
        self._publish(None)

    def _publish(self, item: FeedEvent | None) -> None:
        for queue in list(self._subscribers):
            try:
                queue.put_nowait(item)
            except asyncio.QueueFull:
                # A subscriber that does not read loses its subscription; otherwise its
                # queue would grow until the coordinator has no memory left.
                self._subscribers.discard(queue)

    @contextmanager
    def subscribe(self) -> Iterator[asyncio.Queue[FeedEvent | None]]:
        """Receive events from now on; None stands for a new fleet view."""
        queue: asyncio.Queue[FeedEvent | None] = asyncio.Queue(QUEUE_MAX)
        self._subscribers.add(queue)
        try:
            yield queue
        finally:
            self._subscribers.discard(queue)

    def is_subscribed(self, queue: asyncio.Queue[FeedEvent | None]) -> bool:
        return queue in self._subscribers

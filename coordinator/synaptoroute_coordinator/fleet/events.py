"""What changed between two views, in words for a timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from synaptoroute_coordinator.fleet.alarms import Alarm
from synaptoroute_coordinator.fleet.view import FleetView, NodeView

Tone = Literal["good", "info", "warn", "bad"]
WORDS: Final = {"differs": "differs from the others", "unsound": "is damaged"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: Stable name.
        tone: How it should look.
        message: One sentence.
        node: The node it is about; empty for the fleet.
    """

    kind: str
    tone: Tone
    message: str
    node: str = ""


def changes(
    before: FleetView | None,
    now: FleetView,
    alarms_before: Sequence[Alarm] = (),
    alarms: Sequence[Alarm] = (),
) -> tuple[Event, ...]:
    """Say what changed; nothing for the very first view."""
    if before is None:
        return ()
    found = [*_of_log(before, now), *_of_nodes(before, now), *_of_alarms(alarms_before, alarms)]
    if before.holder != now.holder:
        if now.holder:
            message = f"{now.holder.partition('#')[0]} is the active coordinator"
            found.append(Event("coordinator", "info", message))
        else:
            found.append(Event("coordinator", "warn", "no coordinator holds the lease"))
    return tuple(found)


def _of_log(before: FleetView, now: FleetView) -> Iterator[Event]:
    if before.log.state != now.log.state:
        tone: Tone = "good" if now.log.state == "open" else "bad"
        yield Event("log", tone, f"the log is {now.log.state}")
    if before.log.encoder and now.log.encoder and before.log.encoder != now.log.encoder:
        yield Event("encoder", "good", f"the cluster changed to encoder {now.log.encoder[:10]}")
    if now.log.epoch > before.log.epoch > 0:
        yield Event("epoch", "info", f"epoch {now.log.epoch} was opened")
    if now.log.floor > before.log.floor > 0:
        dropped = now.log.floor - before.log.floor
        yield Event("trim", "info", f"{dropped} entries were trimmed from the log")


def _of_nodes(before: FleetView, now: FleetView) -> Iterator[Event]:
    known = {node.node: node for node in before.nodes}
    for node in now.nodes:
        old = known.get(node.node)
        if old is None:
            yield Event("joined", "good", f"{node.name} joined", node.node)
        else:
            yield from _of_node(old, node)
    left = known.keys() - {node.node for node in now.nodes}
    for identity in sorted(left):
        yield Event("forgotten", "info", f"{known[identity].name} was forgotten", identity)


def _of_node(old: NodeView, node: NodeView) -> Iterator[Event]:
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
            yield Event("digest", "bad", f"{node.name} {WORDS[node.digest_state]}", node.node)
        elif old.digest_state in ("differs", "unsound"):
            yield Event("digest", "good", f"{node.name} agrees again", node.node)
    if old.release != node.release:
        yield Event("release", "info", f"{node.name} runs release {node.release}", node.node)


def _of_alarms(before: Sequence[Alarm], now: Sequence[Alarm]) -> Iterator[Event]:
    old, new = {each.code for each in before}, {each.code for each in now}
    for alarm in now:
        if alarm.code not in old:
            tone: Tone = "bad" if alarm.severity == "critical" else "warn"
            yield Event("alarm", tone, f"alarm: {alarm.message}")
    for code in sorted(old - new):
        yield Event("alarm_over", "good", f"alarm over: {code.replace('_', ' ')}")

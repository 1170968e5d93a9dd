"""Writes of a simulated cluster that learn: feedback, reviews and fits, and their level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sim.model_server import ModelServer
from synaptoroute.core.codec import LEVEL, encode_proposal
from synaptoroute.core.feedback import (
    FeedbackSettings,
    item_id_of,
    read_feedback_settings,
    write_feedback_settings,
)
from synaptoroute.core.levels import DECISION_LEVEL
from synaptoroute.core.mutation import (
    CalibrateDecision,
    Finalize,
    Mutation,
    Position,
    Proposal,
    PutFeedback,
    PutSettings,
    ReviseRoutes,
    RouteRevision,
)
from synaptoroute.core.table import RouteTable
from synaptoroute.sequencer.scripts import Placed

if TYPE_CHECKING:
    from sim.node import Node

KINDS: Final = ("say", "learn", "fit", "queue", "off")
"""Kinds of writes: feedback, a review of some of it, a fit, the queue switched on and off."""
ITEMS_MAX: Final = 4
SAYINGS: Final = 7
"""Different texts of feedback: more than the queue holds, few enough to be said again."""
_RESOLVED_MAX: Final = 2


def mutation_of(kind: str, number: int, route: str, table: RouteTable, vector: bytes) -> Mutation:
    """Make a write as a client of a node would that holds a table."""
    if kind == "say":
        text, was = f"said {number % SAYINGS}", None
        right = route if route in table.routes else None
        return PutFeedback(item_id_of(text, right, was), text, right, was, number)
    if kind == "learn":
        waiting = sorted(table.feedback)[:_RESOLVED_MAX]
        learned = RouteRevision(route, (f"learned {number}",), (vector,), route not in table.routes)
        return ReviseRoutes((learned,), tuple(waiting))
    if kind == "fit":
        return CalibrateDecision(f"fit {number}".encode(), f"n{number}", number)
    limits = FeedbackSettings(items_max=ITEMS_MAX) if kind == "queue" else None
    return PutSettings(replace(table.settings, feedback=write_feedback_settings(limits)))


class Learning(ABC):
    """The level of the log, and what nodes learned by place.

    Attributes:
        found: Violations.
    """

    counts: Counter[str]
    found: list[str]
    _names: int
    _learned: dict[Position, tuple[object, ...]]  # The queue and the fit by place

    @abstractmethod
    def node(self, name: str) -> Node:
        """A node by its name."""

    @abstractmethod
    def carry(self, server: ModelServer) -> None:
        """Put what was published into the inboxes."""

    def do_finalize(self, name: str) -> None:
        """An operator raises the level of the log through a node."""
        node = self.node(name)
        if not node.is_up or node.is_cut or not node.server.is_alive or not node.is_open:
            return
        level = node.replica.level
        if level >= LEVEL or node.server.store.meta is None:
            return
        self._names += 1
        proposal = Proposal(b"raise" + self._names.to_bytes(11, "big"), Finalize(LEVEL))
        placed = node.server.append(
            node.replica.position,
            [(encode_proposal(proposal), proposal)],
            epoch_id=node.epoch_id(),
            fingerprint=node.disk.encoder[0],
            level=level,
        )
        if isinstance(placed, Placed):
            node.server.store.meta["level"] = LEVEL
            self.counts["finalized"] += 1
        self.carry(node.server)

    def watch_learning(self, node: Node) -> None:
        """Note a queue over its bound, and what two nodes learned differently at one place."""
        table = node.replica.table
        settings = read_feedback_settings(table.settings.feedback)
        bound = settings.items_max if settings is not None else 0
        if len(table.feedback) > bound:
            self.found.append(f"{node.name} has {len(table.feedback)} items, {bound} are allowed")
        if node.replica.level < DECISION_LEVEL and (table.feedback or table.decision.payload):
            self.found.append(f"{node.name} has learned below the level of the log for it")
        learned = (tuple(sorted(table.feedback.items())), table.decision)
        if self._learned.setdefault(node.replica.position, learned) != learned:
            self.found.append(f"{node.name} has learned otherwise at {node.replica.position}")

"""What keeps a simulated cluster running: room in its log, and an end of broken-off imports."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING

from sim.model_server import ModelServer
from sim.operators import VECTORS
from synaptoroute.core.change import Commit
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.imports import encoder_of
from synaptoroute.core.mutation import (
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    Proposal,
    PutRoute,
)
from synaptoroute.sequencer.append_errors import NotPlaced, Reason
from synaptoroute.sequencer.scripts import Placed

if TYPE_CHECKING:
    from sim.node import Node

OPENING_BYTES_MAX = 4_096
"""Bytes of the entries that open epochs and change voters: they are not refused as too many."""


class Upkeep(ABC):
    """Commands about the size of the log and about imports.

    Attributes:
        log_bytes_max: Limit of the log; 0 for none.
        expiries: Aborts of idle imports: op_id -> the import, and its newest entry.
        found: Violations.
    """

    log_bytes_max: int
    expiries: dict[bytes, tuple[str, int]]
    found: list[str]
    counts: Counter[str]
    server: ModelServer
    _names: int

    @abstractmethod
    def node(self, name: str) -> Node:
        """A node by its name."""

    @abstractmethod
    def carry(self, server: ModelServer) -> None:
        """Put what was published into the inboxes."""

    # --- the size of the log ---------------------------------------------------------------

    def do_limit(self, size_bytes: str) -> None:
        """From now on the log has a limit."""
        self.log_bytes_max = self.server.log_bytes_max = int(size_bytes)

    def made_room(self, node: Node, refused: Placed | NotPlaced) -> bool:
        """Let a node make room after a refusal; whether it may write again."""
        if isinstance(refused, Placed) or refused.reason is not Reason.FULL:
            return False
        if node.make_room():
            self.counts["rooms"] += 1
            return True
        if node.droppable_floor():
            self.found.append(f"{node.name} is refused although the log need not be full")
        return False

    def watch_size(self) -> None:
        """Note a log over its limit."""
        kept = self.server.kept_bytes()
        if self.log_bytes_max and kept > self.log_bytes_max + OPENING_BYTES_MAX:
            self.found.append(f"the log has {kept} bytes, over its limit")

    # --- imports -----------------------------------------------------------------------------

    def do_import(self, name: str, number: str, step: str) -> None:
        """The author of an import sends its next entry through a node."""
        node, import_id = self.node(name), f"import{number}/run"
        if not node.is_up or node.is_cut or not node.server.is_alive:
            return
        staged = node.replica.table.imports.get(import_id)
        count = len(staged.chunks) if staged else 0
        mutation: Mutation = ImportBegin(import_id)
        if step == "chunk":
            vector = VECTORS[node.disk.encoder[0]]
            part = PutRoute(f"i{number}", (f"text {count}",), (vector,))
            mutation = ImportChunk(import_id, count, (part,))
        elif step == "commit":
            mutation = ImportCommit(import_id, count)
        self._names += 1
        proposal = Proposal(b"import" + self._names.to_bytes(10, "big"), mutation)
        placed = node.server.append(
            node.replica.position,
            [(encode_proposal(proposal), proposal)],
            epoch_id=node.epoch_id(),
            fingerprint=node.disk.encoder[0],
            level=node.replica.level,
        )
        self.counts["import_entries"] += isinstance(placed, Placed)
        self.carry(node.server)

    def do_look(self, name: str) -> None:
        """A node notes the open imports; one that is the same later was idle."""
        node = self.node(name)
        imports = node.replica.table.imports
        node.imports_seen = {
            each: staged.touched_seq for each, staged in imports.items() if encoder_of(each) is None
        }

    def do_expire(self, name: str) -> None:
        """A node aborts the imports that were idle since it looked."""
        node = self.node(name)
        if not node.is_up or node.is_cut or not node.server.is_alive or not node.is_open:
            return
        for import_id, staged in list(node.replica.table.imports.items()):
            if node.imports_seen.get(import_id) != staged.touched_seq:
                continue
            text = f"abort|{import_id}|{staged.touched_seq}".encode()
            proposal = Proposal(hashlib.sha256(text).digest()[:16], ImportAbort(import_id))
            self.expiries[proposal.op_id] = (import_id, staged.touched_seq)
            placed = node.server.append_unless_named(
                node.replica.position,
                (encode_proposal(proposal), proposal),
                import_id,
                node.disk.encoder[0],
            )
            self.counts["expiries"] += isinstance(placed, int)
        self.carry(node.server)

    def watch_expiry(self, commit: Commit) -> None:
        """Note the abort of an import that went on after it was found idle."""
        expected = self.expiries.get(commit.entry.proposal.op_id)
        closed = commit.change.closed
        if expected is None or closed is None or commit.is_duplicate:
            return
        if closed.touched_seq != expected[1]:
            self.found.append(f"{expected[0]} was expired although its author is alive")

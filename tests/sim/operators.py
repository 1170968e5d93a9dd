"""What operators change on a simulated cluster: its voters, its encoder."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.model_server import ModelServer
from sim.model_store import ENCODERS
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.imports import are_routes_imported, generation_id, missing_texts, vectors_in
from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import (
    ImportBegin,
    ImportChunk,
    Mutation,
    Position,
    Proposal,
    PutRoute,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.sequencer.scripts import Head, Placed

if TYPE_CHECKING:
    from sim.node import Node

VOTERS_MIN = 3
"""With fewer, the one disk that a run loses may be a majority: then nothing may open."""
VECTORS = {
    fingerprint: struct.pack("<f", value)
    for (fingerprint, _), value in zip(ENCODERS, (1.0, -1.0), strict=True)
}
"""What each encoder makes of any text."""


class Operators(ABC):
    """The commands of operators, one each."""

    counts: Counter[str]
    switch_ids: list[bytes]  # Identities of the switches that were tried
    _names: int

    @abstractmethod
    def node(self, name: str) -> Node:
        """A node by its name."""

    @abstractmethod
    def agree(self, mutation: VoterAdd | VoterRemove, op_id: bytes) -> tuple[str, ...]:
        """Have the voters agree to a change."""

    @abstractmethod
    def carry(self, server: ModelServer) -> None:
        """Put what was published into the inboxes."""

    def do_voter(self, act: str, name: str, through: str) -> None:
        """An operator changes the voters by one, through a node."""
        node, subject = self.node(through), self.node(name).node_id
        if not node.is_up or node.is_cut or not node.server.is_alive or not node.is_open:
            return
        before = node.replica.voters
        after = tuple(sorted({*before, subject} if act == "add" else set(before) - {subject}))
        if after == before or len(after) < VOTERS_MIN:
            return
        mutation = VoterAdd(subject) if act == "add" else VoterRemove(subject)
        self._names += 1
        op_id = b"voter" + self._names.to_bytes(11, "big")
        if node.replica.level >= VOTES_LEVEL:
            mutation = replace(mutation, votes=self.agree(mutation, op_id))
        proposal = Proposal(op_id, mutation)
        frame = encode_proposal(proposal)
        placed = node.server.append(
            node.replica.position,
            [(frame, proposal)],
            (before, after),
            fingerprint=node.disk.encoder[0],
            level=node.replica.level,
        )
        self.counts["voter_changes"] += isinstance(placed, Placed)
        self.carry(node.server)

    def do_switch(self, name: str) -> None:
        """The cluster changes its encoder, through a node that holds all that the log holds."""
        node = self.node(name)
        if not node.is_up or node.is_cut or not node.server.is_alive or not node.is_open:
            return
        if node.server.store.meta is None or not self._is_at_head(node):
            return
        tables = node.replica.sets.tables.values()
        if any(are_routes_imported(table.imports) for table in tables):
            return  # it would be rejected at its place
        before, replica = node.disk.encoder, node.replica
        after = ENCODERS[1 - ENCODERS.index(before)]
        generation = generation_id(*after)
        staged = replica.table.imports.get(generation)
        steps = [] if staged else [self._step(ImportBegin(generation))]
        routes = [route for table in tables for route in table.routes.values()]
        if missing := missing_texts(routes, vectors_in(staged)):
            number = staged.chunks[-1].number + 1 if staged and staged.chunks else 0
            parts = tuple(
                PutRoute(route, (text,), (VECTORS[after[0]],)) for text, route in missing.items()
            )
            steps.append(self._step(ImportChunk(generation, number, parts)))
        at, epoch_id = replica.position, node.epoch_id()
        placed = node.server.append(
            at, steps, epoch_id=epoch_id, fingerprint=before[0], level=replica.level
        )
        if isinstance(placed, Placed):
            meta = node.server.store.meta
            whole_at = Position(meta["epoch"], meta["seq"], meta["chain"])
            switched = self._step(SwitchEncoder(generation))
            self.switch_ids.append(switched[1].op_id)
            self.counts["switches"] += isinstance(
                node.server.switch(whole_at, switched, before[0], after), int
            )
        self.carry(node.server)

    @staticmethod
    def _is_at_head(node: Node) -> bool:
        head = node.server.head()
        return isinstance(head, Head) and head.position == node.replica.position

    def _step(self, mutation: Mutation) -> tuple[bytes, Proposal]:
        self._names += 1
        proposal = Proposal(b"switch" + self._names.to_bytes(10, "big"), mutation)
        return encode_proposal(proposal), proposal

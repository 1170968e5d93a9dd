"""Judging a cluster after each fault: the simulation's checks on what real nodes hold.

The op log of a node is bounded, so it is read at every checkpoint: what was in it then must
still be the beginning of the history at the next one.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.lying_peer import FOREIGN, FOREIGN_ROUTE
from checkers import differences, dump_of
from forgeries import FORGED_PAYLOAD
from node_cluster import Cluster, Member
from sim.checks import convergence, durability, linearizable, once, order, sessions
from sim.checks.prefix import PrefixCheck
from sim.history import History
from synaptoroute.core.mutation import Position, Revision
from synaptoroute.storage.records import load_outcome

SETTLE_SECONDS_MAX = 30.0
OVERLAP_ENTRIES = 200
"""So many entries before the last checkpoint are compared again."""
_LOG = """
SELECT o.epoch, o.seq, o.op_id, o.prev_chain, o.chain, o.digest, r.outcome
FROM oplog o LEFT JOIN remembered r ON r.seq = o.seq WHERE o.seq > ? ORDER BY o.seq
"""


@dataclass
class Judge:
    """What was found so far.

    Attributes:
        history: What the clients saw.
        found: Violations.
        effects: How often each write took effect in the surviving history.
        entries: Entries of that history.
    """

    history: History
    forged: set[bytes] = field(default_factory=set)
    slowest_seconds: float = 0.0
    found: list[str] = field(default_factory=list)
    effects: Counter[bytes] = field(default_factory=Counter)
    entries: int = 0
    checkpoints: int = 0
    _prefix: PrefixCheck = field(default_factory=PrefixCheck)
    _at: Position = field(default_factory=Position)

    def checkpoint(self, cluster: Cluster) -> Position:
        """Compare all nodes, while nobody writes; give where they stand."""
        self.checkpoints += 1
        members = cluster.running
        views = self._views(cluster, members)
        self.found += differences(views)
        self.found += [
            f"{name} holds foreign rows" for name, each in views.items() if _foreign(each)
        ]
        for member in members:
            self._read(member)
        heads = {name: _position(view) for name, view in views.items()}
        head = max(heads.values(), key=lambda each: each.revision)
        digests = {name: str(view["digest"]) for name, view in views.items()}
        self.found += convergence.apart(head, heads, digests)
        self.found += self._prefix.found
        self._prefix.found.clear()
        self._extend(members[0].database, head)
        self.found += durability.lost(self.history, {"the log": self.effects})
        return head

    def _views(self, cluster: Cluster, members: Sequence[Member]) -> dict[str, dict[str, object]]:
        """Read all nodes at one position: a node may write a fit, or open an epoch, meanwhile."""
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            cluster.settle()
            views = {member.name: self._view(member) for member in members}
            after = {member.state()["version"] for member in members}
            is_late = time.monotonic() > deadline
            if is_late or (
                {view["version"] for view in views.values()} == after and len(after) == 1
            ):
                return views

    @staticmethod
    def _view(member: Member) -> dict[str, object]:
        checksum: dict[str, object] = member.http.get("/-/digest").json()
        return {**checksum, **dump_of(member.database)}

    def _read(self, member: Member) -> None:
        """Feed a node's op log to the check of prefixes."""
        at = self._at
        label = f"{member.name} at checkpoint {self.checkpoints}"
        with closing(sqlite3.connect(f"file:{member.database}?mode=ro", uri=True)) as raw:
            rows = raw.execute(_LOG, (max(0, at.seq - OVERLAP_ENTRIES),)).fetchall()
        for number, (epoch, seq, _, prev_chain, chain, digest, _) in enumerate(rows):
            if number == 0:
                self._prefix.installed(label, Position(epoch, seq - 1, prev_chain))
            elif prev_chain != rows[number - 1][4]:
                self.found.append(f"{label} breaks its chain at {epoch}.{seq}")
            self._prefix.committed(label, Position(epoch, seq, chain), digest)
            if seq == at.seq and chain != at.chain:
                self.found.append(f"{label} left the history that all had at {at.revision}")

    def _extend(self, path: Path, head: Position) -> None:
        """Take over what is new in the surviving history."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
            rows = raw.execute(_LOG, (self._at.seq,)).fetchall()
        if rows and rows[0][1] != self._at.seq + 1:
            self.found.append(f"nothing tells what came between {self._at.seq} and {rows[0][1]}")
        for epoch, seq, op_id, _, _, _, text in rows:
            if seq > head.seq:  # came since the nodes were compared; the next time it counts
                break
            self.entries += 1
            if text is None:
                continue
            self.effects[op_id] += 1
            if op_id in self.forged or op_id.startswith(FOREIGN):
                self.found.append(f"an entry that no member wrote was applied at {epoch}.{seq}")
            op = self.history.ops.get(op_id)
            if op is not None:
                op.outcome = load_outcome(text).status
                op.at = Revision(epoch, seq)
        self._at = head

    def end(self) -> list[str]:
        """Judge the whole history; give everything that was found."""
        self.found += [
            *once.doubled({"the log": self.effects}),
            *order.backwards(self.history),
            *order.unserial(self.history),
            *sessions.blind(self.history),
            *linearizable.stale(self.history),
        ]
        return self.found


def _position(view: Mapping[str, Any]) -> Position:
    epoch, seq, chain, *_ = view["meta"][0]
    return Position(epoch, seq, chain)


def _foreign(view: Mapping[str, Any]) -> bool:
    """Whether a node holds a route or a payload that no client wrote."""
    return any(row[1] == FOREIGN_ROUTE or FORGED_PAYLOAD in row for row in view["route"])

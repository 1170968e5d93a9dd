"""What happens to the servers of a simulated cluster: one command each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from typing import TYPE_CHECKING

from sim.checks.prefix import PrefixCheck
from sim.model_server import ModelServer
from sim.model_store import Store
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import DeleteRoute, Proposal

if TYPE_CHECKING:
    from sim.node import Node

FORGED = b"forged"
"""The first bytes of the op_id of an entry that no member wrote."""


class ServerFates(ABC):
    """The servers of a world, and the commands that are about them.

    Attributes:
        server: The server that the address of the log leads to now.
        old: Servers that were demoted and live on.
        past: What the server held, the newest last: a replica may have less of it.
        backup: What was copied last.
        replica: Where nodes read first; None without one.
    """

    server: ModelServer
    old: list[ModelServer]
    past: deque[Store]
    backup: Store | None
    replica: ModelServer | None
    nodes: list[Node]
    counts: Counter[str]
    prefix: PrefixCheck

    @abstractmethod
    def _life(self, store: Store | None) -> ModelServer:
        """Begin one life of a server."""

    def do_failover(self, lost: str, fate: str, *stay: str) -> None:
        """A replica that missed the newest writes is promoted; the old master may live on."""
        store = self.past[-1 - min(int(lost), len(self.past) - 1)] if self.past else Store()
        self._replace(self._life(store.copy()), is_dead=fate == "dead", stay=stay)
        self.counts["failovers"] += 1

    def do_empty(self) -> None:
        """The server restarts without its data."""
        self._replace(self._life(None), is_dead=True, stay=())
        self.counts["emptied"] += 1

    def do_flush(self) -> None:
        """Somebody deletes everything; the server's life goes on."""
        self.server.store = Store()
        self.counts["emptied"] += 1

    def do_restart(self) -> None:
        """The server restarts with its data."""
        self._replace(self._life(self.server.store.copy()), is_dead=True, stay=())
        self.counts["restarts"] += 1

    def do_keep(self) -> None:
        """A backup is made."""
        self.backup = self.server.store.copy()

    def do_restore(self) -> None:
        """The server restarts on its backup."""
        if self.backup is not None:
            self._replace(self._life(self.backup.copy()), is_dead=True, stay=())
            self.counts["restored"] += 1

    def do_split(self, *names: str) -> None:
        """Who owns the server shows some nodes another log from here on, as if it were this one.

        Not where a disk was lost: a majority may have held either order then, and an operator
        has to decide.
        """
        if self.counts["wiped"]:
            return
        self.prefix.is_one = False
        other = self._life(self.server.store.copy())
        other.replid = self.server.replid
        # What nodes signed he shows wherever it suits him.
        other.store.signed, other.store.votes = self.server.store.signed, self.server.store.votes
        self.old.append(other)
        for node in self.nodes:
            if node.name in names and node.server is self.server:
                node.server, node.inbox = other, []
        self.counts["splits"] += 1

    def do_replica(self, lag: str, lie: str = "") -> None:
        """A replica shows what the server held a while ago, as it was or not.

        ``forge`` adds an entry that no member wrote, ``swap`` exchanges the newest two, ``drop``
        leaves one out.
        """
        if not self.past:
            return
        replica = self._life(self.past[-1 - min(int(lag), len(self.past) - 1)].copy())
        self.replica = replica
        meta = replica.store.meta
        log = replica.store.logs.get(meta["epoch"], []) if meta is not None else []
        if lie == "drop" and len(log) > 2:
            del log[-2]
        elif lie == "forge":
            proposal = Proposal(FORGED + b"by replica", DeleteRoute("a"))
            replica.hijack_sealed(encode_proposal(proposal), proposal)
        elif lie == "swap" and meta is not None and len(log) > 2:
            newest = [log.pop(), log.pop()]
            meta |= {"seq": log[-1].seq, "chain": log[-1].chain}
            for entry in newest:
                replica.hijack(entry.frame, entry.proposal, entry.stood, entry.seal)
        self.counts["replicas"] += 1

    def do_tear(self, seq: str) -> None:
        """An entry is deleted from the stream by hand."""
        meta = self.server.store.meta
        if meta is not None:
            log = self.server.store.logs.get(meta["epoch"], [])
            self.server.store.logs[meta["epoch"]] = [e for e in log if e.seq != int(seq)]

    def do_bury(self) -> None:
        """The oldest demoted master goes at last."""
        if self.old:
            self.old.pop(0).is_alive = False

    def do_trim(self, back: str) -> None:
        """The coordinator drops what lies so many entries behind the head."""
        meta = self.server.store.meta
        if meta is not None and self.server.trim(meta["seq"] - int(back)):
            self.counts["trims"] += 1

    def _replace(self, server: ModelServer, *, is_dead: bool, stay: tuple[str, ...]) -> None:
        before, self.server = self.server, server
        if is_dead:
            before.is_alive = False
        else:
            self.old.append(before)
        for node in self.nodes:
            if node.server is before and (is_dead or node.name not in stay):
                node.server, node.inbox = server, []
        self.past.append(server.store.copy())

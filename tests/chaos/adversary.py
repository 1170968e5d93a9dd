"""A hostile client of Redis during a run: the documented rights, and no secret.

It forges entries, repeats genuine ones, reorders and replaces what is there, claims trims, names
an address of its own as a node, gives orders and votes, and writes junk.  What it wrote is kept,
so that the judge can look for it on every node.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis

from forger import Forger
from repository import ROOT
from servers import Server
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import Audit, DeleteRoute, ImportBegin, Proposal, PutRoute

PASSWORD = "forger"
PAUSE_SECONDS = (0.05, 0.6)
KEPT_BODIES_MAX = 64
TRAP_BYTES_MAX = 1 << 20


class Trap:
    """A listener whose address the adversary spreads; it keeps what it receives."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="trap", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, suppress(OSError):
                    client.settimeout(1.0)
                    self.received += client.recv(65_536)
                    del self.received[:-TRAP_BYTES_MAX]
                    client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):  # ``close`` alone does not wake the thread
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@dataclass
class Adversary:
    """What it does, drawn from a generator.

    Attributes:
        draw: Decides what comes next.
        secret: The cluster secret, which must never reach the trap.
        op_ids: Identities of the entries that it wrote.
        counts: What it did, by name.
    """

    draw: random.Random
    secret: str
    op_ids: set[bytes] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    trap: Trap = field(default_factory=Trap)
    _bodies: list[bytes] = field(default_factory=list)

    def attack(self, server: Server, seconds: float) -> None:
        """Attack a server for a while."""
        _grant(server)
        url = f"redis://{PASSWORD}:{PASSWORD}@127.0.0.1:{server.port}/0"
        until = time.monotonic() + seconds
        forger = Forger(url)
        try:
            while time.monotonic() < until:
                name = self.draw.choice(sorted(self._attacks))
                try:
                    self._attacks[name](forger)
                    self.counts[name] += 1
                except (redis.RedisError, KeyError, ValueError, IndexError):
                    self.counts["refused"] += 1
                time.sleep(self.draw.uniform(*PAUSE_SECONDS))
        finally:
            forger.close()

    @property
    def _attacks(self) -> dict[str, Callable[[Forger], None]]:
        return {
            "forge": self._forge,
            "replay": self._replay,
            "announce": lambda forger: forger.announce(DeleteRoute("r1")),
            "claim a trim": lambda forger: forger.claim_trimmed(),
            "rewrite": lambda forger: forger.rewrite(),
            "omit": self._omit,
            "name a node": self._name_a_node,
            "order": self._order,
            "vote": self._vote,
            "junk": self._junk,
        }

    def _forge(self, forger: Forger) -> None:
        op_id = os.urandom(16)
        self.op_ids.add(op_id)
        mutation = self.draw.choice(
            [
                DeleteRoute(f"r{self.draw.randrange(12)}"),
                PutRoute("forged", ("forged",), (bytes(256),)),
                ImportBegin("forged", replace=True),
                Audit("forged"),
            ]
        )
        frame = encode_proposal(Proposal(op_id, mutation))
        forger.append(frame, frame)

    def _replay(self, forger: Forger) -> None:
        """Keep genuine entries and append old ones, out of their order."""
        self._bodies += forger.bodies()[-4:]
        del self._bodies[:-KEPT_BODIES_MAX]
        for body in self.draw.sample(self._bodies, k=min(2, len(self._bodies))):
            forger.replay(body)

    def _omit(self, forger: Forger) -> None:
        meta = forger.meta()
        key = forger.keys.log(int(meta["epoch"]))
        forger.redis.xtrim(key, maxlen=self.draw.randrange(3))

    def _name_a_node(self, forger: Forger) -> None:
        rows = forger.redis.hgetall(forger.keys.nodes)
        node, row = self.draw.choice(sorted(rows.items()))
        document = json.loads(row) | {"url": self.trap.url}
        name = self.draw.choice([node, b"f" * 32])
        document |= {"node_id": name.decode()}
        forger.redis.hset(forger.keys.nodes, name, json.dumps(document))
        forger.redis.zadd(forger.keys.heartbeats, {name: time.time() * 1_000 + 60_000})

    def _order(self, forger: Forger) -> None:
        kind = self.draw.choice(["resync", "mend", "drop", "switch", "scrub"])
        command = {"order_id": "f", "kind": kind, "reason": "forged", "donors": [], "encoder": ""}
        command["given_ms"] = int(time.time() * 1_000)
        for node in forger.redis.hgetall(forger.keys.nodes):
            forger.redis.hset(forger.keys.node_commands, node, json.dumps(command))

    def _vote(self, forger: Forger) -> None:
        meta = forger.meta()
        epoch = int(meta["epoch"])
        for voter in meta["voters"].split(","):
            forger.redis.zadd(forger.keys.positions(epoch), {voter: int(meta["seq"]) + 100})
            report = f"{meta.get('rec_id', '')}|{epoch}|{int(meta['seq']) + 5}|{'a' * 40}|{voter}"
            forger.redis.hset(forger.keys.reports, voter, report)
        if self.draw.random() < 0.3:
            forger.redis.hset(forger.keys.meta, "voters", "f" * 32)

    def _junk(self, forger: Forger) -> None:
        name = self.draw.choice(["seq", "epoch", "chain", "floor", "bytes", "voters", "level"])
        forger.redis.hset(forger.keys.meta, name, self.draw.choice(["abc", "-1", "", "9" * 40]))

    def leaks(self) -> list[str]:
        """What reached the trap and must not have."""
        received = bytes(self.trap.received)
        found = []
        if self.secret.encode() in received:
            found.append("the trap received the cluster secret")
        if re.search(rb"(?i)authorization: *bearer", received):
            found.append("the trap received an API key")
        return found


def _grant(server: Server) -> None:
    """Make a user with the documented rights, and no others."""
    text = (ROOT / "deploy" / "redis" / "users.acl.example").read_text()
    line = next(each for each in text.splitlines() if each.startswith("user synaptoroute"))
    rules = line.replace("NAMESPACE", "default").split()[2:]
    rules = [f">{PASSWORD}" if rule.startswith(">") else rule for rule in rules]
    server.call("ACL", "SETUSER", PASSWORD, "reset", *rules)


def secret_file(folder: Path, secret: str) -> Path:
    """Write a file with the cluster secret."""
    path = folder / "cluster.keys"
    path.write_text(f"k1 {secret}\n")
    path.chmod(0o600)
    return path

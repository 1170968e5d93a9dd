"""What befalls a cluster: faults of its Redis and of its nodes, one call each.

Each fault ends healed as far as an operator or an orchestrator would heal it: processes run
again, links are whole.  Getting well is the cluster's own work.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import redis

from chaos.adversary import Adversary
from chaos.clients import Clients
from chaos.lying_peer import LyingPeer
from fault_proxy import Fault
from needs import require, require_valkey
from node_cluster import Cluster, Member, until
from servers import Server

PERSISTENCE: dict[str, dict[str, str]] = {
    "aof-always": {"appendonly": "yes", "appendfsync": "always"},
    "aof-everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "rdb": {"save": "1 1"},
    "none": {},
}
KEYS = ("meta", "log", "pos", "nodes", "hb")
FROZEN_SECONDS = 6.0


def make_server(kind: str, folder: Path, persistence: str) -> Server:
    """A server that is not started yet."""
    binary = require("redis-server") if kind == "redis" else require_valkey()
    quick = {"repl-diskless-sync-delay": "0", "repl-diskless-sync": "yes"}
    return Server(kind, binary, folder, {**PERSISTENCE[persistence], **quick})


@dataclass
class Storm:
    """The faults.

    Attributes:
        cluster: Whom they befall.
        clients: Whom they are kept from blaming the nodes for.
        draw: What happens next.
        folder: Where servers live.
        adversary: Who attacks Redis; None in a cluster without a secret.
        liar: Who answers in the place of a node, and lies; None likewise.
        hands: Threads that live as long as the storm: a node ends with whoever started it.
    """

    cluster: Cluster
    clients: Clients
    draw: random.Random
    folder: Path
    servers: list[Server] = field(default_factory=list)
    adversary: Adversary | None = None
    liar: LyingPeer | None = None
    hands: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))
    _kept: Path | None = None

    @property
    def server_faults(self) -> dict[str, Callable[[], None]]:
        """What may befall Redis."""
        return {
            "kill": self.kill,
            "stop": self.stop,
            "wipe": self.wipe,
            "flush": self.flush,
            "lost key": self.lose_key,
            "lossy promotion": self.promote,
            "split brain": lambda: self.promote(stay_seconds=3.0),
            "old dump": self.restore,
            "out of memory": self.run_out_of_memory,
            "everything restarts": self.restart_everything,
            **({} if self.adversary is None else {"adversary": self.attack}),
            **({} if self.liar is None else {"lying peer": self.lie, "two orders": self.split}),
        }

    @property
    def node_faults(self) -> dict[str, Callable[[], None]]:
        """What may befall a node."""
        return {
            "node killed": self.kill_node,
            "node frozen": self.freeze_node,
            "node cut off": lambda: self.cut_node(Fault.BLACK_HOLE),
            "answers lost": lambda: self.cut_node(Fault.TO_SERVER_ONLY),
            "disk full": self.fill_disk,
            "database corrupt": self.corrupt,
        }

    @property
    def server(self) -> Server:
        """The server that the nodes are led to."""
        return self.cluster.server

    def close(self) -> None:
        """End every server, and the threads."""
        self.hands.shutdown()
        for server in self.servers:
            server.stop()

    def new_server(self, kind: str) -> Server:
        """Start one more server, with some way of keeping its data."""
        name = f"{kind}{len(self.servers)}"
        made = make_server(kind, self.folder / name, self.draw.choice(list(PERSISTENCE)))
        self.servers.append(made)
        return made.start()

    # --- Redis ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """It crashes and is started again with what it kept."""
        self.server.kill()
        time.sleep(self.draw.uniform(0.0, 1.5))
        self.server.start()

    def attack(self) -> None:
        """Somebody who can write to Redis, and has no secret, does what he can."""
        assert self.adversary is not None
        self.adversary.attack(self.server, self.draw.uniform(4.0, 10.0))

    def lie(self) -> None:
        """A process with the address of a voter lies to a node that has to catch up, and in Redis.

        The voter is down meanwhile, and the node finds a log that was trimmed.
        """
        assert self.liar is not None
        liar, voter = self.liar, self.draw.choice(self.cluster.members[:3])
        behind = self.cluster.members[3]
        with self._down(voter), self._down(behind):
            liar.take_database(voter.database)
            voter.kill()
            behind.kill()
            with liar.at(voter.process.port):
                liar.order("lie", str(self.server.port))
                time.sleep(self.draw.uniform(1.0, 3.0))
                with suppress(AssertionError):  # nothing to trim
                    self.cluster.trim()
                behind.start()
                time.sleep(self.draw.uniform(2.0, 4.0))
                liar.order("lie", "0")
            behind.wait_ready()
            voter.start().wait_ready()
        liar.order("lie", str(self.server.port))
        time.sleep(2.0)
        liar.order("rest")

    def split(self) -> None:
        """Whoever controls Redis shows one node another order of entries, and forces a recovery."""
        shown = self.new_server(self.server.kind)
        copy_log(self.server, shown)
        node = self._node()
        epoch = max(member.version.epoch for member in self.cluster.members)
        self.clients.promotions.ambiguous_epochs.add(epoch)
        self._lead(shown, [node])
        time.sleep(self.draw.uniform(1.0, 3.0))
        self._lead(self.server, [node])
        self.server.call("HSET", "sr:{default}:meta", "replid", "0" * 40)

    def stop(self) -> None:
        """It is stopped and started again."""
        self.server.stop()
        self.server.start()

    def wipe(self) -> None:
        """It comes back without its data."""
        self.server.kill()
        self._empty_folder()
        self.server.start()

    def _empty_folder(self) -> None:
        for path in self.server.folder.iterdir():
            if path.name != "server.log":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def flush(self) -> None:
        """Somebody deletes everything."""
        self.server.call("FLUSHALL")

    def lose_key(self) -> None:
        """One key is gone."""
        key = self.draw.choice(KEYS)
        epoch = self.server.call("HGET", "sr:{default}:meta", "epoch").split("\r\n")[-2]
        self.server.call("DEL", f"sr:{{default}}:{key}" + (f":{epoch}" if key in KEYS[1:3] else ""))

    def keep(self) -> None:
        """Copy the server's folder as a backup does that sees one moment."""
        kept = self.folder / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        self.server.pause()
        try:
            shutil.copytree(self.server.folder, kept)
        finally:
            self.server.resume()
        self._kept = kept

    def restore(self) -> None:
        """It comes back on an older copy of its folder."""
        self.keep()
        time.sleep(self.draw.uniform(1.0, 2.0))
        self.server.kill()
        self._empty_folder()
        assert self._kept is not None
        shutil.copytree(self._kept, self.server.folder, dirs_exist_ok=True)
        self.server.start()

    def promote(self, stay_seconds: float = 0.0) -> None:
        """A replica that missed the newest writes takes over; the old master may live on."""
        old, cluster = self.server, self.cluster
        new = self.new_server(old.kind)
        link = cluster.network.proxy(old.port)
        new.call("REPLICAOF", "127.0.0.1", str(link.port))
        until(lambda: "master_link_status:up" in new.call("INFO", "replication"))
        time.sleep(0.5)
        cluster.network.set_fault(link, Fault.BLACK_HOLE)
        time.sleep(self.draw.uniform(0.3, 1.5))
        new.call("REPLICAOF", "NO", "ONE")
        stays = self.draw.choice(cluster.members) if stay_seconds else None
        self._lead(new, [member for member in cluster.members if member is not stays])
        cluster.server = new
        if stays is not None:
            time.sleep(stay_seconds)
            self._lead(new, [stays])
        old.kill()

    def _lead(self, server: Server, members: list[Member]) -> None:
        """Send nodes to another server, as an address that fails over does."""
        for member in members:
            assert member.proxy is not None
            member.proxy.target_port = server.port
            self.cluster.network.set_fault(member.proxy, Fault.NONE, reset=True)

    def run_out_of_memory(self) -> None:
        """It takes no writes for a while."""
        self.server.call("CONFIG", "SET", "maxmemory", "100kb")
        time.sleep(2.0)
        self.server.call("CONFIG", "SET", "maxmemory", "0")

    def restart_everything(self) -> None:
        """A rolling restart of the nodes, and of Redis in the midst of it."""
        for number, member in enumerate(list(self.cluster.members)):
            with self._down(member):
                member.process.stop(20)
                if number == 1:
                    self.server.stop()
                    self.server.start()
                member.start().wait_ready()

    # --- nodes -----------------------------------------------------------------------------------

    def _node(self) -> Member:
        return self.draw.choice(self.cluster.members)

    @contextmanager
    def _down(self, member: Member) -> Iterator[None]:
        """Blame this node for nothing meanwhile."""
        self.clients.down(member.name)
        try:
            yield
        finally:
            self.clients.up(member.name)

    def kill_node(self) -> None:
        """A process dies and is started again."""
        member = self._node()
        with self._down(member):
            member.kill()
            time.sleep(self.draw.uniform(0.0, 3.0))
            member.start().wait_ready()

    def freeze_node(self) -> None:
        """A process stands still for longer than it counts as live."""
        member = self._node()
        with self._down(member):
            member.signal(signal.SIGSTOP)
            time.sleep(FROZEN_SECONDS)
            member.signal(signal.SIGCONT)
            until(member.is_ready)

    def cut_node(self, fault: Fault) -> None:
        """A node loses Redis, both ways or one; its answers must go on."""
        number = self.draw.randrange(len(self.cluster.members))
        self.cluster.cut(number, fault)
        time.sleep(self.draw.uniform(1.0, 5.0))
        self.cluster.cut(number, Fault.NONE, reset=self.draw.random() < 0.5)

    def fill_disk(self) -> None:
        """A node's disk takes nothing more for a while; its answers must go on."""
        pid = self._node().process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4_096, hard))
        time.sleep(3.0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def corrupt(self) -> None:
        """A database is damaged: the node comes back as another one, and takes over its vote."""
        member = self._node()
        with self._down(member):
            before = member.http.get("/v1/cluster").json()["nodes"]
            old = next(each for each in before if each["url"] == member.process.url)
            member.kill()
            _damage(member.database)
            member.start().wait_ready()
            new = until(lambda: self._identity(member, old["node"]))
        if old["role"] == "voter":
            self._vote(new, is_adding=True)
            self._vote(old["node"], is_adding=False)

    def _identity(self, member: Member, old: str) -> str | None:
        for each in member.http.get("/v1/cluster").json()["nodes"]:
            if each["url"] == member.process.url and each["is_live"] and each["node"] != old:
                return str(each["node"])
        return None

    def _vote(self, node: str, *, is_adding: bool) -> None:
        """Change the voters as an operator does: until it is done."""

        def change() -> bool:
            member = self._node()
            try:
                answer = member.http.post(
                    "/v1/cluster/voters", json={"node": node, "vote": is_adding}
                )
            except httpx.TransportError:
                return False
            return answer.status_code == 200

        until(change)


def copy_log(source: Server, target: Server) -> None:
    """Copy every key, and make the copy say that its log was opened on its own server."""
    there, here = redis.Redis.from_url(source.url), redis.Redis.from_url(target.url)
    with there, here:
        for key in there.keys("*"):
            if dump := there.dump(key):
                here.restore(key, max(0, there.pttl(key)), dump)
        here.hset("sr:{default}:meta", "replid", here.info("replication")["master_replid"])


def _damage(path: Path) -> None:
    """Overwrite a part of each page but the first."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        for offset in range(4_096, path.stat().st_size, 4_096):
            file.seek(offset + 100)
            file.write(b"\xff" * 200)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

"""A cluster of real node processes for tests, each behind a network that can be broken.

Everything is synchronous: clients are plain HTTP clients, and the proxies live on a loop in
a thread of their own.  A node that is started again on its folder is the same node.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

import preloaded
from checkers import History, Version, Write, dump_of, op_log_of, violations
from fault_proxy import Fault, FaultProxy, Network
from ports import free_port
from servers import Server
from synaptoroute.cli.processes import NodeProcess
from synaptoroute.cluster import RedisLog
from synaptoroute.sequencer.epochs import Trimmed, TrimOutcome
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.scripts import Head
from tls_files import TestTls

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02
REQUEST_SECONDS = 20.0
ResultT = TypeVar("ResultT")


@dataclass
class Member:
    """One node of a cluster.

    Attributes:
        name: Its name, also of its database.
        process: Its process.
        database: Its file.
        http: A client of it.
        proxy: What stands between it and Redis, if anything.
    """

    name: str
    process: NodeProcess
    database: Path
    http: httpx.Client
    proxy: FaultProxy | None = None

    def start(self) -> Member:
        """Start the process; ``wait_ready`` waits until it is ready."""
        self.process.start()
        return self

    def wait_ready(self) -> Member:
        """Wait until it takes queries."""
        self.process.wait_ready(60)
        return self

    def signal(self, number: int) -> None:
        """Send a signal; a process that is to stop has stopped afterwards."""
        os.kill(self.process.pid, number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        """Kill it as a crash does."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def state(self) -> dict[str, Any]:
        """Return its state as it reports it."""
        found: dict[str, Any] = self.http.get("/-/state").json()["router"]
        return found

    @property
    def follower(self) -> dict[str, Any]:
        """How it follows the log."""
        found: dict[str, Any] = self.state()["follower"]
        return found

    @property
    def log_state(self) -> str:
        """State of the log as the node reports it."""
        return str(self.follower["log_state"])

    @property
    def version(self) -> Version:
        """Its visible version."""
        return Version.of(self.state()["version"])

    def is_ready(self) -> bool:
        """Return whether it reports that it is ready."""
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


@dataclass
class Cluster:
    """Nodes, their Redis, and what clients saw.

    Attributes:
        folder: Where everything lies.
        server: Their Redis or Valkey.
        network: The proxies.
        settings: Further settings of every node.
        namespace: Name of the log.
        tls: Certificates of all nodes; None for plain HTTP.
        api_key: Key that clients send; empty for none.
    """

    folder: Path
    server: Server
    network: Network
    settings: dict[str, str] = field(default_factory=dict)
    namespace: str = "default"
    tls: TestTls | None = None
    api_key: str = ""
    members: list[Member] = field(default_factory=list)
    history: History = field(default_factory=History)
    _made: int = 0

    def __getitem__(self, index: int) -> Member:
        return self.members[index]

    @property
    def headers(self) -> dict[str, str]:
        """What clients send with each request."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def running(self) -> list[Member]:
        """The members whose processes live."""
        return [member for member in self.members if member.process.is_running]

    def add(self, expect: int, **settings: str) -> Member:
        """Make one more member; it is not started."""
        name = f"n{self._made}"
        self._made += 1
        port = free_port()
        proxy = self.network.proxy(self.server.port)
        context = None if self.tls is None else self.tls.client(with_certificate=True)
        scheme = "http" if self.tls is None else "https"
        process = NodeProcess(
            port=port,
            settings={
                # A fit is an entry that comes by itself: most tests expect their own alone.
                "fit_confidence": "false",
                "model": "test-hash-64",
                "database": str(self.folder / f"{name}.sqlite"),
                "node_name": name,
                "redis_url": proxy.url,
                "namespace": self.namespace,
                "bootstrap_expect": str(expect),
                "advertise_url": f"{scheme}://127.0.0.1:{port}",
                **({} if self.tls is None else self.tls.settings()),
                "lanes": "1",
                "log_format": "json",
                **self.settings,
                **settings,
            },
            log_file=self.folder / f"{name}.log",
            tls=context,
            launch=preloaded.start,
        )
        client = httpx.Client(
            base_url=process.url,
            headers=self.headers,
            timeout=REQUEST_SECONDS,
            trust_env=False,
            verify=context or True,
        )
        member = Member(name, process, Path(process.settings["database"]), client, proxy)
        self.members.append(member)
        return member

    def start(self, count: int = 3) -> Cluster:
        """Start nodes together and wait for all of them."""
        for member in [self.add(count) for _ in range(count)]:
            member.start()
        for member in self.members:
            member.wait_ready()
        for member in self.members:
            until(lambda member=member: member.log_state == "open")
        return self

    def dismiss(self, member: Member) -> None:
        """Stop a member and remove it."""
        self.members.remove(member)
        if member.process.is_running:
            with suppress(ProcessLookupError):
                member.signal(signal.SIGCONT)
                member.kill()
        member.http.close()

    def close(self) -> None:
        """Stop every process and connection."""
        for member in list(self.members):
            self.dismiss(member)

    # --- clients -------------------------------------------------------------------------

    def put(self, node: int, route: str, *utterances: str, key: str = "", **options: Any) -> Write:
        """Put a route through a node."""
        body = {"utterances": list(utterances) or [f"{route} one", f"{route} two"]}
        return self.write(node, "PUT", f"/v1/routes/{route}", body, key=key, **options)

    def write(
        self,
        node: int,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        key: str = "",
        if_match: str = "",
        client: str = "",
    ) -> Write:
        """Write through a node and note what came of it; an answer that is lost is noted too."""
        op_id = key or uuid.uuid4().hex
        headers = {"Idempotency-Key": op_id}
        if if_match:
            headers["If-Match"] = f'"{if_match}"'
        began = time.monotonic()
        status, outcome, at = 0, "no_answer", None
        try:
            answer = self.members[node].http.request(method, path, json=body, headers=headers)
            document = answer.json()
            status = answer.status_code
            outcome = document.get("status") if answer.is_success else document["code"]
            at = Version.of(document["version"]) if document.get("version") else None
        except httpx.TransportError:
            pass
        return self.history.wrote(
            Write(
                op_id=op_id,
                began=began,
                ended=time.monotonic(),
                status=status,
                outcome=str(outcome),
                at=at,
                route=path.split("?")[0].split("/")[3] if path.startswith("/v1/routes/") else "",
                if_match=Version.of(if_match) if if_match else None,
                client=client,
            )
        )

    @contextmanager
    def writers(self, count: int = 3, routes: int = 12, pause: float = 0.01) -> Iterator[History]:
        """Clients that put and delete routes through any node while the block runs."""
        ended = threading.Event()

        def run(number: int) -> None:
            draw = random.Random(number)
            while not ended.wait(pause):
                node = draw.randrange(len(self.members))
                route = f"r{draw.randrange(routes)}"
                if draw.random() < 0.2:
                    self.write(node, "DELETE", f"/v1/routes/{route}", None)
                else:
                    self.put(node, route, f"{route} {draw.random()}", f"{route} {number}")

        threads = [threading.Thread(target=run, args=(n,), name=f"w{n}") for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield self.history
        finally:
            ended.set()
            for thread in threads:
                thread.join(REQUEST_SECONDS * 2)

    @contextmanager
    def queries(self, *nodes: int) -> Iterator[list[str]]:
        """A client of each node that queries all the time; gives what failed."""
        ended, failed = threading.Event(), self.history.failed_queries
        failed.clear()

        def run(node: int) -> None:
            while not ended.wait(0.02):
                try:
                    answer = self.members[node].http.post("/v1/query", json={"text": "r1 one"})
                    if answer.status_code != 200:
                        failed.append(f"n{node}: {answer.status_code} {answer.text[:200]}")
                except httpx.TransportError as error:
                    failed.append(f"n{node}: {error!r}")

        threads = [threading.Thread(target=run, args=(n,), name=f"q{n}") for n in nodes]
        for thread in threads:
            thread.start()
        try:
            yield failed
        finally:
            ended.set()
            for thread in threads:
                thread.join(REQUEST_SECONDS * 2)

    # --- faults --------------------------------------------------------------------------

    def cut(self, node: int, fault: Fault, *, reset: bool = False) -> None:
        """Break the network between a node and Redis."""
        proxy = self.members[node].proxy
        assert proxy is not None
        self.network.set_fault(proxy, fault, reset=reset)

    def heal(self, node: int) -> None:
        """Mend it."""
        self.cut(node, Fault.NONE)

    def mend(self) -> None:
        """Undo what a test broke and its failure left: the network, frozen nodes and Redis."""
        self.server.resume()
        for node, member in enumerate(self.members):
            if member.process.is_running:
                member.signal(signal.SIGCONT)
            self.heal(node)
            if member.proxy is not None:
                member.proxy.delay_seconds = 0.0
                member.proxy.last_request = b""
        for member in self.running:
            until(lambda member=member: member.log_state == "open")

    def trim(self) -> Trimmed:
        """Trim the log to its newest entry."""

        async def act() -> Trimmed:
            log = RedisLog(self.server.url, namespace=self.namespace)
            try:
                lease = log.lease("trim", "test")
                held = await lease.acquire()
                assert isinstance(held, Held)
                head: Any = await log.head()
                trimmed = await log.epochs.trim(held, head.epoch, head.seq)
                await lease.release(held)
                assert isinstance(trimmed, Trimmed)
                assert TrimOutcome.TRIMMED is trimmed.outcome
                return trimmed
            finally:
                await log.close()

        return asyncio.run(act())

    def head(self) -> Head:
        """Header of the log, read from Redis."""

        async def read() -> Head:
            log = RedisLog(self.server.url, namespace=self.namespace)
            try:
                head = await log.head()
                assert isinstance(head, Head)
                return head
            finally:
                await log.close()

        return asyncio.run(read())

    # --- judgement -----------------------------------------------------------------------

    def settle(self, members: Sequence[Member] | None = None) -> Version:
        """Wait until the nodes stand at one position."""
        members = members or self.running

        def is_one() -> Version | None:
            versions = {member.state()["version"] for member in members}
            return Version.of(versions.pop()) if len(versions) == 1 else None

        return until(is_one)

    def judge(self, members: Sequence[Member] | None = None) -> None:
        """Nothing acknowledged is missing or doubled, and all nodes are one to the bit."""
        members = members or self.running
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            self.settle(members)
            views = {each.name: self._view(each) for each in members}
            logs = {each.name: op_log_of(each.database) for each in members}
            # An epoch may be opened while the databases are read.
            after = {each.state()["version"] for each in members}
            if {view["version"] for view in views.values()} == after and len(after) == 1:
                break
            assert time.monotonic() < deadline, views
        found = violations(self.history, logs, views)
        assert [] == found, found

    @staticmethod
    def _view(member: Member) -> dict[str, object]:
        checksum = member.http.get("/-/digest").json()
        return {**checksum, **dump_of(member.database)}


StartCluster = Callable[..., Cluster]
"""Start a cluster that ends with the test: ``start_cluster("valkey", nodes=3)``."""


def until(fact: Callable[[], ResultT | None], seconds: float = WAIT_SECONDS) -> ResultT:
    """Wait until a function returns something true, and return it."""
    give_up_at = time.monotonic() + seconds
    while True:
        with suppress(httpx.TransportError, KeyError, TypeError):
            found = fact()
            if found:
                return found
        if time.monotonic() >= give_up_at:
            return _too_late(fact)
        time.sleep(POLL_SECONDS)


def _too_late(fact: Callable[[], ResultT | None]) -> ResultT:
    found = fact()
    assert found, "it did not come true in time"
    return found


@contextmanager
def cluster_on(
    folder: Path,
    server: Server,
    count: int = 3,
    *,
    namespace: str = "default",
    tls: TestTls | None = None,
    api_key: str = "",
    **settings: str,
) -> Iterator[Cluster]:
    """A cluster that has started, ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    network = Network()
    cluster = Cluster(folder, server, network, settings, namespace, tls, api_key)
    try:
        yield cluster.start(count) if count else cluster
    finally:
        cluster.close()
        network.close()

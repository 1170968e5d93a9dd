"""Clients of a cluster in trouble: they write and query all the time, and note what they saw.

A write waits for a quorum; one whose outcome stays unknown is sent again with its key, through
another node.  What was seen goes into the history that the simulation's checks read.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx

from chaos.promotions import Promotions
from node_cluster import Member
from sim.history import HeadRead, History, Op, Read
from synaptoroute.core.mutation import Revision

ROUTES = 12
REGISTERS = ("reg0", "reg1")
"""Routes that are only ever put; their only utterance names the write."""
TRIES_MAX = 4
PAUSE_SECONDS = 0.02
RETRY_SECONDS = 0.3
REQUEST_SECONDS = 15.0
HELD = frozenset({"quorum", "all"})
Job = Callable[[random.Random, httpx.Client], None]


def revision_of(text: str) -> Revision:
    """Read ``epoch.seq``."""
    epoch, _, seq = text.strip('"').partition(".")
    return Revision(int(epoch), int(seq))


@dataclass
class Clients:
    """Threads that use every node.

    Attributes:
        members: Asked anew at each request: nodes come and go.
        seed: Of what they ask.
        headers: What they send with each request.
        history: What they saw.
        failed: Queries that no fault of their own node explains.
        counts: Requests by what came of them.
    """

    members: Callable[[], list[Member]]
    seed: int
    headers: dict[str, str] = field(default_factory=dict)
    history: History = field(default_factory=History)
    failed: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    newest: str = ""
    _down: Counter[str] = field(default_factory=Counter)
    _gate: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, writers: int, queriers: int) -> None:
        """Begin."""
        self._gate.set()
        jobs: list[tuple[Job, int]] = [
            (self.promotions.promote, 1),
            (self.promotions.query, 2),
            (self._write, writers),
            (self._query, queriers),
            (self._write_register, 1),
            (self._read_register, 1),
        ]
        for job, count in jobs:
            for number in range(count):
                draw = random.Random(f"{self.seed} {job.__name__} {number}")
                thread = threading.Thread(target=self._repeat, args=(job, draw))
                self._threads.append(thread)
                thread.start()

    @cached_property
    def promotions(self) -> Promotions:
        """Clients of an alias whose drafts are promoted all the time."""
        return Promotions(self.members, self.history)

    def stop(self) -> None:
        """End every thread."""
        self._ended.set()
        self._gate.set()
        for thread in self._threads:
            thread.join(3 * REQUEST_SECONDS)

    def rest(self) -> None:
        """Let nobody ask until ``go``; what is under way is finished first."""
        self._gate.clear()
        while self._busy:
            time.sleep(PAUSE_SECONDS)

    def go(self) -> None:
        """Ask again."""
        self._gate.set()

    def down(self, name: str) -> None:
        """A fault hits this node: its answers are not asked for."""
        with self._lock:
            self._down[name] += 1

    def up(self, name: str) -> None:
        """It is well again."""
        with self._lock:
            self._down[name] -= 1

    def _repeat(self, job: Job, draw: random.Random) -> None:
        with httpx.Client(headers=self.headers, timeout=REQUEST_SECONDS, trust_env=False) as client:
            while not self._ended.is_set():
                self._gate.wait()
                with self._lock:
                    self._busy += 1
                try:
                    if self._gate.is_set() and not self._ended.is_set():
                        job(draw, client)
                finally:
                    with self._lock:
                        self._busy -= 1
                self._ended.wait(PAUSE_SECONDS)

    # --- writes ------------------------------------------------------------------------------

    def _write(self, draw: random.Random, client: httpx.Client) -> None:
        name, kind = f"r{draw.randrange(ROUTES)}", draw.choice(("put", "put", "put", "cas", "del"))
        key, if_match = f"{draw.getrandbits(128):032x}", ""
        if kind == "cas":
            if_match = self._revision(draw, client, name)
            kind = "cas" if if_match else "put"
        op = Op(bytes.fromhex(key), name, kind, b"", None, 0)
        op.began = time.monotonic()
        op.if_match = revision_of(if_match) if if_match else None
        with self._lock:
            self.history.ops[op.op_id] = op
        headers = {"Idempotency-Key": key} | ({"If-Match": f'"{if_match}"'} if if_match else {})
        body = {"utterances": [f"{name} {key[:8]}", f"{name} {key[8:16]}"]}
        for _ in range(TRIES_MAX):
            verdict = self._send(draw, client, op, kind, headers, body)
            self.counts[verdict] += 1
            if verdict != "unknown" or self._ended.wait(RETRY_SECONDS):
                return

    def _write_register(self, draw: random.Random, client: httpx.Client) -> None:
        name, key = draw.choice(REGISTERS), f"{draw.getrandbits(128):032x}"
        op = Op(bytes.fromhex(key), name, "put", b"", None, time.monotonic())
        with self._lock:
            self.history.ops[op.op_id] = op
        headers, body = {"Idempotency-Key": key}, {"utterances": [key]}
        for _ in range(TRIES_MAX):
            verdict = self._send(draw, client, op, "put", headers, body)
            if verdict != "unknown" or self._ended.wait(RETRY_SECONDS):
                return

    def _read_register(self, draw: random.Random, client: httpx.Client) -> None:
        """Read the newest state; only answers count, and a refusal is none."""
        member, name, began = draw.choice(self.members()), draw.choice(REGISTERS), time.monotonic()
        url = f"{member.process.url}/v1/routes/{name}?consistency=head"
        try:
            answer = client.get(url)
            document = answer.json()
        except (httpx.HTTPError, ValueError):
            return
        if answer.status_code == 200:
            value = bytes.fromhex(document["utterances"][0])
        elif document.get("code") == "route_not_found":
            value = b""
        else:
            self.counts["head_reads_refused"] += 1
            return
        read = HeadRead(member.name, name, began, time.monotonic(), value)
        with self._lock:
            self.history.head_reads.append(read)

    def _send(
        self,
        draw: random.Random,
        client: httpx.Client,
        op: Op,
        kind: str,
        headers: dict[str, str],
        body: dict[str, Any],
    ) -> str:
        """Send a write once; ``held``, ``rejected``, or ``unknown``."""
        member = draw.choice(self.members())
        url = f"{member.process.url}/v1/routes/{op.name}?ack=quorum&ack_timeout=5"
        try:
            if kind == "del":
                answer = client.delete(url, headers=headers)
            else:
                answer = client.put(url, json=body, headers=headers)
            document = answer.json()
        except (httpx.HTTPError, ValueError):
            return "unknown"
        if not answer.is_success:
            return "rejected" if answer.status_code in (404, 412) else "unknown"
        if document.get("ack") not in HELD or document["status"] == "pending":
            return "unknown"
        with self._lock:
            op.ended = time.monotonic()
            self.newest = document["version"]
        return "held"

    def _revision(self, draw: random.Random, client: httpx.Client, name: str) -> str:
        member = draw.choice(self.members())
        try:
            answer = client.get(f"{member.process.url}/v1/routes/{name}")
        except httpx.HTTPError:
            return ""
        return str(answer.headers.get("ETag", "")).strip('"') if answer.is_success else ""

    # --- queries -----------------------------------------------------------------------------

    def _query(self, draw: random.Random, client: httpx.Client) -> None:
        member = draw.choice(self.members())
        wanted = self.newest if draw.random() < 0.2 else ""
        headers = {"SR-Min-Version": wanted} if wanted else {}
        was_down = self._down[member.name]
        try:
            answer = client.post(
                f"{member.process.url}/v1/query", json={"text": "r1 one"}, headers=headers
            )
            trouble = "" if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            answer, trouble = None, repr(error)
        is_excused = was_down or self._down[member.name] or self._ended.is_set()
        if trouble and not is_excused and not (wanted and answer is not None):
            self.failed.append(f"{time.monotonic():.2f} {member.name}: {trouble}")
        self.counts["queries" if not trouble else "queries_unanswered"] += 1
        if wanted and answer is not None and answer.is_success:
            got = revision_of(answer.headers["SR-Version"])
            read = Read(member.name, revision_of(wanted), got, b"", is_seen=True)
            with self._lock:
                self.history.reads.append(read)

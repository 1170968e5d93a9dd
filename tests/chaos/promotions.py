"""A client that promotes drafts of a route set behind an alias, and clients that query the alias.

Every draft says in its route which one it is.  So an answer that mixes two sets, or comes from a
set that was replaced before the version that the client named, shows.

While whoever controls Redis shows two orders of entries, a version of that epoch may name two of
them (ADR 0043): an answer of such an epoch is not judged by the version that was named.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from node_cluster import Member
from sim.history import History, Op

ALIAS = "live"
FIRST = f"{ALIAS}@0"
ROUTE = "draft"
TEXT = "which draft answers"
SETS_KEPT = 4
TRIES_MAX = 6
RETRY_SECONDS = 0.3
HELD = frozenset({"quorum", "all"})


@dataclass
class Promotions:
    """Drafts that are forked, changed and promoted, one after the other.

    Attributes:
        members: The nodes of now.
        history: What clients saw; promotions are writes of it.
        found: Answers that no order of promotions explains.
        counts: What was done.
        ambiguous_epochs: Epochs in which somebody showed two orders of entries.
    """

    members: Callable[[], list[Member]]
    history: History
    found: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ambiguous_epochs: set[int] = field(default_factory=set)
    _made: deque[str] = field(default_factory=deque)
    _number: int = 0
    _held: tuple[int, str] = (0, "")  # The newest draft that a quorum holds, and its version
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def promote(self, draw: random.Random, client: httpx.Client) -> None:
        """Make the next draft, say in it which one it is, and point the alias at it."""
        number = self._number
        name, source = f"{ALIAS}@{number}", self._made[-1] if self._made else ""
        made = (
            self._send(draw, client, "POST", f"/v1/sets/{source}/fork", {"as": name})
            if source
            else self._send(draw, client, "PUT", f"/v1/sets/{name}", {})
        )
        self._number += 1  # a draft whose making is not known to have failed is not made again
        if made is None:
            return
        body: dict[str, Any] = {"utterances": [TEXT], "payload": {"draft": number}}
        if self._send(draw, client, "PUT", f"/v1/sets/{name}/routes/{ROUTE}", body) is None:
            return
        self._made.append(name)
        key = f"{draw.getrandbits(128):032x}"
        op = Op(bytes.fromhex(key), f"alias {ALIAS}", "put", b"", None, time.monotonic())
        with self._lock:
            self.history.ops[op.op_id] = op
        told = self._send(draw, client, "PUT", f"/v1/aliases/{ALIAS}", {"set": name}, key)
        if told is None:
            return
        self.counts["promotions"] += 1
        with self._lock:
            op.ended = time.monotonic()
            self._held = number, str(told["version"])
        while len(self._made) > SETS_KEPT:
            self._send(draw, client, "DELETE", f"/v1/sets/{self._made.popleft()}")

    def query(self, draw: random.Random, client: httpx.Client) -> None:
        """Query the alias; the set that answers and what it says must be one draft."""
        member, (held, version) = draw.choice(self.members()), self._held
        headers = {"SR-Min-Version": version} if version and draw.random() < 0.5 else {}
        try:
            answer = client.post(
                f"{member.process.url}/v1/sets/{ALIAS}/query", json={"text": TEXT}, headers=headers
            )
            document = answer.json()
        except (httpx.HTTPError, ValueError):
            return
        if not answer.is_success:
            self.counts["alias_refused"] += 1
            return
        self.counts["alias_queries"] += 1
        answered, payload = document["route_set"], document.get("payload")
        if payload is None or answered != f"{ALIAS}@{payload['draft']}":
            self.found.append(f"{member.name} answered {payload} from {answered}")
        elif headers and payload["draft"] < held and not self._is_ambiguous(version, answer):
            self.found.append(f"{member.name} answered {payload} after {held} at {version}")

    def _is_ambiguous(self, wanted: str, answer: httpx.Response) -> bool:
        """Whether the wanted version may name another entry where the node stands."""
        epochs = {wanted.partition(".")[0], answer.headers["SR-Version"].partition(".")[0]}
        return len(epochs) == 1 and int(epochs.pop()) in self.ambiguous_epochs

    def _send(
        self,
        draw: random.Random,
        client: httpx.Client,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        key: str = "",
    ) -> dict[str, Any] | None:
        """Send a change until a quorum holds it; its answer, or None if that stays unknown."""
        headers = {"Idempotency-Key": key or f"{draw.getrandbits(128):032x}"}
        for _ in range(TRIES_MAX):
            url = draw.choice(self.members()).process.url
            query = {"ack": "quorum", "ack_timeout": "5"}
            try:
                answer = client.request(
                    method, f"{url}{path}", params=query, json=body, headers=headers
                )
                document: dict[str, Any] = answer.json()
            except (httpx.HTTPError, ValueError):
                time.sleep(RETRY_SECONDS)
                continue
            is_held = answer.is_success and document.get("ack") in HELD
            if is_held and document.get("status") != "pending":
                return document
            if answer.status_code < 500 and not answer.is_success:
                self.counts[f"{method} {document.get('code')}"] += 1
                return None
            time.sleep(RETRY_SECONDS)
        return None

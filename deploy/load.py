#!/usr/bin/env python3
"""Requests at a steady pace through one door, and what went wrong with any of them.

Run: deploy/load.py http://127.0.0.1:8080 --rate 50 --seconds 120
Nine of ten are queries; the tenth is a write with an Idempotency-Key, to one of its own routes
(`load-...`).  Exits 1 if any request failed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from types import TracebackType

import httpx

WORKERS = 6
ANSWER_SECONDS_MAX = 30.0
_WRITE_EVERY = 10
_ROUTES = 20


@dataclass
class Load:
    """Sends queries, and every tenth time a write with an Idempotency-Key.

    Attributes:
        door: Where to.
        rate: Requests a second, all workers together.
        has_writes: Whether there are writes at all.
        api_key: Sent with every request; empty for none.
        failures: What went wrong, one text a request.
        writes: Versions of the writes that were acknowledged.
        seconds: How long each request took, failed ones too.
    """

    door: str
    rate: float = 50.0
    has_writes: bool = True
    api_key: str = ""
    failures: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [
            threading.Thread(target=self._work, args=(at,), name=f"load-{at}")
            for at in range(WORKERS)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, at: int) -> None:
        pause = WORKERS / self.rate
        due = time.monotonic() + pause * at / WORKERS
        count = at
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        with httpx.Client(
            base_url=self.door, timeout=ANSWER_SECONDS_MAX, headers=headers
        ) as client:
            while not self._end.wait(max(0.0, due - time.monotonic())):
                due = max(due + pause, time.monotonic())
                count += 1
                began = time.monotonic()
                try:
                    answer = self._send(client, at, count)
                    if not answer.is_success:
                        self.failures.append(f"{answer.request.url.path}: {answer.text[:200]}")
                    elif answer.request.method == "PUT":
                        self.writes.append(answer.headers["SR-Version"])
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                self.seconds.append(time.monotonic() - began)

    def _send(self, client: httpx.Client, at: int, count: int) -> httpx.Response:
        if self.has_writes and count % _WRITE_EVERY == 0:
            name = f"load-{at}-{count % _ROUTES}"
            document = {"name": name, "utterances": [f"load {at} {count % 100}"]}
            key = {"Idempotency-Key": str(uuid.uuid4())}
            return client.put(f"/v1/routes/{name}", json=document, headers=key)
        return client.post("/v1/query", json={"text": f"where is my order number {count % 500}"})


def main() -> int:
    """Run a load and say how it went."""
    parser = argparse.ArgumentParser(description="Send queries and writes at a steady pace.")
    parser.add_argument("door")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--read-only", action="store_true", help="send no writes")
    given = parser.parse_args()
    load = Load(given.door, given.rate, not given.read_only, given.api_key)
    with load:
        time.sleep(given.seconds)
    cuts = statistics.quantiles(load.seconds, n=100)
    sys.stdout.write(
        f"{len(load.seconds)} requests, {len(load.writes)} writes, {len(load.failures)} failures; "
        f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms, "
        f"longest {max(load.seconds) * 1000:.0f} ms\n"
    )
    sys.stdout.writelines(f"{each}\n" for each in load.failures[:20])
    return 1 if load.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

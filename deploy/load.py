#!/usr/bin/env python3
"""Send requests at a steady rate to one address, and report what failed.

Run: deploy/load.py http://127.0.0.1:8080 --rate 50 --seconds 120
Nine of ten requests are queries; the tenth is a write with an Idempotency-Key, to one of the
routes `load-...`.  Exits 1 if any request failed.

The rate follows a clock, not the answers.  A request that could not be sent in time is sent as
soon as possible, and its latency counts from when it was due (no coordinated omission).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from types import TracebackType

import httpx

WORKERS = 24
ANSWER_SECONDS_MAX = 30.0
FAILURES_SHOWN_MAX = 20
_WRITE_EVERY = 10
_ROUTES = 20


@dataclass
class Load:
    """Sends queries, and every tenth request a write with an Idempotency-Key.

    Attributes:
        url: Address of HAProxy or of a node.
        rate: Requests per second of all workers together.
        has_writes: Whether to send writes.
        api_key: API key of every request; empty for none.
        failures: One message per failed request.
        writes: Versions of the acknowledged writes.
        waits: Seconds from when each request was due to its answer, including failed ones.
        seconds: Duration of the load; 0 until it has ended.
    """

    url: str
    rate: float = 50.0
    has_writes: bool = True
    api_key: str = ""
    failures: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0
    _began: float = 0.0
    _turn: itertools.count[int] = field(default_factory=itertools.count)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._work, name=f"load-{at}") for at in range(WORKERS)
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
        self.seconds = time.monotonic() - self._began

    def figures(self) -> dict[str, object]:
        """Summarize the load; latencies count from when a request was due."""
        ranked = sorted(self.waits)

        def share(percent: int) -> float:
            return round(ranked[math.ceil(len(ranked) * percent / 100) - 1] * 1000, 1)

        return {
            "seconds": round(self.seconds, 1),
            "requests": len(ranked),
            "requests_per_second": round(len(ranked) / self.seconds, 1),
            "writes": len(self.writes),
            "failures": len(self.failures),
            "p50_ms": share(50),
            "p99_ms": share(99),
            "max_ms": share(100),
        }

    def _work(self) -> None:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        with httpx.Client(base_url=self.url, timeout=ANSWER_SECONDS_MAX, headers=headers) as client:
            while True:
                count = next(self._turn)
                due = self._began + count / self.rate
                if self._end.wait(max(0.0, due - time.monotonic())):
                    return
                self._ask(client, count)
                self.waits.append(time.monotonic() - due)

    def _ask(self, client: httpx.Client, count: int) -> None:
        try:
            answer = self._send(client, count)
        except httpx.HTTPError as error:
            self.failures.append(f"{self._at()} {count}: {type(error).__name__}: {error}")
            return
        if not answer.is_success:
            path = answer.request.url.path
            self.failures.append(f"{self._at()} {count}: {path}: {answer.text[:300]}")
        elif answer.request.method == "PUT":
            self.writes.append(answer.headers["SR-Version"])

    def _at(self) -> str:
        """Format the seconds since the load began."""
        return f"after {time.monotonic() - self._began:.1f} s"

    def _send(self, client: httpx.Client, count: int) -> httpx.Response:
        if self.has_writes and count % _WRITE_EVERY == 0:
            name = f"load-{count // _WRITE_EVERY % _ROUTES}"
            document = {"name": name, "utterances": [f"what load number {count % 1000} says"]}
            key = {"Idempotency-Key": str(uuid.uuid4())}
            return client.put(f"/v1/routes/{name}", json=document, headers=key)
        return client.post("/v1/query", json={"text": f"where is my order number {count % 500}"})


def main() -> int:
    """Run a load and print its summary."""
    parser = argparse.ArgumentParser(description="Send queries and writes at a steady rate.")
    parser.add_argument("url", help="address of HAProxy or of a node")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--read-only", action="store_true", help="send no writes")
    given = parser.parse_args()
    load = Load(given.url, given.rate, not given.read_only, given.api_key)
    with load:
        time.sleep(given.seconds)
    sys.stdout.write(json.dumps(load.figures(), indent=1) + "\n")
    sys.stdout.writelines(f"{each}\n" for each in load.failures[:FAILURES_SHOWN_MAX])
    return 1 if load.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Promotes an alias on three nodes while clients query it at a fixed rate.

    python benchmarks/bench_promotion.py [--rate 500] [--seconds 15]

Three node processes with the bundled encoder on a private Redis, all on this machine.  Queries
are sent when they are due, whatever the answers do, each with the newest version that a promotion
returned as ``SR-Min-Version``.  Counts failures, and answers of another set than the alias named
at the version of the answer.  The latency is from the time at which a query was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from checkers import Version
from needs import require
from node_cluster import Cluster, cluster_on
from servers import Server

CLIENTS = 8
PROMOTION_SECONDS = 0.4
TEXTS = ("I want my money back", "where is my parcel", "a refund, please")
ROUTE_OF = {"v1": "old", "v2": "new"}


@dataclass
class Seen:
    """Answers that clients got, and the set that the alias named since each version."""

    changes: list[tuple[Version, str]] = field(default_factory=list)
    answers: list[tuple[Version, str, str]] = field(default_factory=list)
    failures: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def newest(self) -> Version:
        return self.changes[-1][0]

    def wrong(self) -> int:
        """Answers of another set than the alias named at their version."""
        places = [place for place, _ in self.changes]
        named = [self.changes[bisect_right(places, each[0]) - 1][1] for each in self.answers]
        return sum(
            (name, ROUTE_OF[name]) != each[1:]
            for name, each in zip(named, self.answers, strict=True)
        )


async def ask(url: str, seen: Seen, first: float, period: float, until: float) -> None:
    """Query the alias on one connection, each time when a query is due."""
    host, port = url.split("//")[1].rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    due, number = first, 0
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        newest = seen.newest
        body = json.dumps({"text": TEXTS[number % len(TEXTS)]}).encode()
        head = (
            "POST /v1/sets/support/query HTTP/1.1\r\nHost: node\r\n"
            f"Content-Type: application/json\r\nSR-Min-Version: {newest.epoch}.{newest.seq}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(line for line in lines if line.startswith(b"content-length"))
        found = json.loads(await reader.readexactly(int(length.split(b":")[1])))
        seen.seconds.append(time.monotonic() - due)
        if b" 200 " not in lines[0] or Version.of(found["version"]) < newest:
            seen.failures.append(found)
        else:
            seen.answers.append((Version.of(found["version"]), found["route_set"], found["route"]))
        number, due = number + 1, due + period
    writer.close()


async def promote(cluster: Cluster, seen: Seen, until: float) -> None:
    """Move the alias back and forth, through one node after the other."""
    while time.monotonic() < until - PROMOTION_SECONDS:
        await asyncio.sleep(PROMOTION_SECONDS)
        number = len(seen.changes)
        target = "v2" if number % 2 else "v1"
        http = cluster[number % len(cluster.members)].http
        body = {"set": target, "gate": {"min_tests": len(TEXTS)}}
        answer = await asyncio.to_thread(http.put, "/v1/aliases/support", json=body)
        answer.raise_for_status()
        seen.changes.append((Version.of(answer.json()["version"]), target))


def fill(cluster: Cluster) -> Version:
    """Make two sets with one route each, and an alias for the first one."""
    http = cluster[0].http
    for name, route in ROUTE_OF.items():
        base = f"/v1/sets/{name}"
        tests = [{"text": text, "route": route} for text in TEXTS]
        http.put(base).raise_for_status()
        http.put(f"{base}/routes/{route}", json={"utterances": TEXTS}).raise_for_status()
        http.put(f"{base}/tests", json={"tests": tests}).raise_for_status()
    made = http.put("/v1/aliases/support", json={"set": "v1"}, params={"ack": "all"})
    made.raise_for_status()
    return Version.of(made.json()["version"])


async def measure(cluster: Cluster, rate: float, seconds: float) -> dict[str, Any]:
    seen = Seen([(fill(cluster), "v1")])
    first = time.monotonic() + 0.5
    count = CLIENTS * len(cluster.members)
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            url = str(cluster[number % len(cluster.members)].http.base_url)
            begin = first + number / rate
            tasks.create_task(ask(url, seen, begin, count / rate, first + seconds))
        tasks.create_task(promote(cluster, seen, first + seconds))
    took = sorted(seen.seconds)
    return {
        "queries": len(took),
        "queries_per_second": round(len(took) / seconds),
        "promotions": len(seen.changes) - 1,
        "failed": len(seen.failures),
        "of_another_set": seen.wrong(),
        "p50_ms": round(took[len(took) // 2] * 1e3, 2),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1e3, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=500.0, help="queries a second, of all nodes")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server("redis", require("redis-server"), folder / "redis", {"appendonly": "yes"})
        server.start()
        try:
            with cluster_on(folder / "nodes", server) as cluster:
                print(json.dumps(asyncio.run(measure(cluster, options.rate, options.seconds))))
        finally:
            server.stop()


if __name__ == "__main__":
    main()

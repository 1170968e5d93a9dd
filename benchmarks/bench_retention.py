"""Measures whether the log stays under its byte limit while much more than that is written.

    python benchmarks/bench_retention.py [redis|valkey] [--small 1000000 --large 5000 --restarts 6]

Real: the server with an append-only file, its kills and restarts, the scripts, the client, the
appender and the retention of a node.  Simulated: three voters, which apply nothing and report the
head every 50 ms as durable, and the decision of a recovery, which keeps the server's own stream.
Prints one JSON line at the end; exits with 1 if a write was refused because the log was full, or
if the log was ever over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from bench_sequencer import binary_of
from redis_logs import Author, opened, report
from servers import Server
from synaptoroute.core.mutation import Ballot, DeleteRoute, PatchRoute, Proposal
from synaptoroute.core.recovery import Cause, Decision
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.sequencer.epochs import ClusterIdentity
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.retention import RetentionLimits
from synaptoroute.sequencer.scripts import Head

VOTERS = ("a", "b", "c")
CALL_ENTRIES = 128
LARGE_BYTES = 104_000
WRITERS = 4


@dataclass
class Tally:
    written: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kept_bytes_max: int = 0
    memory_bytes_max: int = 0
    epochs: int = 1


async def follow(log: RedisLog, author: Author, tally: Tally) -> None:
    """Three voters that hold the head, and the retention of the author's node."""
    turn = 0
    while True:
        with contextlib.suppress(SynaptoRouteError):
            head = await log.head()
            if isinstance(head, Head) and head.is_open:
                author.at = head.position
                tally.kept_bytes_max = max(tally.kept_bytes_max, head.kept_bytes)
                for voter in VOTERS:
                    await log.presence.report_position(voter, head.position)
                if turn % 20 == 0:
                    for voter in VOTERS:
                        await log.presence.heartbeat(report(voter, head.position))
                    await log.retention.keep(head)
                    text = (await log._commands.call("INFO", "memory")).decode()
                    used = next(x for x in text.split("\r\n") if x.startswith("used_memory:"))
                    tally.memory_bytes_max = max(
                        tally.memory_bytes_max, int(used.partition(":")[2])
                    )
        turn += 1
        await asyncio.sleep(0.05)


async def append(log: RedisLog, proposals: list[Proposal], tally: Tally) -> None:
    """Append, and repeat what a restart interrupted."""
    while True:
        try:
            await log.append(proposals)
        except SynaptoRouteError as error:
            tally.refused[str(error.fields.get("reason", error.code))] += 1
            await asyncio.sleep(0.1)
        else:
            tally.written += len(proposals)
            return


async def write(log: RedisLog, kind: str, numbers: range, tally: Tally) -> None:
    if kind == "large":
        payload = json.dumps("x" * LARGE_BYTES)
        for number in numbers:
            op_id = b"L" + number.to_bytes(15, "big")
            await append(log, [Proposal(op_id, PatchRoute("r", payload=payload))], tally)
        return
    for start in range(numbers.start, numbers.stop, CALL_ENTRIES):
        part = range(start, min(start + CALL_ENTRIES, numbers.stop))
        ids = (b"S" + number.to_bytes(15, "big") for number in part)
        await append(log, [Proposal(op_id, DeleteRoute("r")) for op_id in ids], tally)


async def reopen(log: RedisLog, author: Author) -> None:
    """Open the next epoch upon the server's own stream, by the scripts of a recovery."""
    head = await log.head()
    assert isinstance(head, Head)
    identity = ClusterIdentity("", "", 0, 1, VOTERS)
    ballot = await log.epochs.begin(
        Cause.RESTARTED, above=head.epoch, seen="", node_id="a", identity=identity
    )
    assert isinstance(ballot, Ballot)
    for voter in VOTERS:
        row = report(voter, author.at)
        await log.presence.heartbeat(row, promise=ballot, voters=VOTERS)
    lease = log.lease("recovery", "a")
    held = await lease.acquire()
    assert isinstance(held, Held)
    closed = await log.head()
    assert isinstance(closed, Head)
    await log.epochs.reopen(
        held,
        closed,
        Decision(closed.position, True, VOTERS, VOTERS, (), True, 0),
        encoder=(closed.fingerprint, closed.dim),
        floor=closed.seq + 1,
        floor_chain=closed.chain,
    )
    await lease.release(held)


async def restart(server: Server, log: RedisLog, author: Author, tally: Tally) -> None:
    """Kill the server, start it on its data, and let the voters open the next epoch."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    while True:
        try:
            await reopen(log, author)
        except SynaptoRouteError:
            await asyncio.sleep(0.1)
        else:
            tally.epochs += 1
            return


async def run(kind: str, folder: Path, small: int, large: int, restarts: int) -> Tally:
    options = {"appendonly": "yes", "appendfsync": "everysec"}
    server = Server(kind, binary_of(kind), folder, options).start()
    limits, tally = RetentionLimits(), Tally()
    try:
        async with opened(server.url, retention=limits) as log:
            author = Author(log)
            follower = asyncio.create_task(follow(log, author, tally))
            await asyncio.sleep(0.2)
            writers = [
                asyncio.create_task(write(log, name, range(at, total, 1), tally))
                for name, count in (("small", small), ("large", large))
                for at, total in parts(count)
            ]
            for number in range(restarts):
                wanted = (small + large) * (number + 1) // (restarts + 1)
                while tally.written < wanted:
                    await asyncio.sleep(0.1)
                await restart(server, log, author, tally)
            await asyncio.gather(*writers)
            follower.cancel()
    finally:
        server.stop()
    return tally


def parts(count: int) -> list[tuple[int, int]]:
    """Split a range among the writers."""
    return [(count * n // WRITERS, count * (n + 1) // WRITERS) for n in range(WRITERS)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", nargs="?", default="redis")
    parser.add_argument("--small", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=5_000)
    parser.add_argument("--restarts", type=int, default=6)
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(run(asked.kind, Path(folder), asked.small, asked.large, asked.restarts))
    limit = RetentionLimits().log_bytes_max
    is_good = not tally.refused["log_full"] and tally.kept_bytes_max <= limit
    print(
        json.dumps(
            {
                "what": "retention",
                "server": asked.kind,
                "written": tally.written,
                "epochs": tally.epochs,
                "seconds": round(time.monotonic() - begun),
                "kept_bytes_max": tally.kept_bytes_max,
                "log_bytes_max": limit,
                "server_memory_bytes_max": tally.memory_bytes_max,
                "refused_full": tally.refused["log_full"],
                "refused": dict(tally.refused),
                "is_good": is_good,
            }
        ),
        flush=True,
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

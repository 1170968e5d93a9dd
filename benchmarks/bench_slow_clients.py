"""Measures what idle and malicious connections of one address cost another client.

A process at 127.0.0.2 tries to hold 8,000 connections: silent ones, heads and bodies that
arrive byte by byte, stray bytes after a response, responses that nobody reads, and bytes that
are no request.  What the node closes is opened again, at a bounded rate.  A client at
127.0.0.1 asks queries meanwhile.  Rounds with and without the attack alternate; the ratio of
the client's p99 is what counts, and its goal is at most 1.5.

    python benchmarks/bench_slow_clients.py --data FOLDER [--quick]
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvloop

from bench_http import closed_loop, node, put_routes
from harness import Bench, Options, ratio, read_options, rounds, spread
from route_texts import read_corpus

HELD: Final = 8_000
OPENED_PER_SECOND: Final = 300
TICK_SECONDS: Final = 0.02
ATTACKER: Final = "127.0.0.2"
CLIENTS: Final = 2
SEED: Final = 0
SETTLE_SECONDS: Final = 12.0  # the silent ones are let in and closed at their own time
P99_RATIO_MAX: Final = 1.5

_GET: Final = b"GET /livez HTTP/1.1\r\nHost: n\r\n\r\n"
_POST: Final = b"POST /v1/query HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\n"
_BODY: Final = _POST + b"Content-Length: 1000\r\n\r\n"
_CHUNKED: Final = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
# What a connection sends at once, and then byte by byte.
KINDS: Final = (
    (b"", b""),
    (b"", _GET[:-2] + b"X-A: " + b"a" * 100),
    (_GET, b""),
    (_GET, b"\r\n"),
    (_GET, b"G"),
    (_BODY, b" " * 900),
    (_CHUNKED, b"1\r\n \r\n" * 100),
    (_GET.replace(b"livez", b"v1/openapi.json") * 4, b""),  # never read
    (b"\x16\x03\x01 no request", b""),
)


class Attack(asyncio.Protocol):
    """One connection of the attacker."""

    def __init__(self, held: set[Attack], kind: tuple[bytes, bytes]) -> None:
        self._held = held
        self._at_once, self._slowly = kind

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held.add(self)
        if len(self._at_once) > 150:
            transport.pause_reading()  # type: ignore[attr-defined]
        transport.write(self._at_once)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._held.discard(self)

    def trickle(self) -> None:
        piece, self._slowly = self._slowly[:1], self._slowly[1:]
        if piece:
            self._transport.write(piece)  # type: ignore[attr-defined]


async def attack(port: int) -> None:
    """Hold as many connections as the node lets one address have; until it is killed."""
    loop = asyncio.get_running_loop()
    held: set[Attack] = set()
    choice = random.Random(SEED)
    told_at = 0.0
    while True:
        began = loop.time()
        wanted = min(HELD - len(held), int(OPENED_PER_SECOND * TICK_SECONDS))
        opening = [
            loop.create_connection(
                lambda: Attack(held, choice.choice(KINDS)),
                "127.0.0.1",
                port,
                local_addr=(ATTACKER, 0),
            )
            for _ in range(wanted)
        ]
        await asyncio.gather(*opening, return_exceptions=True)
        for each in choice.sample(sorted(held, key=id), min(len(held), 20)):
            each.trickle()
        if loop.time() - told_at > 1:
            told_at = loop.time()
            print(len(held), flush=True)
        await asyncio.sleep(max(0.0, TICK_SECONDS - (loop.time() - began)))


class Attacker:
    """The process of the attacker."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "attack", str(port)], stdout=subprocess.PIPE, text=True
        )

    def end(self) -> int:
        """Kill it; return how many connections it held last."""
        self._process.kill()
        said, _ = self._process.communicate()
        numbers = [int(line) for line in said.splitlines() if line.isdecimal()]
        return numbers[-1] if numbers else 0


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    corpus = read_corpus(options.data)
    texts = corpus.queries(4_096, SEED)
    seconds, count, settle_seconds = options.pick(
        (8.0, 6, SETTLE_SECONDS), (4.0, 3, SETTLE_SECONDS), (0.3, 1, 0.5)
    )
    held: list[int] = []
    with tempfile.TemporaryDirectory() as folder, node(Path(folder)) as port:
        put_routes(port, corpus.draw(10, SEED))

        def ask() -> dict[str, float]:
            return asyncio.run(closed_loop(port, texts, CLIENTS, seconds))

        def ask_under_attack() -> dict[str, float]:
            attacker = Attacker(port)
            try:
                time.sleep(settle_seconds)
                return ask()
            finally:
                held.append(attacker.end())

        sides: dict[str, Callable[[], dict[str, float]]] = {
            "alone": ask,
            "under_attack": ask_under_attack,
        }
        found = rounds(sides, count)
    figures: dict[str, Any] = {
        name: {key: spread([run[key] for run in runs]) for key in ("p50_ms", "p99_ms")}
        for name, runs in found.items()
    }
    p99 = {name: [run["p99_ms"] for run in runs] for name, runs in found.items()}
    figures["p99_ratio"] = ratio(p99["under_attack"], p99["alone"])
    figures["wanted_connections"], figures["held_connections"] = HELD, max(held)
    figures["rounds"] = count
    return figures


def main() -> None:
    if sys.argv[1:2] == ["attack"]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.nice(19)  # an attacker has a machine of its own
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(attack(int(sys.argv[2])))
    options = read_options(__doc__)
    bench = Bench("slow_clients", options)
    bench.finish(measure(options))


if __name__ == "__main__":
    main()

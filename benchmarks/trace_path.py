"""Counts what one request costs a node: project calls, files, threads and thread switches.

    python benchmarks/trace_path.py            print the counts and the path of each request
    python benchmarks/trace_path.py --json     print one JSON object on the last line
    python benchmarks/trace_path.py --write    write the table into ARCHITECTURE.md

A standalone node with the bundled encoder serves a loopback socket in this process, and the
interpreter's profile hook records every call of a function of the project, in every thread.
Each kind of request is traced in a process of its own.  Caches and lazy imports are warm
before the first counted request; every figure is the median of several requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/support"), str(Path(__file__).parent)]

import synaptoroute  # noqa: E402
from http_node import (  # noqa: E402
    Wire,
    http_node,
    on_socket,
    request,
)
from synaptoroute.encoder import Encoder  # noqa: E402
from tables import table  # noqa: E402

DOCUMENT = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
COLUMNS = ("calls", "files", "threads", "switches")
REQUESTS = 5
SETTLE_SECONDS = 0.1  # after the answer, until the node is idle again
TRACE_SECONDS_MAX = 120
_SOURCE = str(Path(synaptoroute.__file__).parent) + "/"

Send = Callable[[Wire, int], Awaitable[None]]


class Call(NamedTuple):
    """One call of a function of the project."""

    thread: str
    file: str
    function: str


class Tracer:
    """Records the calls of the project's functions in all threads that start after it."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._is_recording = False

    def install(self) -> None:
        """Hook into this thread and all later ones."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """Record within the block."""
        self._calls = calls = []
        self._is_recording = True
        try:
            yield calls
        finally:
            self._is_recording = False

    def _on_event(self, frame: Any, event: str, _argument: object) -> None:
        # A generator or coroutine that is resumed counts as called again.
        if self._is_recording and event == "call":
            name = frame.f_code.co_filename
            if name.startswith(_SOURCE):
                thread = threading.current_thread().name
                file = name.removeprefix(_SOURCE)
                self._calls.append(Call(thread, file, frame.f_code.co_qualname))


async def query_uncached(wire: Wire, number: int) -> None:
    """Ask a text that no cache holds; all texts have the same number of tokens."""
    thing = ("money", "parcel", "order", "card", "account", "ticket")[number % 6]
    await _exchange(wire, request(json.dumps({"text": f"where has my {thing} gone"}).encode()), 200)


async def query_cached(wire: Wire, _number: int) -> None:
    """Ask the same text again."""
    await _exchange(wire, request(b'{"text": "I want a refund now"}'), 200)


async def put(wire: Wire, number: int) -> None:
    """Create a route of two utterances."""
    texts = [f"pay bill number {number}", f"send me invoice {number} please"]
    body = json.dumps({"name": f"billing-{number}", "utterances": texts}).encode()
    head = f"PUT /v1/routes/billing-{number} HTTP/1.1\r\nHost: node\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    await _exchange(wire, head.encode() + body, 201)


KINDS: dict[str, Send] = {
    "query_uncached": query_uncached,
    "query_cached": query_cached,
    "put": put,
}


async def _exchange(wire: Wire, data: bytes, expected_status: int) -> None:
    await wire.send(data)
    status, _, body = await wire.answer()
    if status != expected_status:
        raise RuntimeError(f"the node answered {status}: {body.decode(errors='replace')}")


async def traced(send: Send) -> list[list[Call]]:
    """Send the requests to a node and return the calls of each."""
    tracer = Tracer()
    tracer.install()
    found = []
    encoder = await asyncio.to_thread(Encoder, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as folder:
        async with http_node(Path(folder), encoder=encoder) as node:
            await node.fill()
            async with on_socket(node) as client:
                wire = await Wire.open(client)
                for number in range(REQUESTS + 1):
                    with tracer.recording() as calls:
                        await send(wire, number)
                        await asyncio.sleep(SETTLE_SECONDS)
                    found.append(calls)
                await wire.close()
    sys.setprofile(None)
    return found[1:]  # the first request warmed the path


def summary(requests: list[list[Call]]) -> dict[str, Any]:
    """Return the medians, and the path of a request that made the median number of calls."""
    counts = [_counts(calls) for calls in requests]
    found: dict[str, Any] = {name: median_low(each[name] for each in counts) for name in COLUMNS}
    typical = next(calls for calls in requests if len(calls) == found["calls"])
    return {**found, "path": _path(typical)}


def _counts(calls: list[Call]) -> dict[str, int]:
    threads = [call.thread for call in calls]
    return {
        "calls": len(calls),
        "files": len({call.file for call in calls}),
        "threads": len(set(threads)),
        "switches": sum(a != b for a, b in pairwise(threads)),
    }


def _path(calls: list[Call]) -> list[tuple[str, str, list[str]]]:
    """Merge consecutive calls of one file in one thread into a stop."""
    stops: list[tuple[str, str, list[str]]] = []
    for thread, file, function in calls:
        if not stops or stops[-1][:2] != (thread, file):
            stops.append((thread, file, []))
        name = function.replace(".<locals>", "")
        if name not in stops[-1][2]:
            stops[-1][2].append(name)
    return stops


def trace(kind: str) -> dict[str, Any]:
    """Trace one kind of request in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--kind", kind],
        capture_output=True,
        text=True,
        timeout=TRACE_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"tracing {kind} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def counts_only(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the counts of every kind of request, without the paths."""
    return {kind: {name: each[name] for name in COLUMNS} for kind, each in found.items()}


def costs_table(costs: dict[str, dict[str, int]]) -> str:
    """Return the table of ARCHITECTURE.md."""
    rows = ([kind, *(cost[name] for name in COLUMNS)] for kind, cost in costs.items())
    return table(("request", *COLUMNS), rows)


def read_costs() -> dict[str, dict[str, int]]:
    """Read the table of ARCHITECTURE.md."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n")]
    return {
        row[0]: dict(zip(COLUMNS, map(int, row[1:]), strict=True))
        for row in rows
        if row[0] in KINDS
    }


def write_costs(costs: dict[str, dict[str, int]]) -> None:
    """Write the table into ARCHITECTURE.md."""
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    text = f"{before}{begin}\n{costs_table(costs)}{end}{after}"
    DOCUMENT.write_text(text, encoding="utf-8")


def _show(kind: str, found: dict[str, Any]) -> None:
    print(f"{kind}: " + ", ".join(f"{found[name]} {name}" for name in COLUMNS))
    for thread, file, functions in found["path"]:
        print(f"  {thread[:22]:22} {file:34} {' > '.join(functions)[:150]}")
    print()


def main() -> None:
    """Trace every kind of request and print or write what was counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="write the table of ARCHITECTURE.md")
    parser.add_argument("--kind", choices=KINDS, help="trace one kind in this process, as JSON")
    given = parser.parse_args()
    if given.kind:
        print(json.dumps(summary(asyncio.run(traced(KINDS[given.kind])))))
        return
    found = {kind: trace(kind) for kind in KINDS}
    costs = counts_only(found)
    if given.write:
        write_costs(costs)
    if given.json:
        print(json.dumps(costs))
        return
    for kind, each in found.items():
        _show(kind, each)
    print(costs_table(costs), end="")


if __name__ == "__main__":
    main()

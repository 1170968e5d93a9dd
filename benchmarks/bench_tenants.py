"""Measures how much one tenant of a node costs another.

Two tenants have keys and route sets of their own at one node process.  The quiet one sends
queries at a fixed rate, alone and beside the other, in turn.  The other sends 20 times what a
limit of its key allows, floods without a limit, or imports a large set.  During the import the
quiet tenant writes, too.

    python benchmarks/bench_tenants.py --data FOLDER [--quick]
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from bench_fairness import send
from bench_http import node
from harness import Bench, Options, quantiles, ratio, read_options, rounded
from route_texts import Corpus, read_corpus
from synaptoroute.web.api_keys import key_line, make_key

MULTIPLE = 20
"""How many times its limit the loud tenant sends."""
BATCH = 10
QUIET_RATE = 40.0
LIMITS = {"requests_per_second": 50, "texts_per_second": 50, "concurrent_queries": 2}
FLOOD_RATE = 2_000.0
LOUD = {
    **{
        name: {"rate": float(MULTIPLE * limit), "connections": 100}
        for name, limit in LIMITS.items()
    },
    "texts_per_second": {
        "rate": MULTIPLE * LIMITS["texts_per_second"] / BATCH,
        "connections": 100,
        "path": "/v1/sets/loud/query/batch",
        "batch": BATCH,
    },
    # As many at once as 20 times the limit, each followed by the next.
    "concurrent_queries": {
        "rate": FLOOD_RATE,
        "connections": MULTIPLE * LIMITS["concurrent_queries"],
    },
    "no_limit": {"rate": FLOOD_RATE, "connections": 200},
}
WRITE_SECONDS = 0.1
"""Time from the start of one write to that of the next."""
SEED = 0


class Tenant:
    """Requests with one key, over one connection."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self._key = key

    def request(self, method: str, path: str, body: bytes = b"{}", kind: str = "json") -> None:
        """Send one request that must succeed."""
        headers = {"content-type": f"application/{kind}", "x-api-key": self._key}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(text.decode())


class Tenants:
    """The keys of both tenants, and what they do at a node."""

    def __init__(self, folder: Path, corpus: Corpus, seconds: float) -> None:
        self.keys = {name: make_key() for name in ("root", "quiet", *LOUD)}
        self._seconds = seconds
        self._corpus = corpus
        texts = corpus.queries(4_096, SEED)
        self._texts = {"quiet": texts[::2], "loud": texts[1::2]}
        lines = [
            key_line(self.keys["root"], ["admin"], "root"),
            key_line(self.keys["quiet"], ["read@quiet", "write@quiet"], "quiet"),
        ]
        for name in LOUD:
            line = key_line(self.keys[name], ["read@loud", "write@loud"], name)
            lines.append(f"{line} {name}={LIMITS[name]}" if name in LIMITS else line)
        file = folder / "keys"
        file.touch(mode=0o600)
        file.write_text("\n".join(lines))
        os.environ["SYNAPTOROUTE_API_KEYS_FILE"] = str(file)

    def fill(self, port: int) -> None:
        """Make both sets, with equal routes."""
        self.port = port
        root = Tenant(port, self.keys["root"])
        for name in ("quiet", "loud"):
            root.request("PUT", f"/v1/sets/{name}")
            for route, utterances in self._corpus.draw(10, SEED).items():
                body = json.dumps({"utterances": utterances}).encode()
                root.request("PUT", f"/v1/sets/{name}/routes/{route}", body)

    def ask(self, route_set: str, key: str, **orders: Any) -> dict[str, Any]:
        """Send queries to a set for a while; return what came of them."""
        return send(
            **{
                "port": self.port,
                "texts": self._texts[route_set],
                "seconds": self._seconds,
                "key": self.keys[key],
                "path": f"/v1/sets/{route_set}/query",
                "connections": 50,
                **orders,
            }
        )

    def quiet(self) -> dict[str, Any]:
        """Send the queries of the quiet tenant."""
        return self.ask("quiet", "quiet", rate=QUIET_RATE)

    def writes(self, goes_on: Callable[[float], bool]) -> list[float]:
        """Put routes of the quiet tenant, one after another; return milliseconds of each."""
        tenant, took_ms = Tenant(self.port, self.keys["quiet"]), []
        began = time.perf_counter()
        for number in count():
            sent = time.perf_counter()
            if not goes_on(sent - began):
                break
            body = json.dumps({"utterances": [f"written text {sent} {number}"]}).encode()
            tenant.request("PUT", f"/v1/sets/quiet/routes/written-{number % 10}", body)
            now = time.perf_counter()
            took_ms.append((now - sent) * 1_000)
            time.sleep(max(0.0, sent + WRITE_SECONDS - now))
        return took_ms

    def load(self, utterances: int, turn: int) -> float:
        """Import routes into the loud tenant's set; return the seconds that it took."""
        lines = [
            json.dumps(
                {
                    "name": f"imported-{first}",
                    "utterances": [f"imported text {turn} {first + n}" for n in range(10)],
                }
            )
            for first in range(0, utterances, 10)
        ]
        began = time.perf_counter()
        tenant = Tenant(self.port, self.keys["no_limit"])
        body = "\n".join(lines).encode()
        tenant.request("POST", "/v1/sets/loud/import", body, "x-ndjson")
        return time.perf_counter() - began


def beside(alone: list[dict[str, Any]], loud: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers of the quiet tenant beside another one, and their ratio to those alone."""
    p99 = [[each["good_ms"]["p99"] for each in found] for found in (alone, loud)]
    shares = [1 - each["refused_share"] - each["late_share"] for each in loud]
    return {
        "success_share": rounded(min(shares)),
        "refused_share": rounded(max(each["refused_share"] for each in loud)),
        "alone_p99_ms": rounded(median(p99[0])),
        "p99_ms": rounded(median(p99[1])),
        "p99_ratio": ratio(p99[1], p99[0]),
    }


def floods(tenants: Tenants, threads: ThreadPoolExecutor, rounds: int) -> dict[str, Any]:
    """Queries of the quiet tenant beside each kind of load, each next to its own run alone."""
    found: dict[str, Any] = {}
    for name, orders in LOUD.items():
        alone, flooded, refused = [], [], []
        for _ in range(rounds):
            alone.append(tenants.quiet())
            flood = threads.submit(tenants.ask, "loud", name, **orders)
            flooded.append(tenants.quiet())
            refused.append(flood.result())
        found[name] = {**beside(alone, flooded), "loud": refused[-1]}
    return found


def imports(
    tenants: Tenants, threads: ThreadPoolExecutor, rounds: int, utterances: int, seconds: float
) -> dict[str, Any]:
    """Writes and queries of the quiet tenant while the other imports a large set."""
    alone, loaded = [], []
    writes: dict[str, list[float]] = {"alone": [], "beside": []}
    took: list[float] = []
    for turn in range(rounds):
        writing: Future[list[float]] = threads.submit(tenants.writes, lambda past: past < seconds)
        alone.append(tenants.quiet())
        writes["alone"] += writing.result()
        loading = threads.submit(tenants.load, utterances, turn)
        writing = threads.submit(tenants.writes, lambda _, load=loading: not load.done())
        loaded.append(tenants.quiet())
        took.append(loading.result())
        writes["beside"] += writing.result()
    p99 = {name: quantiles(each)["p99"] for name, each in writes.items()}
    return {
        "utterances": utterances,
        "import_seconds": rounded(median(took)),
        "write_ms": {name: quantiles(each) for name, each in writes.items()},
        "write_p99_ratio": rounded(p99["beside"] / p99["alone"]),
        "queries": beside(alone, loaded),
    }


def measure(options: Options) -> dict[str, Any]:
    """Return the figures of the quiet tenant beside each load."""
    seconds = options.pick(15.0, 4.0, 1.0)
    rounds = options.pick(3, 1, 1)
    utterances = options.pick(10_000, 10_000, 200)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(3) as threads:
        folder = Path(name)
        tenants = Tenants(folder, read_corpus(options.data), seconds)
        with node(folder) as port:
            tenants.fill(port)
            tenants.quiet()  # fits the cost model
            return {
                "quiet_queries_per_second": QUIET_RATE,
                "multiple": MULTIPLE,
                "floods": floods(tenants, threads, rounds),
                "import": imports(tenants, threads, rounds, utterances, seconds),
            }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("tenants", given)
    bench.finish(measure(given))

"""Measures how much one client's flood costs another.

Two clients with keys of their own send queries to one node process, each from a process of
its own.  First both flood: what one of them gets answered is its share.  Then one asks for 80
percent of its share, alone, and again while the other asks for 16 times its share.

    python benchmarks/bench_fairness.py --data FOLDER [--quick]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench_http import node
from harness import Bench, Options, read_options, rounded
from route_texts import read_corpus
from synaptoroute.web.api_keys import key_line, make_key

DEADLINE_MS = 1_000
FLOOD_MULTIPLE = 16
SHARE_USED = 0.8
FIRST_RATE = 2_000.0
"""Queries a second of each client while the shares are measured: more than a node answers."""
CONNECTIONS_OF_FLOOD = 400
CONNECTIONS_OF_OTHER = 200
SEED = 0


def send(**orders: Any) -> dict[str, Any]:
    """Send queries from a process; return what came of them."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("http_load.py"))],
        input=json.dumps({"deadline_ms": DEADLINE_MS, **orders}) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def put(port: int, key: str, name: str, utterances: list[str]) -> None:
    """Put one route."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/routes/{name}",
        data=json.dumps({"utterances": utterances}).encode(),
        headers={"content-type": "application/json", "x-api-key": key},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


def measure(options: Options) -> dict[str, Any]:
    """Return the share, and the answers within it with and without the flood."""
    corpus = read_corpus(options.data)
    texts = corpus.queries(4_096, SEED)
    halves = texts[::2], texts[1::2]
    seconds = options.pick(15.0, 6.0, 1.0)
    keys = {name: make_key() for name in ("one", "other")}
    lines = [key_line(key, ["read", "write"], name) for name, key in keys.items()]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as threads:
        key_file = Path(folder) / "keys"
        key_file.touch(mode=0o600)
        key_file.write_text("\n".join(lines))
        os.environ["SYNAPTOROUTE_API_KEYS_FILE"] = str(key_file)
        with node(Path(folder)) as port:
            for name, utterances in corpus.draw(10, SEED).items():
                put(port, keys["one"], name, utterances)

            def orders(name: str, rate: float) -> dict[str, Any]:
                is_flood = name == "other"
                return {
                    "port": port,
                    "texts": halves[is_flood],
                    "rate": rate,
                    "seconds": seconds,
                    "key": keys[name],
                    "connections": CONNECTIONS_OF_FLOOD if is_flood else CONNECTIONS_OF_OTHER,
                }

            def together(rates: dict[str, float]) -> dict[str, dict[str, Any]]:
                running = {
                    name: threads.submit(send, **orders(name, rate)) for name, rate in rates.items()
                }
                return {name: each.result() for name, each in running.items()}

            together({"one": FIRST_RATE / 4, "other": FIRST_RATE / 4})  # fits the cost model
            both = together({"one": FIRST_RATE, "other": FIRST_RATE})
            share = min(each["goodput_per_second"] for each in both.values())
            rate = SHARE_USED * share
            alone = together({"one": rate})["one"]
            flooded = together({"one": rate, "other": FLOOD_MULTIPLE * share})
    return {
        "deadline_ms": DEADLINE_MS,
        "share_per_second": rounded(share),
        "shares": {name: each["goodput_per_second"] for name, each in both.items()},
        "alone": alone,
        "flooded": flooded["one"],
        "flood": flooded["other"],
        "success_share": rounded(
            1 - flooded["one"]["refused_share"] - flooded["one"]["late_share"]
        ),
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("fairness", given)
    bench.finish(measure(given))

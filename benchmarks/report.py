"""Runs every benchmark; every figure of BENCHMARKS.md and docs/plots is of this run's JSON.

    python benchmarks/report.py --data FOLDER [--quick] [--only NAME ...] [--no-peers]

Peers are installed first, into environments of their own.  The raw JSON goes to
``benchmarks/results``; ``summary.json`` there holds what the goals were judged by.
With ``--render`` nothing is measured: the page is written anew from the last JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from accuracy_page import write as write_accuracy
from goals import judge
from harness import ROOT, Options, add_options, command, to_options
from pages import page
from peers.install import NAMES, install
from plots import FOLDER as PLOTS_FOLDER
from plots import draw

BENCHES = (
    "invariance",
    "throughput",
    "accuracy",
    "small_sets",
    "inputs",
    "cascade",
    "decision",
    "hot_add",
    "boot",
    "mutations",
    "scoring",
    "overload",
    "http",
    "embedding",
    "lanes",
    "million",
    "cluster",
)
# Need a container engine, half an hour or other peers: run only where asked for by name.
ON_REQUEST = ("deploy", "slow_clients", "fast")
FAULTS = ("outage", "chaos")
"""Runs of ``make outage`` and ``make chaos``, shown as they were recorded last."""
HERE = Path(__file__).parent
RESULTS = HERE / "results"
SECONDS_MAX = 900.0
SECONDS_MAX_ON_REQUEST = 3_600.0


def run(name: str, options: Options, folder: Path) -> bool:
    """Run one benchmark in its own process; its JSON goes to the folder."""
    words = [sys.executable, str(HERE / f"bench_{name}.py"), "--json", str(folder / f"{name}.json")]
    if options.data is not None:
        words += ["--data", str(options.data)]
    words += [] if options.size == "full" else [f"--{options.size}"]
    words += [] if options.peers else ["--no-peers"]
    began = time.monotonic()
    print(f"{name} ...", end="", flush=True, file=sys.stderr)
    limit = SECONDS_MAX_ON_REQUEST if name in ON_REQUEST else SECONDS_MAX
    done = subprocess.run(words, stdout=subprocess.DEVNULL, timeout=limit, check=False)
    how = f", ended with exit code {done.returncode}" if done.returncode else ""
    print(f" {time.monotonic() - began:.0f} s{how}", file=sys.stderr)
    return done.returncode == 0


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON of all benchmarks that have run."""
    files = {name: folder / f"{name}.json" for name in (*BENCHES, *ON_REQUEST, *FAULTS)}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}


def main() -> int:
    """Measure and write; return 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=(*BENCHES, *ON_REQUEST), default=list(BENCHES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    parser.add_argument("--page", type=Path, default=ROOT / "BENCHMARKS.md")
    parser.add_argument("--plots", type=Path, default=PLOTS_FOLDER, help="folder for the SVG")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    given = parser.parse_args()
    options = to_options(given)
    if options.data is None and options.size != "tiny" and not given.render:
        parser.error("the goals are of CLINC150 and Banking77: name their folder with --data")
    given.results.mkdir(parents=True, exist_ok=True)
    failed = []
    if not given.render:
        if options.peers:
            for name in NAMES:
                install(name)
        failed = [name for name in given.only if not run(name, options, given.results)]
    results = read_results(given.results)
    goals = judge(results)
    summary = {"command": command(), "goals": [goal.as_json() for goal in goals]}
    (given.results / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(results, given.plots)
    if "accuracy" in results and given.page == ROOT / "BENCHMARKS.md":
        write_accuracy(results["accuracy"])
    given.page.write_text(page(results, goals), encoding="utf-8")
    for goal in goals:
        print(f"{goal.verdict:8} {goal.name}: {goal.shown} (goal {goal.wanted})")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

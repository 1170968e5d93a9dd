"""Compares this tree with another revision in alternating rounds of one run.

Each side is one process tree that stays up; every round asks each side for every figure and
begins with another side.  A figure's ratio is formed within a round, so a slow phase of the
machine meets both sides; reported are the median of the ratios and a 95 % interval of it
from their order statistics.

    python benchmarks/compare.py --base 25dde48 [--rounds 11] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from harness import DATA_VARIABLE, commit, cpu_model, load_average, now, rounded
from needs import require_valkey
from route_texts import read_corpus
from servers import Server

ROOT = Path(__file__).resolve().parents[1]
SIDE = Path(__file__).with_name("compare_side.py")
MEASURES = ("one_client", "many_clients", "overload", "http", "propagation", "boot", "hot_add")
HIGHER_IS_BETTER = ("queries_per_second", "goodput_share")
GOAL = 0.97
GOAL_P99 = 0.90
BIG_ROUTES, BIG_UTTERANCES = 5_000, 10


class Side:
    """One tree under measurement."""

    def __init__(self, sources: Path) -> None:
        path = os.pathsep.join(str(sources / name) for name in ("node", "coordinator"))
        self._process = subprocess.Popen(
            [sys.executable, str(SIDE)],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **order: Any) -> dict[str, float]:
        """Send a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the side ended with status {self._process.wait()}")
        found: dict[str, float] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process and its nodes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def unpack(revision: str, folder: Path) -> Path:
    """Unpack a revision's packages."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", revision, "node", "coordinator"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def interval(ratios: list[float]) -> tuple[float, float]:
    """Interval that holds the true median with at least 95 % (order statistics)."""
    ranked, count = sorted(ratios), len(ratios)
    outside, low = 0.0, 0
    while low < count // 2 and 2 * (outside + comb(count, low) / 2**count) <= 0.05:
        outside += comb(count, low) / 2**count
        low += 1
    low = max(low - 1, 0)
    return ranked[low], ranked[count - 1 - low]


def judged(name: str, rounds: list[tuple[float, float]]) -> dict[str, Any]:
    """Ratio of one figure; above 1 this tree is better."""
    is_rate = name.endswith(HIGHER_IS_BETTER)
    ratios = [ours / base if is_rate else base / ours for ours, base in rounds]
    low, high = interval(ratios)
    goal = GOAL_P99 if name.endswith("p99_ms") else GOAL
    return {
        "this": rounded(median(ours for ours, _ in rounds)),
        "base": rounded(median(base for _, base in rounds)),
        "ratio": rounded(median(ratios)),
        "interval": [rounded(low), rounded(high)],
        "goal": goal,
        "is_met": median(ratios) >= goal,
    }


def measure(given: argparse.Namespace, folder: Path, redis_url: str) -> dict[str, Any]:
    """Every figure of both sides."""
    corpus = read_corpus(given.data)
    big = folder / "big.sqlite"
    trees = {"this": ROOT, "base": unpack(given.base, folder / "base")}
    path = os.pathsep.join(str(trees["base"] / name) for name in ("node", "coordinator"))
    subprocess.run(
        [sys.executable, str(SIDE), str(big), str(BIG_ROUTES), str(BIG_UTTERANCES)],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
    )
    sides = {name: Side(tree) for name, tree in trees.items()}
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        for name, side in sides.items():
            side.ask(
                folder=str(folder),
                routes=corpus.draw(10, 0),
                texts=corpus.queries(4_096, 0),
                redis_url=redis_url,
                namespace=name,
                big_database=str(big),
            )
        for number in range(-1, given.rounds):
            order = ["this", "base"] if number % 2 else ["base", "this"]
            for each in given.only:
                one = {name: sides[name].ask(measure=each, seconds=given.seconds) for name in order}
                for figure, ours in one["this"].items():
                    if number >= 0:  # the first round warms up
                        pair = (ours, one["base"][figure])
                        found.setdefault(f"{each} {figure}", []).append(pair)
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    finally:
        for side in sides.values():
            side.close()
    return {name: judged(name, rounds) for name, rounds in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, help="revision to compare with")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each figure in a round")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA_VARIABLE))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.data = Path(given.data) if given.data else None
    before = load_average()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server("valkey", require_valkey(), folder / "valkey", {}).start()
        try:
            figures = measure(given, folder, server.url)
        finally:
            server.stop()
    document = {
        "command": "python benchmarks/compare.py --base " + given.base,
        "commit": commit(),
        "cpu": cpu_model(),
        "when": now(),
        "load_before": before,
        "rounds": given.rounds,
        "figures": figures,
    }
    for figure, row in figures.items():
        low, high = row["interval"]
        mark = "" if row["is_met"] else f"  below {row['goal']}"
        print(
            f"{figure:32} {row['this']:>10} {row['base']:>10}  ratio {row['ratio']:.3f}"
            f" ({low:.3f} to {high:.3f}){mark}"
        )
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

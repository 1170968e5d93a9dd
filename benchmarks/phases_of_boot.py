"""Measures the phases from a cold start, or from a peer's snapshot, to the first score.

A database of routes with random unit vectors is made once in a temporary folder.  Every
figure is the best and the median of some runs, warm page cache, encoder apart; phases of
a boot are those of ``Engine``: open the storage, restore the replica, load the tensor.

    python benchmarks/phases_of_boot.py [--routes 5000] [--utterances 10] [--dim 384]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from synaptoroute.core.change import Commit
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import (
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Proposal,
    PutRoute,
)
from synaptoroute.core.replica import Replica, make_entry
from synaptoroute.engine.engine import tensor_of
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.serving.slices import as_rows
from synaptoroute.storage import SQLiteStorage, Stored
from synaptoroute.storage.checkpoint import drop_checkpoint
from synaptoroute.tensor import Tensor

FINGERPRINT = "f" * 64
GROUP_ENTRIES = 128
CHUNK_ROUTES = 50
FILL_ROWS = 2_048


class Node:
    """A storage and the replica that feeds it."""

    def __init__(self, path: Path, dim: int) -> None:
        self.storage = SQLiteStorage(path)
        stored = self.storage.open(fingerprint=FINGERPRINT, dim=dim)
        self.replica = Replica(stored.snapshot, dim=dim)
        tensor = tensor_of(stored, dim)
        at = (self.replica.position, stored.digest)
        self.storage.derive_with(lambda *now: tensor.derived() if now == at else b"")
        if self.replica.position.epoch == 0:
            self.commit([OpenEpoch("bench", 0, ("n",), FINGERPRINT, dim)])

    def apply(self, mutation: Mutation) -> list[Commit]:
        """Number and apply a mutation."""
        proposal = Proposal(uuid.uuid4().bytes, mutation, request_hash=b"r" * 16)
        entry = make_entry(self.replica.position, encode_proposal(proposal), proposal, 0)
        return list(self.replica.receive(entry).commits)

    def commit(self, mutations: list[Mutation]) -> None:
        """Commit mutations in groups, as the applier does."""
        for start in range(0, len(mutations), GROUP_ENTRIES):
            group = mutations[start : start + GROUP_ENTRIES]
            self.storage.commit([each for mutation in group for each in self.apply(mutation)])
            self.replica.advance()


def routes_of(routes: int, utterances: int, dim: int) -> Iterator[PutRoute]:
    """Routes of random unit vectors."""
    draw = np.random.default_rng(0)
    for route in range(routes):
        rows = draw.standard_normal((utterances, dim)).astype("<f4")
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        texts = tuple(f"utterance {each} of route {route}, as said" for each in range(len(rows)))
        yield PutRoute(f"route-{route:06d}", texts, tuple(row.tobytes() for row in rows))


def boot(path: Path, dim: int) -> tuple[dict[str, float], Stored]:
    """Boot as ``Engine`` does, and answer one query."""
    storage = SQLiteStorage(path)
    marks = [time.perf_counter()]
    stored = storage.open(fingerprint=FINGERPRINT, dim=dim)
    marks.append(time.perf_counter())
    replica = Replica(stored.snapshot, dim=dim, sums=stored.sums)
    marks.append(time.perf_counter())
    tensor = tensor_of(stored, dim)
    tensor.view()
    marks.append(time.perf_counter())
    rank(tensor, stored.vectors[:1], [QuerySpec()], Scratch())
    marks.append(time.perf_counter())
    assert replica.digest == storage.digest
    storage.close()
    names = ("open_ms", "restore_ms", "tensor_ms", "first_score_ms")
    phases: dict[str, float] = dict(zip(names, (np.diff(marks) * 1e3).tolist(), strict=True))
    phases["ready_ms"] = phases["open_ms"] + phases["restore_ms"] + phases["tensor_ms"]
    return phases, stored


def repeated(runs: int, task: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Best and median of each phase."""
    found = [task() for _ in range(runs)]
    return {
        name: {
            "best": round(min(each[name] for each in found), 1),
            "median": round(statistics.median(each[name] for each in found), 1),
        }
        for name in found[0]
    }


def timed(task: Callable[[], object]) -> float:
    """Milliseconds that a task takes."""
    started = time.perf_counter()
    task()
    return (time.perf_counter() - started) * 1e3


def boots(path: Path, dim: int, runs: int) -> dict[str, Any]:
    """Boot from rows, from a fresh checkpoint, and from one that is behind."""
    figures: dict[str, Any] = {}

    def from_rows() -> dict[str, float]:
        drop_checkpoint(path)
        return boot(path, dim)[0]

    figures["boot_from_rows"] = repeated(runs, from_rows)
    node = Node(path, dim)
    figures["write_checkpoint_ms"] = round(timed(node.storage.checkpoint), 1)
    figures["scrub_ms"] = round(timed(node.storage.scrub), 1)
    node.storage.close()
    assert boot(path, dim)[1].is_from_checkpoint
    figures["boot_from_checkpoint"] = repeated(runs, lambda: boot(path, dim)[0])
    node = Node(path, dim)
    late = routes_of(100, 10, dim)
    node.commit([PutRoute(f"late-{each.name}", each.utterances, each.vectors) for each in late])
    node.storage.close()
    assert boot(path, dim)[1].is_from_checkpoint
    figures["boot_from_checkpoint_1000_rows_behind"] = repeated(runs, lambda: boot(path, dim)[0])
    return figures


def full_window(path: Path, dim: int, entries: int, runs: int) -> dict[str, Any]:
    """Boot with as many remembered outcomes as the window is long."""
    node = Node(path, dim)
    name = next(iter(node.replica.table.routes))
    node.commit([PatchRoute(name, threshold=0.3 + each % 9 / 100) for each in range(entries)])
    node.storage.checkpoint()
    node.storage.close()
    return {"boot_full_window": repeated(runs, lambda: boot(path, dim)[0])}


def installs(donor: Path, folder: Path, dim: int, runs: int) -> dict[str, Any]:
    """Give a snapshot, and take it as a new node does."""

    def once() -> dict[str, float]:
        for left in folder.glob("install*"):
            left.unlink()
        giver = Node(donor, dim)
        give = timed(lambda: giver.storage.snapshot_to(folder / "install-snapshot"))
        giver.storage.close()
        taker = SQLiteStorage(folder / "install.sqlite")
        taker.open(fingerprint=FINGERPRINT, dim=dim)
        marks = [time.perf_counter()]
        stored = taker.install(folder / "install-snapshot")
        marks.append(time.perf_counter())
        Replica(stored.snapshot, dim=dim, sums=stored.sums)
        tensor_of(stored, dim).view()
        marks.append(time.perf_counter())
        taker.close()
        install, adopt = (np.diff(marks) * 1e3).tolist()
        return {"give_ms": give, "install_ms": install, "adopt_ms": adopt}

    figures: dict[str, Any] = {"install": repeated(runs, once)}
    figures["snapshot_bytes"] = (folder / "install-snapshot").stat().st_size
    return figures


def import_flip(path: Path, mutations: list[PutRoute], dim: int, runs: int) -> dict[str, Any]:
    """Commit one import of everything, and make it visible on the scorer's thread."""
    node = Node(path, dim)
    parts = range(0, len(mutations), CHUNK_ROUTES)
    chunks: list[Mutation] = [
        ImportChunk("i", place, tuple(mutations[start : start + CHUNK_ROUTES]))
        for place, start in enumerate(parts)
    ]
    node.commit([ImportBegin("i"), *chunks])
    started = time.perf_counter()
    commits = node.apply(ImportCommit("i", len(chunks)))
    planned = time.perf_counter()
    node.storage.commit(commits)
    committed = time.perf_counter()
    node.storage.close()
    shown = repeated(runs, lambda: flip(commits[0], dim))
    plan_ms, commit_ms = (planned - started) * 1e3, (committed - planned) * 1e3
    return {"import_plan_ms": round(plan_ms), "import_commit_ms": round(commit_ms), **shown}


def flip(commit: Commit, dim: int) -> dict[str, float]:
    """Fill in slices, then apply: the longest time that a query can wait for either."""
    tensor, at = Tensor(dim), commit.entry.position.revision
    writes = commit.change.writes
    fills = []
    for start in range(0, len(writes), FILL_ROWS):
        part = writes[start : start + FILL_ROWS]
        slots = np.array([write.slot for write in part], np.int64)
        vectors = as_rows([write.vector for write in part], dim)
        fills.append(timed(lambda s=slots, v=vectors: tensor.fill(s, v, at)))  # type: ignore[misc]
    applied = timed(lambda: tensor.apply(commit.change, at, filled=True))
    blocks = timed(tensor.view)
    return {"fill_ms_max": max(fills), "flip_ms": applied + blocks}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--routes", type=int, default=5_000)
    parser.add_argument("--utterances", type=int, default=10)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--window", type=int, default=66_000, help="entries of the full window")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    dim, runs = options.dim, options.runs
    mutations = list(routes_of(options.routes, options.utterances, dim))
    with tempfile.TemporaryDirectory(prefix="bench-boot-") as name:
        folder = Path(name)
        node = Node(folder / "node.sqlite", dim)
        node.commit(list(mutations))
        node.storage.close()
        figures: dict[str, Any] = {
            "routes": options.routes,
            "utterances": options.routes * options.utterances,
            "dim": dim,
            **installs(folder / "node.sqlite", folder, dim, runs),
            **boots(folder / "node.sqlite", dim, runs),
            **import_flip(folder / "import.sqlite", mutations, dim, runs),
        }
        if options.window:
            figures |= full_window(folder / "node.sqlite", dim, options.window, runs)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

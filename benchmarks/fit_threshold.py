"""Fits the default threshold and aggregation on CLINC150 and Banking77.

The threshold is chosen on CLINC150's training, validation and out-of-scope
validation texts alone; the test splits are only reported.  Few-shot protocol: k
training texts an intent by ``default_rng(seed)``, mean over seeds 0 to 2.

    python benchmarks/fit_threshold.py --data DIRECTORY [--precision P] [--cache FILE.npz]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import Precision
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import AGGREGATIONS, Aggregation, Revision, Settings
from synaptoroute.encoder import DEFAULT_MODEL, TextEncoder, open_encoder
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

SEEDS = (0, 1, 2)
FIT_COUNTS = (5, 10, 20)
TABLE_COUNTS = (5, 10, 20, 50)
GRID = np.round(np.arange(0.0, 1.0001, 0.01), 2)
ENCODE_TEXTS = 512


@dataclass(frozen=True)
class Split:
    """Texts as float32[n, dim] with the route id of each, -1 for out of scope."""

    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """Best score of each text, and whether that route is the right one."""

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]


def read_splits(
    folder: Path, cache: Path | None, precision: Precision = "auto", model: str = DEFAULT_MODEL
) -> dict[str, dict[str, Split]]:
    """Read both data sets and encode them, or take the vectors from the cache."""
    known = dict(np.load(cache)) if cache is not None and cache.exists() else {}
    encoder = None if known else open_encoder(model, precision=precision)
    sets: dict[str, dict[str, Split]] = {}
    for name in ("clinc150", "banking77"):
        data: dict[str, list[list[str]]] = json.loads((folder / f"{name}.json").read_text())
        intents = sorted({intent for _, intent in data["train"]})
        ids = {intent: number for number, intent in enumerate(intents)}
        sets[name] = {}
        for split, pairs in data.items():
            key = f"{name}/{split}"
            if encoder is not None:
                known[key] = encode(encoder, [text.strip() for text, _ in pairs])
            labels = np.array([ids.get(intent, -1) for _, intent in pairs], np.int64)
            sets[name][split] = Split(known[key], labels)
    if encoder is not None and cache is not None:
        np.savez(cache, **known)
    return sets


def encode(encoder: TextEncoder, texts: list[str]) -> NDArray[np.float32]:
    """Encode in slices of equal size, so that memory stays bounded."""
    parts = [
        encoder.encode(texts[start : start + ENCODE_TEXTS])
        for start in range(0, len(texts), ENCODE_TEXTS)
    ]
    return np.concatenate(parts)


def draw(train: Split, count: int, seed: int, settings: Settings) -> Tensor:
    """Build a tensor of ``count`` training texts an intent."""
    random = np.random.default_rng(seed)
    records: list[RouteRecord] = []
    chosen: list[NDArray[np.int64]] = []
    for route_id in range(int(train.labels.max()) + 1):
        own = np.flatnonzero(train.labels == route_id)
        own = np.sort(random.choice(own, min(count, len(own)), replace=False))
        first = sum(map(len, chosen))
        slots = tuple(range(first, first + len(own)))
        texts = tuple(f"text {index}" for index in own)
        name = f"intent {route_id}"
        records.append(
            RouteRecord(route_id, name, slots, texts, None, "{}", "null", Revision(1, 1))
        )
        chosen.append(own)
    vectors = train.vectors[np.concatenate(chosen)]
    tensor = Tensor(vectors.shape[1], settings)
    tensor.load(np.arange(len(vectors)), vectors, records, settings, Revision(1, 1))
    return tensor


def answer(tensor: Tensor, split: Split) -> Answers:
    """Rank every text of a split without any threshold."""
    specs = [QuerySpec()] * len(split.vectors)
    best = [ranking.top[0] for ranking in rank(tensor, split.vectors, specs, Scratch())]
    ids = np.array([score.route_id for score in best])
    return Answers(np.array([score.score for score in best]), ids == split.labels)


def rates(inside: Answers, outside: Answers) -> NDArray[np.float64]:
    """Right and refused fractions for every threshold of the grid, float64[2, grid]."""
    right = [(inside.right & (inside.scores >= level)).mean() for level in GRID]
    refused = [(outside.scores < level).mean() for level in GRID]
    return np.array([right, refused])


def fit_threshold(clinc: dict[str, Split], aggregation: Aggregation) -> dict[str, Any]:
    """Choose the threshold on validation texts and report the test texts at it."""
    settings = Settings(aggregation=aggregation)
    validation: list[NDArray[np.float64]] = []
    test: dict[int, list[NDArray[np.float64]]] = {count: [] for count in FIT_COUNTS}
    for count in FIT_COUNTS:
        for seed in SEEDS:
            tensor = draw(clinc["train"], count, seed, settings)
            validation.append(rates(answer(tensor, clinc["val"]), answer(tensor, clinc["oos_val"])))
            test[count].append(
                rates(answer(tensor, clinc["test"]), answer(tensor, clinc["oos_test"]))
            )
    balanced = np.mean(validation, axis=0).mean(axis=0)
    best = int(np.argmax(balanced))
    return {
        "aggregation": aggregation,
        "threshold": float(GRID[best]),
        "validation_balanced": round(float(balanced[best]), 4),
        "validation_curve": {
            f"{level:.2f}": round(float(value), 4)
            for level, value in zip(GRID, balanced, strict=True)
            if 0.3 <= level <= 0.8
        },
        "test": {
            str(count): dict(
                zip(
                    ("answered_right", "refused_outside"),
                    np.mean(found, axis=0)[:, best].round(4).tolist(),
                    strict=True,
                )
            )
            for count, found in test.items()
        },
    }


def compare_aggregations(splits: dict[str, Split], counts: Sequence[int]) -> dict[str, Any]:
    """Accuracy on the test split by aggregation and utterances a route: mean and spread."""
    table: dict[str, Any] = {}
    for aggregation in AGGREGATIONS:
        for count in counts:
            settings = Settings(aggregation=aggregation)
            found = [
                answer(draw(splits["train"], count, seed, settings), splits["test"]).right.mean()
                for seed in SEEDS
            ]
            spread = round(float(np.ptp(found)), 4)
            mean = round(float(np.mean(found)), 4)
            table.setdefault(aggregation, {})[str(count)] = {"mean": mean, "spread": spread}
    return table


def show(report: dict[str, Any]) -> None:
    """Print the tables for people."""
    for name, table in report["accuracy"].items():
        print(f"\n{name:10} " + " ".join(f"k={count:<5}" for count in TABLE_COUNTS))
        for aggregation, row in table.items():
            print(f"{aggregation:10} " + " ".join(f"{cell['mean']:.4f} " for cell in row.values()))
    for fitted in report["thresholds"]:
        print(
            f"\n{fitted['aggregation']}: threshold {fitted['threshold']:.2f}, balanced on "
            f"validation {fitted['validation_balanced']:.4f}, on test {fitted['test']}"
        )


def main() -> None:
    """Measure, print the tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two data sets")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--cache", type=Path, help="file to keep the vectors in between runs")
    options = parser.parse_args()
    sets = read_splits(options.data, options.cache, options.precision)
    report = {
        "thresholds": [fit_threshold(sets["clinc150"], name) for name in AGGREGATIONS],
        "accuracy": {
            name: compare_aggregations(splits, TABLE_COUNTS) for name, splits in sets.items()
        },
    }
    show(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

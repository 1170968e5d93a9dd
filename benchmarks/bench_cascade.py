"""Measures throughput and accuracy of the cascade on CLINC150 and Banking77.

Accuracy through the product's own calibration, static stage and scoring, thresholds
applied: a test text counts if its route is answered, an out-of-scope text if none is.
Throughput in process, nothing cached, against the same router without the cascade and
against semantic-router, in turns.

    python benchmarks/bench_cascade.py --data FOLDER [--quick]
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_accuracy import SEEDS, encode, tensor_of
from bench_throughput import CLIENTS, WARM_SECONDS
from contenders import OURS, OURS_CASCADE, SEMANTIC_ROUTER, Process, contenders, in_turns
from harness import Bench, Options, ratio, read_options, rounded, spread
from route_texts import SETS, Corpus, read_corpus
from synaptoroute.cascade import (
    Calibration,
    StaticRoutes,
    StaticTable,
    Utterances,
    calibrate,
    distil,
    load_table,
    read_projection,
    save_table,
)
from synaptoroute.core.mutation import Settings
from synaptoroute.encoder import Encoder
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

TINY_TOKENS = 3_000


class Vectors:
    """Both stages' embeddings of texts, each made once."""

    def __init__(self, encoder: Encoder, table: StaticTable, texts: set[str]) -> None:
        ordered = sorted(texts)
        self.vectors = dict(zip(ordered, encode(encoder, ordered), strict=True))
        static_rows = table.embed_all(encoder.tokenize(ordered))
        self.static_rows = dict(zip(ordered, static_rows, strict=True))

    def of(self, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """Rows of some texts."""
        rows = np.stack([self.static_rows[text] for text in texts])
        return np.stack([self.vectors[text] for text in texts]), rows


def prepared(encoder: Encoder, options: Options, file: Path) -> tuple[StaticTable, dict[str, Any]]:
    """Distil and save a table, as ``synaptoroute model prepare`` does."""
    began = time.perf_counter()
    table = distil(encoder, tokens_max=options.pick(None, None, TINY_TOKENS))
    seconds = time.perf_counter() - began
    save_table(table, file)
    began = time.perf_counter()
    load_table(file, encoder.fingerprint)
    figures = {
        "tokens": len(table.rows),
        "seconds": rounded(seconds),
        "size_mb": rounded(file.stat().st_size / 1e6),
        "load_seconds": rounded(time.perf_counter() - began),
    }
    return table, figures


def by_encoder(tensor: Tensor, queries: NDArray[np.float32]) -> list[str | None]:
    """Route of each query without the cascade."""
    rankings = rank(tensor, queries, [QuerySpec()] * len(queries), Scratch())
    return [
        tensor.record_of(found.best.route_id).name if found.best else None for found in rankings
    ]


def by_static(
    routes: StaticRoutes, calibration: Calibration, rows: NDArray[np.int8]
) -> list[str | None]:
    """Route of each query that the static stage answers; None where it does not."""
    guard = calibration.guard
    if guard is None:
        return [None] * len(rows)
    rankings = [look.ranking for look in routes.evaluate(rows, guard, [1] * len(rows))]
    best = [None if ranking is None else ranking.best for ranking in rankings]
    return [None if each is None else routes.record_of(each.route_id).name for each in best]


def one_draw(
    corpus: Corpus, strays: list[str], drawn: dict[str, list[str]], vectors: Vectors, name: str
) -> dict[str, float]:
    """Accuracy, share and agreement of one choice of utterances."""
    settings = Settings(cascade=True)
    tensor = tensor_of(drawn, vectors.vectors, settings)
    records = list(tensor.routes.values())
    texts = [text for record in records for text in record.utterances]
    rows = vectors.of(texts)
    owners = np.repeat(np.arange(len(records)), [len(record.slots) for record in records])
    thresholds = np.full(len(records), settings.threshold)
    began = time.perf_counter()
    given = Utterances(*rows, owners, thresholds, settings.aggregation)
    calibration = calibrate(given, "1.1", name, name)
    seconds = time.perf_counter() - began
    dim = rows[1].shape[1]
    routes = StaticRoutes(dim, settings, tensor.revision, read_projection(calibration.turn, dim))
    routes.load(records, [vectors.of(list(record.utterances))[1] for record in records])
    queries, static_rows = vectors.of([text for text, _ in corpus.test])
    alone, sure = by_encoder(tensor, queries), by_static(routes, calibration, static_rows)
    labels = [label for _, label in corpus.test]
    both = [quick or slow for quick, slow in zip(sure, alone, strict=True)]
    pairs = [(quick, slow) for quick, slow in zip(sure, alone, strict=True) if quick]
    found = {
        "calibration_seconds": seconds,
        "off_accuracy": float(np.mean([a == b for a, b in zip(alone, labels, strict=True)])),
        "on_accuracy": float(np.mean([a == b for a, b in zip(both, labels, strict=True)])),
        "share": len(pairs) / len(labels),
        "agreement": float(np.mean([a == b for a, b in pairs])) if pairs else 1.0,
    }
    if strays:
        queries, static_rows = vectors.of(strays)
        alone, sure = by_encoder(tensor, queries), by_static(routes, calibration, static_rows)
        found["off_strays"] = float(np.mean([each is not None for each in alone]))
        found["on_strays"] = float(
            np.mean([bool(quick or slow) for quick, slow in zip(sure, alone, strict=True)])
        )
    return found


def accuracy(
    encoder: Encoder, table: StaticTable, options: Options, name: str, counts: tuple[int, ...]
) -> dict[str, Any]:
    """Means over the seeds, by utterances a route."""
    corpus = read_corpus(options.data, name)
    strays = _strays(options.data, name)
    drawn = {(k, seed): corpus.draw(k, seed) for k in counts for seed in SEEDS}
    texts = {text for routes in drawn.values() for own in routes.values() for text in own}
    texts |= {text for text, _ in corpus.test} | set(strays)
    vectors = Vectors(encoder, table, texts)
    found: dict[str, Any] = {}
    for k in counts:
        each = [one_draw(corpus, strays, drawn[k, seed], vectors, name) for seed in SEEDS]
        means = {key: rounded(float(np.mean([one[key] for one in each]))) for key in each[0]}
        points = [100 * (one["on_accuracy"] - one["off_accuracy"]) for one in each]
        found[str(k)] = {**means, "gained_points": spread(points)}
    return {"routes": len(corpus.train), "test_texts": len(corpus.test), "by_utterances": found}


def _strays(folder: Path | None, name: str) -> list[str]:
    """Texts that belong to no route, where the set has some."""
    if folder is None:
        return []
    data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return [text.strip() for text, _ in data.get("oos_test", [])]


def throughput(options: Options, table_file: Path) -> dict[str, Any]:
    """Closed loop with 1 and 64 clients, in turns."""
    corpus = read_corpus(options.data)
    utterances = options.pick(50, 50, 10)
    routes = corpus.draw(utterances, SEEDS[0])
    texts = corpus.queries(4_096, SEEDS[0])
    seconds, count = options.pick(4.0, 2.0, 0.2), options.pick(5, 2, 1)
    names = (OURS, OURS_CASCADE, SEMANTIC_ROUTER)
    with contenders(names, options, {OURS_CASCADE: ("--table", str(table_file))}) as running:
        for process in running.values():
            process.do("load", routes=routes)
            process.do("closed", texts=texts, clients=8, seconds=min(WARM_SECONDS, seconds))
        return {
            "routes": len(routes),
            "utterances_a_route": utterances,
            "one_client": _closed(running, texts, 1, seconds, count),
            "many_clients": _closed(running, texts, CLIENTS, seconds, count),
        }


def _closed(
    running: dict[str, Process], texts: list[str], clients: int, seconds: float, count: int
) -> dict[str, Any]:
    found = in_turns(running, texts, clients, seconds, count)
    rates = {name: [run["queries_per_second"] for run in runs] for name, runs in found.items()}
    return {
        name: {
            "queries_per_second": spread(rates[name]),
            "p50_ms": spread([run["p50_ms"] for run in runs]),
            "p99_ms": spread([run["p99_ms"] for run in runs]),
            "cascade_times_faster": ratio(rates[OURS_CASCADE], rates[name]),
        }
        for name, runs in found.items()
    }


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    encoder = Encoder()
    counts = options.pick((10, 20, 50), (10, 50), (15,))
    names = SETS if options.data is not None else ("generated",)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "static.table"
        table, figures = prepared(encoder, options, file)
        sets = {name: accuracy(encoder, table, options, name, counts) for name in names}
        return {"table": figures, "sets": sets, "throughput": throughput(options, file)}


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("cascade", given)
    bench.finish(measure(given))

"""Measures throughput, accuracy and confidence of the cascade on CLINC150 and Banking77.

By the score of new databases (``adaptive``, confidence of at least .5) and by that of earlier ones
(``blend``, threshold .49), through the product's own fit, calibration, static stage and scoring.
A test text counts if its route is answered, an out-of-scope text if none is; Banking77 has none of
its own and takes CLINC150's.  ``ece_inside`` and ``ece_mixed`` are expected calibration errors of
test texts alone and together with the out-of-scope texts, as in ``bench_accuracy.py``.
Throughput of a router with default settings in process, nothing switched on, nothing cached,
against the same router without the cascade and against semantic-router, in turns.

    python benchmarks/bench_cascade.py --data FOLDER [--quick]
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_accuracy import SEEDS, encode, tensor_of
from bench_throughput import CLIENTS, WARM_SECONDS
from contenders import OURS, OURS_DEFAULTS, SEMANTIC_ROUTER, Process, contenders, in_turns
from harness import Bench, Options, ratio, read_options, rounded, spread
from route_texts import SETS, Corpus, read_corpus, read_out_of_scope
from synaptoroute.cascade import (
    Calibration,
    ConfidenceRule,
    StaticRoutes,
    StaticTable,
    Utterances,
    calibrate,
    distil,
    load_table,
    read_projection,
    save_table,
    scored_by,
)
from synaptoroute.core.mutation import FOUNDING_SETTINGS, Settings
from synaptoroute.decision.fitting import calibration_error
from synaptoroute.encoder import Encoder
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

TINY_TOKENS = 3_000
FINGERPRINT = "f" * 16
SETTINGS = (replace(FOUNDING_SETTINGS, cascade=True), Settings(cascade=True))


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


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to some texts.

    Attributes:
        routes: Route of the answer, or None.
        best: Best route of the stage that answers.
        sure: Its confidence, float64[n]; nan where there is none.
        is_static: Whether the static stage answers, bool[n].
    """

    routes: list[str | None]
    best: list[str]
    sure: NDArray[np.float64]
    is_static: NDArray[np.bool_]


def by_encoder(tensor: Tensor, queries: NDArray[np.float32]) -> Answers:
    """Answer each query without the cascade."""
    rankings = rank(tensor, queries, [QuerySpec()] * len(queries), Scratch())
    name = {record.route_id: record.name for record in tensor.routes.values()}
    return Answers(
        [name[found.best.route_id] if found.best else None for found in rankings],
        [name[found.top[0].route_id] for found in rankings],
        np.array([found.top[0].confidence for found in rankings], np.float64),
        np.zeros(len(rankings), np.bool_),
    )


def with_cascade(
    alone: Answers,
    tensor: Tensor,
    routes: StaticRoutes,
    calibration: Calibration,
    rows: NDArray[np.int8],
) -> Answers:
    """Answer each query by the static stage where it is sure, else as ``alone``."""
    if calibration.guard is None:
        return alone
    limits = [1] * len(rows)
    found = routes.evaluate(rows, calibration.guard, limits, tensor.calibration, calibration.levels)
    answers, best = list(alone.routes), list(alone.best)
    sure, is_static = alone.sure.copy(), alone.is_static.copy()
    for number, look in enumerate(found):
        if look.ranking is not None and look.ranking.best is not None:
            own = look.ranking.best
            best[number] = answers[number] = routes.record_of(own.route_id).name
            sure[number] = math.nan if own.confidence is None else own.confidence
            is_static[number] = True
    return Answers(answers, best, sure, is_static)


def utterances_of(tensor: Tensor, vectors: Vectors) -> tuple[Utterances, StaticRoutes]:
    """Describe a route set as the calibration reads it, and load it into a static stage."""
    settings, records = tensor.settings, list(tensor.routes.values())
    rows = vectors.of([text for record in records for text in record.utterances])
    owners = np.repeat(np.arange(len(records)), [len(record.slots) for record in records])
    thresholds = np.full(len(records), settings.threshold_of(None))
    numbers, rule = tensor.calibration, None
    scored = scored_by(settings, numbers)
    if scored and numbers is not None:
        rule = ConfidenceRule(
            numbers,
            np.full(len(records), settings.confidence_min or 0.0),
            settings.expected_unmatched_share,
            np.zeros(len(records), np.bool_),
            rows[0][:0],
            owners[:0],
        )
    given = Utterances(*rows, owners, thresholds, scored or settings.aggregation, rule)
    return given, StaticRoutes(rows[1].shape[1], settings, tensor.revision)


def one_draw(
    corpus: Corpus,
    strays: list[str],
    drawn: dict[str, list[str]],
    vectors: Vectors,
    settings: Settings,
) -> dict[str, float]:
    """Accuracy, confidence, share and agreement of one choice of utterances."""
    tensor = tensor_of(drawn, vectors.vectors, settings, FINGERPRINT)
    given, plain = utterances_of(tensor, vectors)
    began = time.perf_counter()
    calibration = calibrate(given, "1.1", FINGERPRINT, FINGERPRINT)
    seconds = time.perf_counter() - began
    records = list(tensor.routes.values())
    plain.load(records, [vectors.of(list(record.utterances))[1] for record in records])
    projection = read_projection(calibration.turn, given.static_rows.shape[1])
    routes = plain.projected_by(projection, settings, tensor.revision)
    texts = [text for text, _ in corpus.test]
    labels = [label for _, label in corpus.test]
    queries, static_rows = vectors.of(texts + strays)
    alone = by_encoder(tensor, queries)
    both = with_cascade(alone, tensor, routes, calibration, static_rows)
    static = np.flatnonzero(both.is_static[: len(texts)]).tolist()
    found = {
        "calibration_seconds": seconds,
        "share": len(static) / len(texts),
        "agreement": float(np.mean([alone.routes[n] == both.routes[n] for n in static] or [True])),
    }
    for name, answers in (("off", alone), ("on", both)):
        right = np.array([a == b for a, b in zip(answers.best, labels, strict=False)])
        answered = [a == b for a, b in zip(answers.routes, labels, strict=False)]
        found[f"{name}_accuracy"] = float(np.mean(answered))
        outside = [route is not None for route in answers.routes[len(texts) :]]
        found[f"{name}_strays"] = float(np.mean(outside))
        if not np.isnan(answers.sure).any():
            sure, all_right = answers.sure, np.append(right, np.zeros(len(strays), np.bool_))
            found[f"{name}_ece_inside"] = calibration_error(sure[: len(texts)], right)
            found[f"{name}_ece_mixed"] = calibration_error(sure, all_right)
    return found


def accuracy(
    encoder: Encoder, table: StaticTable, options: Options, name: str, counts: tuple[int, ...]
) -> dict[str, Any]:
    """Means over the seeds, by score, then by utterances a route."""
    corpus = read_corpus(options.data, name)
    strays = read_out_of_scope(options.data)
    drawn = {(k, seed): corpus.draw(k, seed) for k in counts for seed in SEEDS}
    texts = {text for routes in drawn.values() for own in routes.values() for text in own}
    texts |= {text for text, _ in corpus.test} | set(strays)
    vectors = Vectors(encoder, table, texts)
    found: dict[str, dict[str, Any]] = {}
    for settings in SETTINGS:
        by_count = found.setdefault(settings.aggregation, {})
        for k in counts:
            each = [one_draw(corpus, strays, drawn[k, seed], vectors, settings) for seed in SEEDS]
            means = {key: rounded(float(np.mean([one[key] for one in each]))) for key in each[0]}
            points = [100 * (one["on_accuracy"] - one["off_accuracy"]) for one in each]
            by_count[str(k)] = {**means, "gained_points": spread(points)}
    return {"routes": len(corpus.train), "test_texts": len(corpus.test), "by_score": found}


def throughput(options: Options, utterances: int) -> dict[str, Any]:
    """Closed loop with 1 and 64 clients, in turns."""
    corpus = read_corpus(options.data)
    routes = corpus.draw(utterances, SEEDS[0])
    texts = corpus.queries(4_096, SEEDS[0])
    seconds, count = options.pick(4.0, 2.0, 0.2), options.pick(5, 2, 1)
    with contenders((OURS, OURS_DEFAULTS, SEMANTIC_ROUTER), options) as running:
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
    middles = {name: [run["p50_ms"] for run in runs] for name, runs in found.items()}
    return {
        name: {
            "queries_per_second": spread(rates[name]),
            "p50_ms": spread(middles[name]),
            "p99_ms": spread([run["p99_ms"] for run in runs]),
            "defaults_times_faster": ratio(rates[OURS_DEFAULTS], rates[name]),
            "defaults_p50_share": ratio(middles[OURS_DEFAULTS], middles[name]),
        }
        for name, runs in found.items()
    }


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    encoder = Encoder()
    counts = options.pick((5, 10, 20, 50), (10, 50), (15,))
    names = SETS if options.data is not None else ("generated",)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "static.table"
        table, figures = prepared(encoder, options, file)
        sets = {name: accuracy(encoder, table, options, name, counts) for name in names}
    few, many = options.pick((10, 50), (10, 50), (5, 10))
    return {
        "table": figures,
        "sets": sets,
        "throughput": {"many": throughput(options, many), "few": throughput(options, few)},
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("cascade", given)
    bench.finish(measure(given))

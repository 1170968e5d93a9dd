"""Measures what the cascade does to accuracy and confidence, on every data set of a folder.

By the score of new databases (``adaptive``, confidence of at least .5) and by that of earlier ones
(``blend``, threshold .49), through the product's own fit, calibration, static stage and scoring,
with the table that ships.  A test text counts if its route is answered, an out-of-scope text if
none is; a set without any takes CLINC150's.  ``ece_inside`` and ``ece_mixed`` are expected
calibration errors of test texts alone and together with the out-of-scope texts, as in
``bench_accuracy.py``.

``lower_bound_points`` is the lower end of a 95 % interval of the difference, on less off, in points
of accuracy: texts are drawn again ten thousand times, each with its mean difference over the seeds.
``worst`` has the worst cell of the score of new databases.

    python benchmarks/bench_cascade.py --data FOLDER [--standard | --quick]
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_accuracy import encode, tensor_of
from harness import Bench, Options, read_options, rounded, spread
from route_texts import Corpus, names_of_sets, read_corpus, read_out_of_scope
from synaptoroute.cascade import (
    Calibration,
    ConfidenceRule,
    StaticRoutes,
    StaticTable,
    Utterances,
    calibrate,
    distil,
    find_table,
    read_projection,
    scored_by,
)
from synaptoroute.core.mutation import FOUNDING_SETTINGS, Settings
from synaptoroute.decision.fitting import calibration_error
from synaptoroute.encoder import Encoder
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

RESAMPLES = 10_000
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


def table_of(encoder: Encoder) -> tuple[StaticTable, dict[str, Any]]:
    """Load the table that ships for the encoder; distil one where none does."""
    began = time.perf_counter()
    table = find_table(encoder.fingerprint)
    figures = {"is_shipped": table is not None}
    table = table or distil(encoder)
    return table, {
        **figures,
        "tokens": len(table.rows),
        "seconds": rounded(time.perf_counter() - began),
    }


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


def utterances_of(tensor: Tensor, vectors: Vectors) -> Utterances:
    """Describe a route set as the calibration reads it."""
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
    return Utterances(*rows, owners, thresholds, scored or settings.aggregation, rule)


@dataclass(frozen=True, slots=True)
class Draw:
    """Figures of one choice of utterances.

    Attributes:
        figures: Accuracy, confidence, share and agreement.
        gained: Right answers of each text, on less off, float64[texts].
        answered: Answers to each out-of-scope text, on less off, float64[strays].
    """

    figures: dict[str, float]
    gained: NDArray[np.float64]
    answered: NDArray[np.float64]


def one_draw(
    corpus: Corpus,
    strays: list[str],
    drawn: dict[str, list[str]],
    vectors: Vectors,
    settings: Settings,
) -> Draw:
    """Accuracy, confidence, share and agreement of one choice of utterances."""
    tensor = tensor_of(drawn, vectors.vectors, settings, FINGERPRINT)
    given = utterances_of(tensor, vectors)
    began = time.perf_counter()
    calibration = calibrate(given, "1.1", FINGERPRINT, FINGERPRINT)
    seconds = time.perf_counter() - began
    records = list(tensor.routes.values())
    dim = given.static_rows.shape[1]
    projection = read_projection(calibration.turn, dim)
    routes = StaticRoutes(dim, settings, tensor.revision, projection)
    routes.load(records, [vectors.of(list(record.utterances))[1] for record in records])
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
    right_by, answered_by = {}, {}
    for name, answers in (("off", alone), ("on", both)):
        pairs = zip(answers.routes, labels, strict=False)
        right_by[name] = np.array([a == b for a, b in pairs], np.float64)
        outside = [route is not None for route in answers.routes[len(texts) :]]
        answered_by[name] = np.array(outside, np.float64)
        found[f"{name}_accuracy"] = float(np.mean(right_by[name]))
        found[f"{name}_strays"] = float(np.mean(outside)) if outside else math.nan
        if not np.isnan(answers.sure).any():
            best = np.array([a == b for a, b in zip(answers.best, labels, strict=False)])
            sure, all_right = answers.sure, np.append(best, np.zeros(len(strays), np.bool_))
            found[f"{name}_ece_inside"] = calibration_error(sure[: len(texts)], best)
            found[f"{name}_ece_mixed"] = calibration_error(sure, all_right)
    gained, answered = (each["on"] - each["off"] for each in (right_by, answered_by))
    return Draw(found, gained, answered)


def lower_bound(differences: NDArray[np.float64]) -> float:
    """Lower end of a 95 % interval of the mean, by drawing the texts again.

    Two made texts, one gained and one lost, keep the bound of few texts honest (Agresti and
    Min, 2005): without them a set whose answers never differ would have a bound of nought.
    """
    values, counts = np.unique(np.append(differences, (1.0, -1.0)), return_counts=True)
    total = int(counts.sum())
    drawn = np.random.default_rng(0).multinomial(total, counts / total, size=RESAMPLES)
    return float(np.quantile(drawn @ values / total, 0.025))


def cell(draws: list[Draw]) -> dict[str, Any]:
    """Means over the seeds, and the bounds over the texts."""
    each = [draw.figures for draw in draws]
    means = {key: rounded(float(np.mean([one[key] for one in each]))) for key in each[0]}
    points = [100 * (one["on_accuracy"] - one["off_accuracy"]) for one in each]
    gained = np.mean([draw.gained for draw in draws], axis=0)
    found = {
        **means,
        "seeds": len(draws),
        "gained_points": spread(points),
        "mean_gained_points": rounded(100 * float(gained.mean())),
        "lower_bound_points": rounded(100 * lower_bound(gained)),
    }
    if len(draws[0].answered):
        more = np.mean([draw.answered for draw in draws], axis=0)
        found["out_of_scope_points"] = rounded(100 * float(more.mean()))
        found["out_of_scope_bound_points"] = rounded(-100 * lower_bound(-more))
    if "on_ece_mixed" in means:
        worse = [means[f"on_ece_{name}"] - means[f"off_ece_{name}"] for name in ("inside", "mixed")]
        found["ece_points"] = rounded(100 * max(worse))
    return found


def accuracy(
    encoder: Encoder, table: StaticTable, options: Options, name: str, counts: tuple[int, ...]
) -> dict[str, Any]:
    """Figures by score, then by utterances a route."""
    corpus = read_corpus(options.data, name)
    strays = read_out_of_scope(options.data, name)
    seeds = options.pick(range(5), range(2), range(1), standard=range(3))
    drawn = {(k, seed): corpus.draw(k, seed) for k in counts for seed in seeds}
    texts = {text for routes in drawn.values() for own in routes.values() for text in own}
    texts |= {text for text, _ in corpus.test} | set(strays)
    vectors = Vectors(encoder, table, texts)
    found: dict[str, dict[str, Any]] = {}
    for settings in options.pick(SETTINGS, SETTINGS, SETTINGS, standard=SETTINGS[:1]):
        by_count = found.setdefault(settings.aggregation, {})
        for k in counts:
            draws = [one_draw(corpus, strays, drawn[k, seed], vectors, settings) for seed in seeds]
            by_count[str(k)] = cell(draws)
    return {"routes": len(corpus.train), "test_texts": len(corpus.test), "by_score": found}


def worst(sets: dict[str, Any]) -> dict[str, Any]:
    """The worst cell of each figure that has a goal, and where it is."""
    cells = [
        (f"{name}, {count}", row)
        for name, each in sets.items()
        for count, row in each["by_score"].get("adaptive", {}).items()
    ]
    found: dict[str, Any] = {"cells": len(cells)}
    signs = {"lower_bound_points": -1, "out_of_scope_points": 1, "ece_points": 1}
    for key, sign in signs.items():
        known = [(sign * row[key], where) for where, row in cells if key in row]
        if known:
            value, found[f"{key}_in"] = max(known)
            found[key] = sign * value
    return found


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    encoder = Encoder()
    counts = options.pick((5, 10, 20, 50), (10, 50), (15,), standard=(5, 10, 20, 50))
    table, figures = table_of(encoder)
    names = names_of_sets(options.data)
    sets = {name: accuracy(encoder, table, options, name, counts) for name in names}
    return {"table": figures, "sets": sets, "worst": worst(sets)}


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("cascade", given)
    bench.finish(measure(given))

"""Measures decisions on small route sets that are drawn from CLINC150 and Banking77.

Sets as users have them, of training texts; test texts of their intents are asked, and out-of-scope
texts of CLINC150 (*foreign*) and test texts of other intents (*near*).  Means over ``DRAWS`` draws.

* ``distinct``: 5, 10 and 20 intents, a route each.
* ``broad``: all intents, neighbours together in 7 routes.
* ``heavy``: nine routes of one intent, and one of a third of all intents with 72 % of the queries.
* ``uneven``: 20 routes; the largest has thirty times the utterances of the smallest.

Figures are those of ``bench_accuracy.py`` for ``adaptive`` at the default confidence; calibration
errors are those of all texts of a row.  Constants of the fit were chosen on other draws.

    python benchmarks/bench_small_sets.py --data FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_accuracy import CONFIDENCE_MIN, Vectors, separation, tensor_of
from harness import Bench, Options, read_options, rounded
from route_texts import SETS, Corpus, read_corpus, read_out_of_scope
from synaptoroute.core.mutation import Settings
from synaptoroute.decision.fitting import calibration_error
from synaptoroute.encoder import Encoder
from synaptoroute.scoring import QuerySpec, Ranking, Scratch, rank

FIRST_SEED = 100
DRAWS = 4
SIZES = (5, 10, 20)
BROAD_ROUTES = 7
HEAVY_SHARE = 0.72
ASKED_MAX = 400
FOREIGN_MAX = 200
GROUPING_TEXTS = 10
Routes = dict[str, list[str]]


@dataclass(frozen=True)
class Drawn:
    """A route set and what is asked.

    Attributes:
        routes: Utterances by route.
        asked: Texts with their routes.
        near: Texts of intents that have no route.
    """

    routes: Routes
    asked: list[tuple[str, str]]
    near: list[str]


@dataclass
class Outcome:
    """Answers to one drawn set; test texts come first.

    Attributes:
        rankings: Of test, foreign and near texts.
        right: Whether the best route is the right one.
        inside: Number of test texts.
        foreign: Number of foreign texts.
    """

    rankings: list[Ranking]
    right: NDArray[np.bool_]
    inside: int
    foreign: int

    @property
    def sure(self) -> NDArray[np.float64]:
        """Confidence of each text's best route."""
        return np.array([ranking.top[0].confidence for ranking in self.rankings])


def chosen(texts: list[Any], count: int, random: np.random.Generator) -> list[Any]:
    """Choose at most ``count`` texts."""
    return [texts[at] for at in random.permutation(len(texts))[:count]]


def grouped(
    corpus: Corpus, groups: dict[str, str], counts: dict[str, int], random: np.random.Generator
) -> Drawn:
    """Draw a set whose routes are groups of intents.

    Args:
        groups: Route of each intent that has one.
        counts: Utterances of each route.
    """
    pools: Routes = {}
    for intent, route in groups.items():
        pools.setdefault(route, []).extend(corpus.train[intent])
    routes = {route: chosen(pool, counts[route], random) for route, pool in pools.items()}
    asked = [(text, groups[intent]) for text, intent in corpus.test if intent in groups]
    near = [text for text, intent in corpus.test if intent not in groups]
    return Drawn(routes, chosen(asked, ASKED_MAX, random), chosen(near, FOREIGN_MAX, random))


def distinct(corpus: Corpus, each: int, random: np.random.Generator) -> Iterator[Drawn]:
    """Routes of one intent."""
    intents = list(corpus.train)
    for size in SIZES:
        own = chosen(intents, size, random)
        yield grouped(corpus, {name: name for name in own}, dict.fromkeys(own, each), random)


def uneven(corpus: Corpus, each: int, random: np.random.Generator) -> Iterator[Drawn]:
    """Routes of one intent and of 2 to ``6 * each`` utterances."""
    own = chosen(list(corpus.train), 20, random)
    counts = np.geomspace(2, 6 * each, len(own)).round().astype(int).tolist()
    yield grouped(corpus, {name: name for name in own}, dict(zip(own, counts, strict=True)), random)


def broad(
    corpus: Corpus, each: int, random: np.random.Generator, vectors: Vectors
) -> Iterator[Drawn]:
    """Intents together with their neighbours, in order along the direction of most variance."""
    means = np.stack([vectors.rows(t[:GROUPING_TEXTS]).mean(0) for t in corpus.train.values()])
    axis = np.linalg.svd(means - means.mean(0), full_matrices=False)[2][0]
    order = np.argsort(means @ axis, kind="stable")
    intents = list(corpus.train)
    groups = {
        intents[at]: f"group {place * BROAD_ROUTES // len(order)}" for place, at in enumerate(order)
    }
    yield grouped(corpus, groups, dict.fromkeys(groups.values(), each), random)


def heavy(corpus: Corpus, each: int, random: np.random.Generator) -> Iterator[Drawn]:
    """One route of many intents that gets most queries, with no more utterances than others."""
    order = chosen(list(corpus.train), len(corpus.train), random)
    third = len(order) // 3
    groups = dict.fromkeys(order[:third], "heavy") | {name: name for name in order[third:][:9]}
    drawn = grouped(corpus, groups, dict.fromkeys(groups.values(), each), random)
    asked = [(text, groups[intent]) for text, intent in corpus.test if intent in groups]
    most = [pair for pair in asked if pair[1] == "heavy"]
    rest = [pair for pair in asked if pair[1] != "heavy"]
    rest = chosen(rest, round(ASKED_MAX * (1 - HEAVY_SHARE)), random)
    most = chosen(most, round(len(rest) * HEAVY_SHARE / (1 - HEAVY_SHARE)), random)
    yield Drawn(drawn.routes, most + rest, drawn.near)


def answered(drawn: Drawn, foreign: list[str], vectors: Vectors, fingerprint: str) -> Outcome:
    """Ask a route set with the numbers of its fit."""
    texts = [text for text, _ in drawn.asked] + foreign + drawn.near
    vectors.rows([text for own in drawn.routes.values() for text in own])
    settings = Settings("adaptive", threshold=None, confidence_min=CONFIDENCE_MIN)
    tensor = tensor_of(drawn.routes, vectors, settings, fingerprint)
    rankings = rank(tensor, vectors.rows(texts), [QuerySpec()] * len(texts), Scratch())
    names = [tensor.record_of(ranking.top[0].route_id).name for ranking in rankings]
    right = np.zeros(len(texts), np.bool_)
    right[: len(drawn.asked)] = [
        name == route for name, (_, route) in zip(names, drawn.asked, strict=False)
    ]
    return Outcome(rankings, right, len(drawn.asked), len(foreign))


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures of all sets of a row."""
    sure_inside = np.concatenate([each.sure[: each.inside] for each in outcomes])
    right_inside = np.concatenate([each.right[: each.inside] for each in outcomes])
    outside = [each.sure[each.inside :] for each in outcomes]
    foreign = np.concatenate(
        [own[: each.foreign] for own, each in zip(outside, outcomes, strict=True)]
    )
    near = np.concatenate(
        [own[each.foreign :] for own, each in zip(outside, outcomes, strict=True)]
    )
    known = [each.rankings[: each.inside + each.foreign] for each in outcomes]
    sure = np.concatenate([sure_inside, foreign])
    right = np.concatenate([right_inside, np.zeros(len(foreign), np.bool_)])
    given = (right_inside & (sure_inside >= CONFIDENCE_MIN)).sum()
    found = {
        "accuracy": right_inside.mean(),
        "answered": given / max(right_inside.sum(), 1),
        "refused": (foreign < CONFIDENCE_MIN).mean(),
        "ece_inside": calibration_error(sure_inside, right_inside),
        "ece_mixed": calibration_error(sure, right),
        "auroc": np.mean(
            [separation(own, each.inside) for own, each in zip(known, outcomes, strict=True)]
        ),
    }
    if len(near):
        found["refused_near"] = (near < CONFIDENCE_MIN).mean()
    return {"sets": len(outcomes), **{name: rounded(value) for name, value in found.items()}}


def measure(options: Options) -> dict[str, Any]:
    """Return all figures by set, kind and utterances a route."""
    counts = options.pick((5, 10, 20), (10,), (5,))
    seeds = range(FIRST_SEED, FIRST_SEED + options.pick(DRAWS, 2, 1))
    encoder = Encoder()
    vectors = Vectors(encoder)
    everything = read_out_of_scope(options.data)
    found: dict[str, Any] = {}
    for name in SETS if options.data is not None else ("generated",):
        corpus = read_corpus(options.data, name)
        rows: dict[str, dict[str, list[Outcome]]] = {}
        for seed in seeds:
            for each in counts:
                random = np.random.default_rng((seed, each))
                foreign = chosen(everything, FOREIGN_MAX, random)
                kinds = {
                    "distinct": distinct(corpus, each, random),
                    "uneven": uneven(corpus, each, random),
                    "broad": broad(corpus, each, random, vectors),
                    "heavy": heavy(corpus, each, random),
                }
                for kind, sets in kinds.items():
                    for drawn in sets:
                        own = rows.setdefault(kind, {}).setdefault(str(each), [])
                        own.append(answered(drawn, foreign, vectors, encoder.fingerprint))
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
        found[name] = {
            kind: {each: figures(outcomes) for each, outcomes in own.items()}
            for kind, own in rows.items()
        }
    return found


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("small_sets", given)
    bench.finish(measure(given))

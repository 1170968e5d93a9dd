"""Measures accuracy and confidence of each aggregation on CLINC150 and Banking77.

Few-shot protocol: k training texts an intent by ``default_rng(seed)``, seeds 0 to 2; mean and
spread over the seeds, on the whole test split.  Thresholds play no part.

* ``accuracy``: share of test texts whose best route is the right one.
* ``answered``: of these, the share with a confidence of at least .5, the default.
* ``refused``: share of out-of-scope texts below it; ``balanced`` is the mean of that and the share
  of test texts that are answered right.
* ``auroc``: out-of-scope against test texts, by p(none).
* ``ece_inside`` and ``ece_mixed``: expected calibration error over 15 bins, of test texts alone and
  together with the out-of-scope texts.  Banking77 has none of its own and takes CLINC150's.
  Aggregations other than ``adaptive`` and ``blend`` are ranked only.
* ``reliability``: for tenths of the confidence the number of texts, their mean confidence and the
  share of right ones, over all seeds; ``_inside`` of test texts alone, ``_mixed`` of all.

The fit uses the utterances of the routes only.  Peers route the same vectors, without a threshold,
in environments of their own (``benchmarks/peers/install.py``).  semantic-router takes milliseconds
a query on large sets: peers get seed 0 alone where a set has more than ``PEER_ROWS`` utterances,
and none where it has more than ``PEER_ROWS_MAX``.  ``seeds`` says how many a cell has.

    python benchmarks/bench_accuracy.py --data FOLDER [--quick] [--no-peers]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contenders import ORIGINAL, SEMANTIC_ROUTER, ContenderFailed, Process, contenders
from harness import Bench, Options, read_options, rounded
from route_texts import SETS, Corpus, read_corpus, read_out_of_scope
from synaptoroute.config import cpu_limit
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import AGGREGATIONS, Aggregation, Revision, Settings
from synaptoroute.decision import fit_decision
from synaptoroute.decision.fitting import calibration_error
from synaptoroute.encoder import Encoder, TextEncoder
from synaptoroute.scoring import QuerySpec, Ranking, Scratch, rank
from synaptoroute.tensor import Tensor

SEEDS = (0, 1, 2)
ENCODE_TEXTS = 512
CONFIDENCE_MIN = 0.5
DECIDED: tuple[Aggregation, ...] = ("adaptive", "blend")
"""Aggregations whose confidences are measured."""
BINS = 10
PEER_ROWS = 1_000
PEER_ROWS_MAX = 3_500
Figures = dict[str, list[Any]]


@dataclass(frozen=True)
class Asked:
    """Queries of a set: test texts, then out-of-scope texts.

    Attributes:
        vectors: float32[n, dim].
        labels: Route of each test text.
    """

    vectors: NDArray[np.float32]
    labels: list[str]


class Vectors(dict[str, NDArray[np.float32]]):
    """Vectors by text: every text of a run is encoded once."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self._encoder = encoder

    def rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, float32[n, dim], and encode those that are new."""
        new = sorted(set(texts) - self.keys())
        if new:
            self.update(zip(new, encode(self._encoder, new), strict=True))
        return np.stack([self[text] for text in texts])


def encode(encoder: TextEncoder, texts: list[str]) -> NDArray[np.float32]:
    """Encode in slices on all cores; a text's vector does not depend on its slice."""
    slices = [texts[at : at + ENCODE_TEXTS] for at in range(0, len(texts), ENCODE_TEXTS)]
    with ThreadPoolExecutor(cpu_limit()) as pool:
        return np.concatenate(list(pool.map(encoder.encode, slices)))


def tensor_of(
    routes: dict[str, list[str]],
    vectors: Mapping[str, NDArray[np.float32]],
    settings: Settings,
    fingerprint: str = "",
) -> Tensor:
    """Put routes into a tensor as a boot does; with the numbers of a fit for a known encoder."""
    records, rows, owners, first = [], [], [], 0
    for route_id, (name, texts) in enumerate(routes.items()):
        slots = tuple(range(first, first + len(texts)))
        first += len(texts)
        records.append(
            RouteRecord(route_id, name, slots, tuple(texts), None, "{}", "null", Revision(1, 1))
        )
        rows += [vectors[text] for text in texts]
        owners += [route_id] * len(texts)
    matrix, decision = np.stack(rows), b""
    if fingerprint:
        kind = settings.aggregation
        found = fit_decision(matrix, np.array(owners), kind, fingerprint=fingerprint)
        decision = b"" if found is None else found.dump()
    tensor = Tensor(matrix.shape[1], settings, fingerprint)
    tensor.load(
        np.arange(len(matrix)), matrix, records, settings, Revision(1, 1), decision=decision
    )
    return tensor


def judge(tensor: Tensor, asked: Asked, found: Figures) -> None:
    """Add the figures of one draw."""
    count = len(asked.labels)
    rankings = rank(tensor, asked.vectors, [QuerySpec()] * len(asked.vectors), Scratch())
    names = [tensor.record_of(ranking.top[0].route_id).name for ranking in rankings]
    right = np.zeros(len(rankings), np.bool_)
    right[:count] = [name == label for name, label in zip(names, asked.labels, strict=False)]
    add(found, "accuracy", right[:count].mean())
    if rankings[0].p_none is None:
        return
    sure = np.array([ranking.top[0].confidence for ranking in rankings])
    answered_right = (right[:count] & (sure[:count] >= CONFIDENCE_MIN)).mean()
    add(found, "answered", answered_right / max(right[:count].mean(), 1e-9))
    add(found, "ece_inside", calibration_error(sure[:count], right[:count]))
    found.setdefault("reliability_inside", []).append(binned(sure[:count], right[:count]))
    if len(rankings) == count:
        return
    refused = (sure[count:] < CONFIDENCE_MIN).mean()
    add(found, "refused", refused)
    add(found, "balanced", (answered_right + refused) / 2)
    add(found, "ece_mixed", calibration_error(sure, right))
    found.setdefault("reliability_mixed", []).append(binned(sure, right))
    add(found, "auroc", separation(rankings, count))


def separation(rankings: Sequence[Ranking], count: int) -> float:
    """Chance that a test text has a lower p(none) than an out-of-scope text."""
    none = np.array([ranking.p_none for ranking in rankings], np.float64)
    inside, outside = np.sort(none[:count]), none[count:]
    below = inside.searchsorted(outside, "left") + inside.searchsorted(outside, "right")
    return float(below.mean()) / 2 / count


def binned(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Count, sum of the confidence and number of right ones of each tenth: float64[3, BINS]."""
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    parts = (None, sure, right)
    return np.stack([np.bincount(bins, part, BINS) for part in parts])


def add(found: Figures, name: str, value: Any) -> None:
    """Keep one figure of one seed."""
    found.setdefault(name, []).append(float(value))


def summed_up(found: Figures) -> dict[str, Any]:
    """Mean and spread over the seeds; bins are added up."""
    return {
        name: diagram(np.sum(values, axis=0))
        if name.startswith("reliability")
        else {
            "mean": rounded(float(np.mean(values))),
            "spread": rounded(float(np.ptp(values))),
            "seeds": len(values),
        }
        for name, values in found.items()
    }


def diagram(bins: NDArray[np.float64]) -> list[dict[str, float]]:
    """Points of a reliability diagram; a bin without texts has none."""
    return [
        {"texts": int(n), "confidence": rounded(sure / n), "accuracy": rounded(right / n)}
        for n, sure, right in bins.T
        if n
    ]


class Peers:
    """Other routers, which get the same vectors through a file."""

    def __init__(self, running: Mapping[str, Process], folder: Path) -> None:
        self._running = running
        self._folder = folder

    def judge(
        self,
        routes: dict[str, list[str]],
        vectors: Mapping[str, NDArray[np.float32]],
        asked: Asked,
        found: dict[str, Figures],
    ) -> None:
        """Add the accuracy of each peer on one draw; one that fails is named on the way."""
        rows = np.stack([vectors[text] for texts in routes.values() for text in texts])
        count = len(asked.labels)
        # Some peers refuse names with other characters.
        plain = {name: f"route-{number}" for number, name in enumerate(routes)}
        given_routes = {plain[name]: texts for name, texts in routes.items()}
        labels = [plain[label] for label in asked.labels]
        np.savez(self._folder / "vectors.npz", rows=rows, asked=asked.vectors[:count])
        for name, process in self._running.items():
            try:
                given = str(self._folder / "vectors.npz")
                answers = process.do("classify", routes=given_routes, vectors=given)
            except ContenderFailed as error:
                print(error, file=sys.stderr)
                continue
            right = [own == label for own, label in zip(answers, labels, strict=True)]
            add(found.setdefault(name, {}), "accuracy", np.mean(right))


def table(
    encoder: TextEncoder,
    vectors: Vectors,
    corpus: Corpus,
    outside: list[str],
    counts: tuple[int, ...],
    peers: Peers,
) -> dict[str, Any]:
    """All figures of a set by contender and utterances a route."""
    tests = [text for text, _ in corpus.test]
    asked = Asked(vectors.rows(tests + outside), [label for _, label in corpus.test])
    plain = Asked(asked.vectors[: len(tests)], asked.labels)
    accuracy: dict[str, dict[str, Any]] = {}
    decisions: dict[str, dict[str, Any]] = {}
    for k in counts:
        figures: dict[str, Figures] = {}
        for seed in SEEDS:
            routes = corpus.draw(k, seed)
            vectors.rows([text for own in routes.values() for text in own])
            for kind in AGGREGATIONS:
                is_decided = kind in DECIDED
                least = CONFIDENCE_MIN if is_decided else None
                settings = Settings(kind, threshold=None, confidence_min=least)
                known = encoder.fingerprint if is_decided else ""
                tensor = tensor_of(routes, vectors, settings, known)
                judge(tensor, asked if is_decided else plain, figures.setdefault(kind, {}))
            rows = sum(len(texts) for texts in routes.values())
            if rows <= PEER_ROWS or (rows <= PEER_ROWS_MAX and seed == SEEDS[0]):
                peers.judge(routes, vectors, asked, figures)
        for name, values in figures.items():
            own = summed_up(values)
            accuracy.setdefault(name, {})[str(k)] = own.pop("accuracy")
            if own:
                decisions.setdefault(name, {})[str(k)] = own
        print(f"{corpus.name}, {k} utterances a route", file=sys.stderr, flush=True)
    return {
        "routes": len(corpus.train),
        "test_texts": len(tests),
        "out_of_scope_texts": len(outside),
        "accuracy": accuracy,
        "decisions": decisions,
    }


def measure_set(options: Options, name: str) -> dict[str, Any]:
    """Return the figures of one set."""
    counts = options.pick((1, 2, 3, 5, 10, 20, 50), (5, 10), (2,), standard=(5, 10, 20))
    encoder = Encoder()
    corpus, outside = read_corpus(options.data, name), read_out_of_scope(options.data)
    with (
        tempfile.TemporaryDirectory() as folder,
        contenders((SEMANTIC_ROUTER, ORIGINAL), options) as running,
    ):
        peers = Peers(running, Path(folder))
        return table(encoder, Vectors(encoder), corpus, outside, counts, peers)


def measure(options: Options) -> dict[str, Any]:
    """Return all figures; the sets are measured side by side."""
    names = SETS if options.data is not None else ("generated",)
    with ProcessPoolExecutor(len(names), get_context("spawn")) as pool:
        parts = {name: pool.submit(measure_set, options, name) for name in names}
        return {name: part.result() for name, part in parts.items()}


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("accuracy", given)
    bench.finish(measure(given))

"""Measures the accuracy of each aggregation on CLINC150 and Banking77.

Few-shot protocol: k training texts an intent by ``default_rng(seed)``, seeds 0 to 2; the
share of test texts whose best route is the right one, thresholds apart.  By the default
encoder for every aggregation; by that in float32 for ``blend``.

    python benchmarks/bench_accuracy.py --data FOLDER [--quick]
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Bench, Options, read_options, rounded
from route_texts import SETS, Corpus, read_corpus
from synaptoroute.config import cpu_limit
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import AGGREGATIONS, Aggregation, Revision, Settings
from synaptoroute.encoder import Encoder
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

SEEDS = (0, 1, 2)
ENCODE_TEXTS = 512


def encode(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    """Encode in slices on all cores; a text's vector does not depend on its slice."""
    slices = [texts[at : at + ENCODE_TEXTS] for at in range(0, len(texts), ENCODE_TEXTS)]
    with ThreadPoolExecutor(cpu_limit()) as pool:
        return np.concatenate(list(pool.map(encoder.encode, slices)))


def tensor_of(
    routes: dict[str, list[str]], vectors: dict[str, NDArray[np.float32]], settings: Settings
) -> Tensor:
    """Put routes into a tensor as a boot does."""
    records, rows, first = [], [], 0
    for route_id, (name, texts) in enumerate(routes.items()):
        slots = tuple(range(first, first + len(texts)))
        first += len(texts)
        records.append(
            RouteRecord(route_id, name, slots, tuple(texts), None, "{}", "null", Revision(1, 1))
        )
        rows += [vectors[text] for text in texts]
    matrix = np.stack(rows)
    tensor = Tensor(matrix.shape[1], settings)
    tensor.load(np.arange(len(matrix)), matrix, records, settings, Revision(1, 1))
    return tensor


def accuracy(tensor: Tensor, queries: NDArray[np.float32], labels: list[str]) -> float:
    """Share of queries whose best route is the right one."""
    rankings = rank(tensor, queries, [QuerySpec()] * len(queries), Scratch())
    names = [tensor.record_of(ranking.top[0].route_id).name for ranking in rankings]
    return float(np.mean([name == label for name, label in zip(names, labels, strict=True)]))


def table(
    encoder: Encoder,
    corpus: Corpus,
    counts: tuple[int, ...],
    aggregations: Sequence[Aggregation] = AGGREGATIONS,
) -> dict[str, Any]:
    """Accuracy by aggregation and utterances a route."""
    drawn = {(k, seed): corpus.draw(k, seed) for k in counts for seed in SEEDS}
    texts = sorted({t for routes in drawn.values() for own in routes.values() for t in own})
    vectors = dict(zip(texts, encode(encoder, texts), strict=True))
    queries = encode(encoder, [text for text, _ in corpus.test])
    labels = [label for _, label in corpus.test]
    found: dict[str, Any] = {}
    for aggregation in aggregations:
        for k in counts:
            settings = Settings(aggregation=aggregation)
            each = [
                accuracy(tensor_of(drawn[k, seed], vectors, settings), queries, labels)
                for seed in SEEDS
            ]
            cell = {"mean": rounded(np.mean(each)), "spread": rounded(np.ptp(each))}
            found.setdefault(aggregation, {})[str(k)] = cell
    return {"routes": len(corpus.train), "test_texts": len(labels), "accuracy": found}


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    counts = options.pick((5, 10, 20, 50), (5, 10), (2,))
    names = SETS if options.data is not None else ("generated",)
    corpora = {name: read_corpus(options.data, name) for name in names}
    encoder = Encoder()
    found = {name: table(encoder, corpus, counts) for name, corpus in corpora.items()}
    exact = Encoder(precision="float32")
    for name, corpus in corpora.items():
        blend = table(exact, corpus, counts, ("blend",))["accuracy"]["blend"]
        found[name]["accuracy"]["blend, float32"] = blend
    return found


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("accuracy", given)
    bench.finish(measure(given))

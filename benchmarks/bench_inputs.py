"""Measures what happens to a text before it is encoded: typos, clauses and context.

On CLINC150 and Banking77, ten utterances a route by ``default_rng(seed)``, scored by ``blend``:

- typos: accuracy on clean texts, on misspelled ones (``typos.py``), and on both after repair;
- clauses: share of test texts that are cut, and of joined pairs that are cut between both;
- time a text that preparation costs, of known words and of misspelled ones.

    python benchmarks/bench_inputs.py --data FOLDER [--quick]
"""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_accuracy import encode, tensor_of
from harness import Bench, Options, read_options, rounded
from route_texts import SETS, Corpus, read_corpus
from synaptoroute.core.mutation import Settings
from synaptoroute.encoder import Encoder
from synaptoroute.inputs.clauses import split_clauses
from synaptoroute.inputs.repair import Lexicon
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor
from typos import misspell

UTTERANCES = 10
JOINS = (" and ", ", and ", " and then ", ". ", "; ", ", also ", " but ", " plus ")


def accuracy(tensor: Tensor, queries: NDArray[np.float32], labels: list[str]) -> float:
    """Share of queries whose best route is the right one."""
    rankings = rank(tensor, queries, [QuerySpec()] * len(queries), Scratch())
    names = [tensor.record_of(ranking.top[0].route_id).name for ranking in rankings]
    return float(np.mean([name == label for name, label in zip(names, labels, strict=True)]))


def typos(encoder: Encoder, corpus: Corpus, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Accuracy with and without typos, with and without repair."""
    clean = [text for text, _ in corpus.test]
    labels = [label for _, label in corpus.test]
    found: dict[str, list[float]] = {}
    for seed in seeds:
        routes = corpus.draw(UTTERANCES, seed)
        utterances = [text for own in routes.values() for text in own]
        vectors = dict(zip(utterances, encode(encoder, utterances), strict=True))
        tensor = tensor_of(routes, vectors, Settings())
        lexicon = Lexicon(encoder.whole_words())
        lexicon.add(utterances)
        misspelled = [misspell(text, seed) for text in clean]
        for name, texts in (("clean", clean), ("typos", misspelled)):
            started = time.perf_counter()
            repaired = [lexicon.repair(text)[0] for text in texts]
            micros = (time.perf_counter() - started) / len(texts) * 1e6
            found.setdefault(f"{name}_repair_us", []).append(micros)
            for key, asked in ((name, texts), (f"{name}_repaired", repaired)):
                found.setdefault(key, []).append(accuracy(tensor, encode(encoder, asked), labels))
    mean = {name: rounded(np.mean(values)) for name, values in found.items()}
    mean["typos_of_clean"] = rounded(mean["typos_repaired"] / mean["clean"])
    return mean


def clauses(corpus: Corpus, pairs: int) -> dict[str, Any]:
    """How many single texts are cut, and how many joined pairs between both."""
    draw = random.Random(0)
    texts = [text.strip() for text, _ in corpus.test]
    single = sum(len(split_clauses(text)) > 1 for text in texts) / len(texts)
    right = dict.fromkeys(JOINS, 0)
    counts = dict.fromkeys(JOINS, 0)
    for _ in range(pairs):
        join = draw.choice(JOINS)
        left = draw.choice(texts).rstrip(".?! ")
        spans = split_clauses(f"{left}{join}{draw.choice(texts)}")
        counts[join] += 1
        right[join] += any(abs(span.end - len(left)) <= 1 for span in spans[:-1])
    shares = {join.strip(): rounded(right[join] / max(1, counts[join])) for join in JOINS}
    return {"single_texts_cut": rounded(single), "pairs_cut": shares}


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    names = SETS if options.data is not None else ("generated",)
    encoder = Encoder()
    found = {}
    for name in names:
        corpus = read_corpus(options.data, name)
        found[name] = {
            "typos": typos(encoder, corpus, options.pick((0, 1, 2), (0,), (0,))),
            "clauses": clauses(corpus, options.pick(6_000, 1_000, 50)),
        }
    return found


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("inputs", given)
    bench.finish(measure(given))

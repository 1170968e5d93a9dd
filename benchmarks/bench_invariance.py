"""Measures whether an embedding depends on its batch, and the share of padding.

python benchmarks/bench_invariance.py [--data FOLDER] [--quick]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness import Bench, Options, read_options, rounded
from route_texts import Corpus, read_corpus
from synaptoroute.encoder import Encoder, Tokens

BATCH = 64
MATES = 31
SEED = 0


def mixes(tokens: list[Tokens], random: np.random.Generator) -> list[list[int]]:
    """Return batches: equal lengths, random, sorted, and the longest with the shortest."""
    order = np.argsort([text.count for text in tokens], kind="stable")
    half = len(order) // 2
    extremes = np.column_stack([order[:half], order[::-1][:half]]).ravel()
    shuffled = random.permutation(len(tokens))
    found = []
    for row, size in ((order, BATCH), (shuffled, BATCH), (shuffled, MATES + 1), (extremes, BATCH)):
        found += [row[start : start + size].tolist() for start in range(0, len(row), size)]
    return found


def invariance(encoder: Encoder, texts: list[str]) -> dict[str, Any]:
    """Encode every text alone and in every batch; return the largest difference."""
    tokens = encoder.tokenize(texts)
    alone = np.concatenate([encoder.encode_tokens([each]) for each in tokens])
    worst = 0.0
    companies = mixes(tokens, np.random.default_rng(SEED))
    for company in companies:
        together = encoder.encode_tokens([tokens[index] for index in company])
        worst = max(worst, float(np.abs(together - alone[company]).max()))
    counts = [text.count for text in tokens]
    return {
        "texts": len(texts),
        "tokens_of_a_text": {"least": min(counts), "most": max(counts)},
        "batches": len(companies),
        "max_difference": worst,
    }


def padding(encoder: Encoder, corpus: Corpus, batches: int) -> dict[str, Any]:
    """Count padding tokens in batches of one length and in mixed ones."""
    tokens = encoder.tokenize(corpus.queries(BATCH * batches, SEED))
    by_count: dict[int, list[Tokens]] = {}
    for each in tokens:
        by_count.setdefault(each.count, []).append(each)
    before = encoder.stats()
    for equal in by_count.values():
        encoder.encode_tokens(equal[:BATCH])
    equal_stats = encoder.stats()
    worst = 0.0
    for start in range(0, len(tokens), BATCH):
        earlier = encoder.stats()
        encoder.encode_tokens(tokens[start : start + BATCH])
        later = encoder.stats()
        real = later.tokens - earlier.tokens
        wasted = later.padding_tokens - earlier.padding_tokens
        worst = max(worst, wasted / (wasted + real))
    after = encoder.stats()
    real = after.tokens - equal_stats.tokens
    wasted = after.padding_tokens - equal_stats.padding_tokens
    return {
        "equal_length_padding_tokens": equal_stats.padding_tokens - before.padding_tokens,
        "mixed_batches": batches,
        "mixed_padding_share": rounded(wasted / (wasted + real)),
        "mixed_padding_share_worst_batch": rounded(worst),
    }


def longer(texts: list[str]) -> list[str]:
    """Add a few long texts, so that the lengths differ by more than a question's do."""
    return texts + [" ".join(texts[start : start + 12]) for start in range(0, len(texts) // 4, 12)]


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    encoder = Encoder()
    corpus = read_corpus(options.data)
    texts = longer(corpus.queries(options.pick(512, 128, 24), SEED))
    return {
        "invariance": invariance(encoder, texts),
        "padding": padding(encoder, corpus, options.pick(20, 5, 1)),
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("invariance", given)
    bench.finish(measure(given))

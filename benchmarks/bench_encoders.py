"""Measures the presets of encoders: accuracy at ten utterances a route, and texts a second.

Route sets are drawn from the training texts of CLINC150 and Banking77 and scored by ``blend``,
so that no fit hides the encoder.  Test texts ask.  Speed is that of short test texts on one
thread, alone and in batches of 64.

    python benchmarks/bench_encoders.py --data DIRECTORY [--models NAME ...] [--out FILE.json]

Models that cannot be had here are left out and named.  The file keeps the figures of models
that are not measured in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness import DATA_VARIABLE, cpu_model
from route_texts import Corpus, read_corpus
from synaptoroute.encoder import PRESETS, TextEncoder, open_encoder
from synaptoroute.encoder.presets import MEASURED_FILE
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.threads import single_blas_thread

COUNT = 10
SEEDS = (0, 1, 2)
SETS = {"CLINC150": "clinc150", "Banking77": "banking77"}
SPEED_TEXTS = 512
BATCH_TEXTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA_VARIABLE), required=False)
    parser.add_argument("--models", nargs="*", default=[preset.model for preset in PRESETS])
    parser.add_argument("--out", type=Path, default=MEASURED_FILE)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error(f"--data or {DATA_VARIABLE} names the folder of the data sets")
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for model in arguments.models:
        try:
            encoder = open_encoder(model)
        except SynaptoRouteError as error:
            print(f"{model}: not measured here: {error}")
            continue
        found[encoder.name] = measure(encoder, Path(arguments.data))
        print(encoder.name, json.dumps(found[encoder.name]))
        encoder.close()
        arguments.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def measure(encoder: TextEncoder, folder: Path) -> dict[str, Any]:
    accuracy, texts = {}, []
    for title, name in SETS.items():
        corpus = read_corpus(folder, name)
        accuracy[title] = round(accuracy_of(encoder, corpus), 3)
        texts += corpus.queries(SPEED_TEXTS // len(SETS), seed=0)
    return {
        "accuracy": accuracy,
        "lone_texts_per_second": round(speed(encoder, texts, 1)),
        "batch_texts_per_second": round(speed(encoder, texts, BATCH_TEXTS)),
        "cpu": cpu_model(),
    }


def accuracy_of(encoder: TextEncoder, corpus: Corpus) -> float:
    """Mean over the seeds of the share of test texts that get their route by ``blend``."""
    names = list(corpus.train)
    queries = encoder.encode([text for text, _ in corpus.test])
    wanted = np.array([names.index(intent) for _, intent in corpus.test])
    shares = []
    for seed in SEEDS:
        drawn = corpus.draw(COUNT, seed)
        rows = encoder.encode_utterances([text for texts in drawn.values() for text in texts])
        starts = np.cumsum([0, *map(len, drawn.values())])[:-1]
        centroids = np.add.reduceat(rows, starts, axis=0)
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        largest = np.maximum.reduceat(queries @ rows.T, starts, axis=1)
        scores = largest + queries @ centroids.T
        shares.append(float((scores.argmax(axis=1) == wanted).mean()))
    return float(np.mean(shares))


def speed(encoder: TextEncoder, texts: list[str], size: int) -> float:
    """Texts a second on one thread, in batches of ``size``."""
    encoder.encode(texts[:size])
    with single_blas_thread():
        started = time.thread_time()
        for start in range(0, len(texts), size):
            encoder.encode(texts[start : start + size])
        return len(texts) / (time.thread_time() - started)


if __name__ == "__main__":
    main()

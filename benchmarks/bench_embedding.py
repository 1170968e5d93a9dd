"""Measures embedding alone: the encoder against plain fastembed with the same model file.

``bulk`` gives each a whole list in one call: one thread of this encoder, and as many as
it has lanes, against fastembed's own batching with its default threads.  ``one by one``
is a text a call from 1 and from 64 clients in threads, for fastembed alone: what an
application that embeds its queries itself has before it routes anything.  ``arithmetic``
says what cannot be left out.

    python benchmarks/bench_embedding.py --data FOLDER [--quick]
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from arithmetic import measure_arithmetic
from contenders import FASTEMBED, contenders
from harness import Bench, Options, ratio, read_options, rounds, spread
from route_texts import read_corpus
from synaptoroute.config import cpu_limit
from synaptoroute.encoder import Encoder

SEED = 0
PART = 64


def timed(work: Any, texts: int) -> float:
    """Texts a second."""
    began = time.perf_counter()
    work()
    return texts / (time.perf_counter() - began)


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    texts = read_corpus(options.data).queries(options.pick(1_024, 512, 32), SEED)
    count, seconds = options.pick((5, 3.0), (2, 1.0), (1, 0.2))
    encoder = Encoder()
    lanes = cpu_limit()
    parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
    with contenders((FASTEMBED,), options) as running, ThreadPoolExecutor(lanes) as pool:
        fastembed = running[FASTEMBED]
        fastembed.do("load", routes={"warm": texts[:PART]})
        encoder.encode(texts[:PART])
        found = rounds(
            {
                "one lane": lambda: timed(lambda: [encoder.encode(p) for p in parts], len(texts)),
                "all lanes": lambda: timed(
                    lambda: list(pool.map(encoder.encode, parts)), len(texts)
                ),
                "fastembed": lambda: timed(
                    lambda: fastembed.do("load", routes={"all": texts}), len(texts)
                ),
            },
            count,
        )
        single = {
            str(clients): fastembed.do("closed", texts=texts, clients=clients, seconds=seconds)
            for clients in (1, 64)
        }
    return {
        "lanes": lanes,
        "texts": len(texts),
        "bulk_texts_per_second": {name: spread(values) for name, values in found.items()},
        "arithmetic": measure_arithmetic(count, options.pick(30, 10, 2)),
        "all_lanes_times_fastembed": ratio(found["all lanes"], found["fastembed"]),
        "fastembed_one_by_one": {
            clients: {key: spread([run[key]]) for key in ("queries_per_second", "p50_ms")}
            for clients, run in single.items()
        },
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("embedding", given)
    bench.finish(measure(given))

"""Measures throughput by number of encoder workers and batch size.

So many threads encode batches of so many texts, as lanes do, each its own share of the same
texts.  The default is a lane for each CPU of the limit; more would wait for each other.

    python benchmarks/bench_lanes.py --data FOLDER [--quick]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from harness import Bench, Options, read_options, rounds, spread
from route_texts import read_corpus
from synaptoroute.config import cpu_limit
from synaptoroute.encoder import Encoder, Tokens

BATCHES = (1, 4, 16, 64)
SEED = 0


def texts_per_second(
    encoder: Encoder, tokens: Sequence[Tokens], lanes: int, batch: int, seconds: float
) -> float:
    """Let the lanes encode for a while; each takes every lanes-th batch."""
    starts = range(0, len(tokens) - batch + 1, batch)
    batches = [tokens[start : start + batch] for start in starts]
    done = [0] * lanes
    began = time.perf_counter()

    def run(lane: int) -> None:
        turn = lane
        while time.perf_counter() - began < seconds:
            encoder.encode_tokens(batches[turn % len(batches)])
            done[lane] += batch
            turn += lanes

    threads = [threading.Thread(target=run, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def measure(options: Options) -> dict[str, Any]:
    """The grid, its cells in turn."""
    encoder = Encoder()
    tokens = encoder.tokenize(read_corpus(options.data).queries(1_024, SEED))
    cpus = cpu_limit()
    lanes = sorted({1, cpus, 2 * cpus})
    seconds, count = options.pick((1.5, 5), (0.5, 2), (0.05, 1))
    found = rounds(
        {
            f"{lane} {batch}": lambda lane=lane, batch=batch: texts_per_second(
                encoder, tokens, lane, batch, seconds
            )
            for lane in lanes
            for batch in BATCHES
        },
        count,
    )
    encoder.close()
    return {
        "cpus": cpus,
        "texts_per_second": {
            str(lane): {str(batch): spread(found[f"{lane} {batch}"]) for batch in BATCHES}
            for lane in lanes
        },
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("lanes", given)
    bench.finish(measure(given))

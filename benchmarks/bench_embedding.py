"""What is embedding alone worth?  The encoder against plain fastembed, same model file.

``bulk`` gives each a whole list in one call: one thread of this encoder, and as many as
it has lanes, against fastembed's own batching with its default threads.  ``one by one``
is a text a call from 1 and from 64 clients in threads, for fastembed alone: what an
application that embeds its queries itself has before it routes anything.  The other runtime
takes part where it is installed; ``arithmetic`` says what cannot be left out.

    python benchmarks/bench_embedding.py --data FOLDER [--quick]
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
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


def cosines(other: Encoder, texts: list[str]) -> dict[str, float]:
    """How near the vectors are to those of float32."""
    exact = Encoder(precision="float32", probe=False)
    found = (other.encode(texts) * exact.encode(texts)).sum(axis=1)
    exact.close()
    return {"mean": round(float(found.mean()), 6), "least": round(float(found.min()), 6)}


def cpu_shares(
    other: Encoder, encoder: Encoder, texts: list[str], count: int
) -> dict[str, dict[str, float]]:
    """CPU time of one encoder over that of another, by texts a call."""

    def seconds(each: Encoder, batch: int) -> float:
        began = time.process_time()
        for start in range(0, min(len(texts), 64 * batch), batch):
            each.encode(texts[start : start + batch])
        return time.process_time() - began

    shares = {}
    for batch in (1, 4, 16, PART):
        for each in (other, encoder):
            seconds(each, batch)
        found = rounds(
            {
                "other": lambda batch=batch: seconds(other, batch),
                "own": lambda batch=batch: seconds(encoder, batch),
            },
            count,
        )
        shares[str(batch)] = ratio(found["other"], found["own"])
    return shares


def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    texts = read_corpus(options.data).queries(options.pick(1_024, 512, 32), SEED)
    count, seconds = options.pick((5, 3.0), (2, 1.0), (1, 0.2))
    encoder = Encoder()
    others = {"openvino": Encoder(backend="openvino")} if find_spec("openvino") else {}
    lanes = cpu_limit()
    parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
    with contenders((FASTEMBED,), options) as running, ThreadPoolExecutor(lanes) as pool:
        fastembed = running[FASTEMBED]
        fastembed.do("load", routes={"warm": texts[:PART]})
        for each in (encoder, *others.values()):
            each.encode(texts[:PART])
        found = rounds(
            {
                "one lane": lambda: timed(lambda: [encoder.encode(p) for p in parts], len(texts)),
                "all lanes": lambda: timed(
                    lambda: list(pool.map(encoder.encode, parts)), len(texts)
                ),
                **{
                    f"all lanes, {name}": lambda other=other: timed(
                        lambda: list(pool.map(other.encode, parts)), len(texts)
                    )
                    for name, other in others.items()
                },
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
        "openvino": {
            name: {
                "cosine_to_float32": cosines(other, texts),
                "times_onnxruntime": ratio(found[f"all lanes, {name}"], found["all lanes"]),
                "cpu_time_of_onnxruntime": cpu_shares(other, encoder, texts, count),
            }
            for name, other in others.items()
        }.get("openvino"),
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

"""Measures packed graphs of a model against the model's own padded file, in one run.

Texts a second of one thread in CPU time, which others on the machine disturb least: alone, and
in batches of 16 and 64 test texts of CLINC150 and Banking77.  ``accuracy`` is that of ``blend`` at
ten utterances a route.  The model is a folder (see docs/cli.md); it is packed first.

    python benchmarks/bench_packed.py --model FOLDER --data FOLDER [--quick]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench_encoders import SETS, accuracy_of
from harness import add_options, cpu_model, ratio, rounds, to_options
from route_texts import read_corpus
from synaptoroute.encoder import Encoder
from synaptoroute.encoder.catalogue import find_recipe
from synaptoroute.encoder_graph.packing import pack_model
from synaptoroute.threads import single_blas_thread

SEED = 0
BATCHES = (1, 16, 64)


def seconds_of(encoder: Encoder, texts: Sequence[str], batch: int) -> float:
    """CPU time of this thread."""
    with single_blas_thread():
        began = time.thread_time()
        for start in range(0, len(texts), batch):
            encoder.encode(texts[start : start + batch])
        return time.thread_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a folder, or the name of a model")
    parser.add_argument("--no-accuracy", action="store_true", help="only measure speed")
    add_options(parser)
    given = parser.parse_args()
    options = to_options(given)
    count, lone, many = options.pick((9, 64, 512), (5, 32, 256), (1, 2, 4))
    corpora = {title: read_corpus(options.data, name) for title, name in SETS.items()}
    texts = [text for each in corpora.values() for text in each.queries(many // 2, SEED)]
    model: str | Path = Path(given.model) if Path(given.model).is_dir() else given.model
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        encoders = {"padded": Encoder(model, precision="float32", cache_dir=cache)}
        found: dict[str, Any] = {"model": given.model, "cpu": cpu_model(), "reasons": {}}
        for precision in ("float32", "int8"):
            packed = pack_model(find_recipe(model, cache), precision, cache)
            if packed.is_used:
                encoders[precision] = Encoder(model, precision=precision, cache_dir=cache)
            else:
                found["reasons"][precision] = packed.reason
        for batch in BATCHES:
            some = texts[:: many // lone] if batch == 1 else texts
            work = {key: partial(seconds_of, each, some, batch) for key, each in encoders.items()}
            taken = rounds(work, count)
            found[f"batches of {batch}"] = {
                "padded_texts_per_second": round(len(some) / min(taken["padded"])),
                **{key: ratio(taken["padded"], taken[key]) for key in taken if key != "padded"},
            }
        if not given.no_accuracy:
            found["accuracy"] = {
                title: {key: round(accuracy_of(each, corpus), 4) for key, each in encoders.items()}
                for title, corpus in corpora.items()
            }
    print(json.dumps(found, indent=1))
    if options.json_file is not None:
        options.json_file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

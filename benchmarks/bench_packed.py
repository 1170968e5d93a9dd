"""Measures packed graphs of models against the models' own padded files, in one run.

Texts a second of one thread in CPU time, which others on the machine disturb least: alone, and
in batches of 16 and 64 test texts of CLINC150 and Banking77.  ``accuracy`` is that of ``blend`` at
ten utterances a route.  A model is a folder (see docs/cli.md); it is packed first.  Without
``--model`` every folder of ``.cache/models`` is taken, where the tests keep a second model.

    python benchmarks/bench_packed.py [--model FOLDER] --data FOLDER [--standard | --quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from bench_encoders import SETS, accuracy_of
from encoders import second_model
from harness import ROOT, Bench, Options, add_options, ratio, rounds, to_options
from route_texts import read_corpus
from synaptoroute.encoder import Encoder
from synaptoroute.encoder.catalogue import find_recipe
from synaptoroute.encoder_graph.packing import pack_model
from synaptoroute.threads import single_blas_thread

SEED = 0
BATCHES = (1, 16, 64)
PRECISIONS: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")
MODELS = ROOT / ".cache" / "models"


def seconds_of(encoder: Encoder, texts: Sequence[str], batch: int) -> float:
    """CPU time of this thread."""
    with single_blas_thread():
        began = time.thread_time()
        for start in range(0, len(texts), batch):
            encoder.encode(texts[start : start + batch])
        return time.thread_time() - began


def folders_of_models() -> tuple[list[str | Path], str]:
    """Folders in the cache, where the tests put one if they can, and the reason for none."""
    found: list[str | Path] = sorted(path.parent for path in MODELS.glob("*/tokenizer.json"))
    if found:
        return found, ""
    try:
        return [second_model()], ""
    except (pytest.skip.Exception, pytest.fail.Exception, OSError) as error:
        return [], f"no model in .cache/models, and none can be installed: {error}"


def measure(model: str | Path, options: Options, *, has_accuracy: bool) -> dict[str, Any]:
    """All figures of one model."""
    count, lone, many = options.pick((9, 64, 512), (5, 32, 256), (1, 2, 4))
    names = SETS if options.data else {"generated": "generated"}
    corpora = {title: read_corpus(options.data, name) for title, name in names.items()}
    texts = [text for each in corpora.values() for text in each.queries(many // 2, SEED)]
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        encoders = {"padded": Encoder(model, precision="float32", cache_dir=cache)}
        found: dict[str, Any] = {"reasons": {}, "batches": {}}
        for precision in PRECISIONS:
            packed = pack_model(find_recipe(model, cache), precision, cache)
            if packed.is_used:
                encoders[precision] = Encoder(model, precision=precision, cache_dir=cache)
            else:
                found["reasons"][precision] = packed.reason
        for batch in BATCHES:
            some = texts[:lone] if batch == 1 else texts
            work = {key: partial(seconds_of, each, some, batch) for key, each in encoders.items()}
            taken = rounds(work, count)
            found["batches"][str(batch)] = {
                "padded_texts_per_second": round(len(some) / min(taken["padded"])),
                **{key: ratio(taken["padded"], taken[key]) for key in taken if key != "padded"},
            }
        if has_accuracy:
            found["accuracy"] = {
                title: {key: round(accuracy_of(each, corpus), 4) for key, each in encoders.items()}
                for title, corpus in corpora.items()
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder, or the name of a model")
    parser.add_argument("--no-accuracy", action="store_true", help="only measure speed")
    add_options(parser)
    given = parser.parse_args()
    options = to_options(given)
    bench = Bench("packed", options)
    models: list[str | Path] = []
    reason = ""
    if given.model is None:
        models, reason = folders_of_models()
    else:
        models = [Path(given.model) if Path(given.model).is_dir() else given.model]
    has_accuracy = not given.no_accuracy and options.size in ("full", "quick")
    found = {Path(each).name: measure(each, options, has_accuracy=has_accuracy) for each in models}
    figures: dict[str, Any] = {"models": found}
    if reason:
        figures["skipped"] = reason
    times = [each["batches"]["64"].get("float32") for each in found.values()]
    if times and all(times):
        figures["float32_times_faster"] = min(each["median"] for each in times)
    bench.finish(figures)


if __name__ == "__main__":
    main()

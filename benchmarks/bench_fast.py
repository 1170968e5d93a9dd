"""The preset ``fast`` beside MicroResolve 0.2.2, wordllama 0.4.0 and the default encoder.

All hold the same utterances, ten a route, and answer the same test texts one after the other, each
in a fresh process: the best route of every text counts, whatever its confidence.  The router is
fitted and is opened from its file, as at the second start of a program.  wordllama has no router:
it embeds, and numpy scores as ``blend`` does.

* ``accuracy``: share of the texts that get their route.
* ``microseconds``: of one call, text to route.
* ``start``: import and opening, in seconds of the clock and of the processor, and MiB then.
* ``mib``: resident memory after all texts.

``decisions`` has accuracy and confidence of ``fast`` with every aggregation, as
``bench_accuracy.py`` measures them.

    python benchmarks/peers/install.py microresolve wordllama
    python benchmarks/bench_fast.py --data FOLDER [--quick] [--no-peers]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench_accuracy import Peers, Vectors, table
from harness import Bench, Options, quantiles, ratio, read_options, rounded, rounds
from peers.install import environment, is_installed
from route_texts import Corpus, read_corpus, read_out_of_scope
from synaptoroute.encoder import open_encoder

COUNT = 10
COUNTS = (5, 10, 20, 50)
_SIDES = Path(__file__).parent / "peers" / "fast_sides.py"
_OURS = {"ours": "fast", "default": "default"}
_PEERS = ("microresolve", "wordllama")


def run(side: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run one side in a process of its own."""
    own = side not in _PEERS
    done = subprocess.run(
        [sys.executable if own else str(environment(side) / "bin" / "python"), str(_SIDES), side],
        # A peer must find its own packages, some of which have the names of ours.
        env={k: v for k, v in os.environ.items() if own or k != "PYTHONPATH"},
        input=json.dumps(given),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


def measure(options: Options, corpus: Corpus) -> dict[str, Any]:
    """Measure all sides on one set, in turns."""
    names = ["ours", "default"]
    names += [name for name in _PEERS if options.peers and is_installed(name)]
    # Some sides refuse names with other characters.
    plain = {intent: f"r{number}" for number, intent in enumerate(corpus.train)}
    test = [
        (text, plain[intent])
        for text, intent in corpus.test[:: options.pick(1, 10, 10, standard=4)]
    ]
    texts = [text for text, _ in test]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(options.pick(3, 2, 1)):
        routes = {plain[intent]: own for intent, own in corpus.draw(COUNT, seed).items()}
        with tempfile.TemporaryDirectory() as folder:
            given = {name: {"routes": routes, "texts": texts} for name in names}
            for side, model in _OURS.items():
                database = f"{folder}/{side}.sqlite"
                given[side] = {"database": database, "texts": texts}
                run("fill", {"database": database, "model": model, "routes": routes})
            once = rounds({name: _of(name, given[name]) for name in names}, 1)
        for name, (figures,) in once.items():
            figures["right"] = [
                answer == wanted
                for answer, (_, wanted) in zip(figures.pop("answers"), test, strict=True)
            ]
            found[name].append(figures)
    report: dict[str, Any] = {"texts": len(texts), **{n: _figures(r) for n, r in found.items()}}
    middle = {name: [median(run["microseconds"]) for run in runs] for name, runs in found.items()}
    for name in names[1:]:
        report[f"p50_of_{name}"] = ratio(middle["ours"], middle[name])
        points = 100 * (report["ours"]["accuracy"] - report[name]["accuracy"])
        report[f"points_over_{name}"] = rounded(points)
    return report


def decisions(options: Options, name: str) -> dict[str, Any]:
    """Measure accuracy and confidence of the preset on one set."""
    encoder = open_encoder("fast")
    corpus, outside = read_corpus(options.data, name), read_out_of_scope(options.data)
    counts = options.pick(COUNTS, (COUNT,), (COUNT,))
    with tempfile.TemporaryDirectory() as folder:
        nobody = Peers({}, Path(folder))
        return table(encoder, Vectors(encoder), corpus, outside, counts, nobody)


def _of(name: str, given: dict[str, Any]) -> Any:
    return lambda: run(name, given)


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "accuracy": rounded(fmean(fmean(run["right"]) for run in runs)),
        "microseconds": quantiles([each for run in runs for each in run["microseconds"]]),
        "cpu_microseconds": rounded(median(run["cpu_microseconds"] for run in runs)),
        "start": {
            key: rounded(median(run[f"start_{key}"] for run in runs))
            for key in ("seconds", "cpu_seconds", "mib")
        },
        "mib": rounded(median(run["mib"] for run in runs)),
    }


def main() -> None:
    options = read_options(__doc__)
    bench = Bench("fast", options)
    sets = ("clinc150", "banking77") if options.data else ("generated",)
    figures = {
        name: {
            **measure(options, read_corpus(options.data, name)),
            "decisions": decisions(options, name),
        }
        for name in sets
    }
    bench.finish(figures)


if __name__ == "__main__":
    main()

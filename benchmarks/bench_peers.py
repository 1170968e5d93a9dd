"""Measures accuracy beside speed: this project and other routers, same texts, same model file.

Every contender runs as it is installed, with its own defaults and thresholds: a text for which
it finds no route counts as wrong.  MicroResolve and wordllama have no threshold here: every text
gets its best route.  ``out_of_scope_answered`` is the share of CLINC150's out-of-scope texts that
get a route.  Nothing is cached.

fastembed encodes and does not route: it has a speed and no accuracy.  stratarouter publishes
18,000 requests a second and 8.7 ms for its core in Rust, which is given vectors: that core, one
vector a route, is measured by itself.  RedisVL is left out: its router needs a Redis with the
search module, and no package of the index that the others come from provides one.

    python benchmarks/bench_peers.py --data FOLDER [--standard | --quick]
"""

from __future__ import annotations

from typing import Any

from contenders import (
    FASTEMBED,
    OURS_DEFAULTS,
    OURS_FAST,
    PEERS,
    STRATAROUTER,
    Process,
    contenders,
    in_turns,
)
from harness import Bench, Options, ratio, read_options, rounded, spread
from route_texts import Corpus, read_corpus, read_out_of_scope

CLIENTS = (1, 64)
UTTERANCES = 10
SEED = 0
CORE_REPEATS = 2_000
DIM = 384
LEFT_OUT = {"RedisVL": "not possible here: no server with search"}


def named(corpus: Corpus) -> Corpus:
    """The set with names that every contender takes."""
    plain = {intent: f"r{number}" for number, intent in enumerate(corpus.train)}
    train = {plain[intent]: texts for intent, texts in corpus.train.items()}
    return Corpus(corpus.name, train, [(text, plain[each]) for text, each in corpus.test])


def judge(process: Process, corpus: Corpus, count: int, options: Options) -> dict[str, Any]:
    """Share of right answers, and of out-of-scope texts that got one."""
    labels = dict(corpus.test)
    texts = corpus.queries(count, SEED)
    answers = process.do("route", texts=texts)
    right = sum(labels[text] == answer for text, answer in zip(texts, answers, strict=True))
    found = {"texts": len(texts), "right": rounded(right / len(texts))}
    if corpus.name != "banking77":
        foreign = read_out_of_scope(options.data)[:count]
        given = process.do("route", texts=foreign)
        answered = sum(answer is not None for answer in given)
        found["out_of_scope_answered"] = rounded(answered / len(foreign))
    return found


def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    seconds, count = options.pick((2.0, 9), (1.5, 3), (0.2, 1), standard=(1.5, 2))
    judged = options.pick(2_000, 500, 20, standard=400)
    sets = ("clinc150", "banking77") if options.data else ("generated",)
    timed = options.pick(sets, sets, sets, standard=sets[:1])
    found: dict[str, Any] = {}
    core: dict[str, Any] | None = None
    with contenders((OURS_DEFAULTS, OURS_FAST, *PEERS, FASTEMBED), options) as running:
        for name in sets:
            corpus = named(read_corpus(options.data, name))
            for process in running.values():
                process.do("load", routes=corpus.draw(UTTERANCES, SEED))
            found[name] = {
                "routes": len(corpus.train),
                "accuracy": {
                    each: judge(process, corpus, judged, options)
                    for each, process in running.items()
                    if each != FASTEMBED
                },
            }
            if name in timed:
                texts = corpus.queries(4_096, SEED)
                found[name]["speed"] = _speed(running, texts, seconds, count)
        if STRATAROUTER in running:
            core = _core(running[STRATAROUTER], options)
    return {
        "utterances_a_route": UTTERANCES,
        "rounds": count,
        "sets": found,
        "stratarouter_core_alone": core,
        "left_out": LEFT_OUT,
    }


def _speed(
    running: dict[str, Process], texts: list[str], seconds: float, count: int
) -> dict[str, Any]:
    """Closed loops in turns: queries a second and p50, and ours against each."""
    found: dict[str, Any] = {}
    for clients in CLIENTS:
        runs = in_turns(running, texts, clients, seconds, count)
        rates = {name: [run["queries_per_second"] for run in own] for name, own in runs.items()}
        middles = {name: [run["p50_ms"] for run in own] for name, own in runs.items()}
        found[f"clients_{clients}"] = {
            name: {
                "queries_per_second": spread(rates[name]),
                "p50_ms": spread(middles[name]),
                "ours_times_faster": ratio(rates[OURS_DEFAULTS], rates[name]),
                "ours_p50_share": ratio(middles[OURS_DEFAULTS], middles[name]),
            }
            for name in running
        }
    return found


def _core(process: Process, options: Options) -> dict[str, Any]:
    """Its core alone: one vector a route, given vectors, one query after the other."""
    routes = 150
    process.do("fill", count=routes * 10, dim=DIM)
    repeats = options.pick(CORE_REPEATS, 500, 20)
    each_ms = process.do("search", repeats=repeats, dim=DIM)
    return {"routes": routes, "search_ms": spread(each_ms)}


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("peers", given)
    bench.finish(measure(given))

"""Measures questions at ``/v1/decisions`` beside the same texts at ``/v1/query``.

* ``speed``: a choice of ten options that are routes, ten of 150 routes drawn by ``default_rng(0)``,
  beside a query of the same text.  Lone requests one after the other, and 64 clients at once; texts
  that are encoded each time, and requests that the response cache answers.  ``ratio`` of decisions
  to queries: of p50, of the node's CPU time a request, and of the time a request at that rate.
* ``accuracy``: all routes as options, with each test text, and CLINC150's out-of-scope texts.
  ``same_choice`` is the share of texts whose choice is the first candidate of the query, and
  ``same_confidence`` that of texts with the same bits of confidence; ``same_decision`` is the share
  with an option ``none`` that is chosen where the query has no route.
* ``by_text``: options that are no routes, named by the words of intents, one of them right; the
  others are drawn at ``random``, or are the ``near`` ones, most similar to the text.  ``ece`` is
  the expected calibration error over 15 bins of the probability of the choice, ``ece_confidence``
  that of its confidence.  ``two_sides``: the same for the probability of the side that is asked
  for.  ``none``: share of texts, with a right option and out of scope, for which an option ``none``
  is chosen.

    python benchmarks/bench_decisions.py --data FOLDER [--quick]
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_http import CACHED_TEXTS, CLIENTS, Connection, node, put_routes
from harness import Bench, Options, quantiles, ratio, read_options, rounded, rounds, spread
from route_texts import SETS, Corpus, read_corpus, read_out_of_scope
from synaptoroute.core.mutation import DEFAULT_UNMATCHED_SHARE
from synaptoroute.encoder import Encoder
from synaptoroute.questions import (
    ChoiceQuestion,
    Option,
    OptionScores,
    SidesAnswer,
    SidesQuestion,
    answer,
    answer_choice,
)
from synaptoroute.questions.answers import TextFigures

SEED = 0
OPTIONS = 10
FIT_SECONDS_MAX = 240.0
FITTED = b'synaptoroute_calibration_state{state="fitted"} 1.0'
DECISIONS, QUERY = "/v1/decisions", "/v1/query"
MakeBody = Callable[[str], bytes]


def query_body(text: str) -> bytes:
    """A plain query."""
    return json.dumps({"text": text}).encode()


def choice_body(names: Sequence[str]) -> MakeBody:
    """A question with these options."""
    question = {
        "type": "choice",
        "name": "route",
        "instructions": "Which route does the message belong to?",
        "choices": [{"value": name} for name in names],
    }

    def make(text: str) -> bytes:
        return json.dumps({"model": "default", "input": text, "questions": [question]}).encode()

    return make


async def closed_loop(
    port: int, path: str, bodies: Sequence[bytes], clients: int, seconds: float, use_cache: bool
) -> dict[str, float]:
    """Clients that ask, wait, and ask again, each on its own connection."""
    connections = [await Connection.open(port) for _ in range(clients)]
    source, latencies = cycle(bodies), []
    began, began_cpu = time.perf_counter(), node_cpu_seconds()

    async def client(connection: Connection) -> None:
        while (sent := time.perf_counter()) - began < seconds:
            await connection.post(path, next(source), use_cache=use_cache)
            latencies.append((time.perf_counter() - sent) * 1_000)

    await asyncio.gather(*map(client, connections))
    elapsed = time.perf_counter() - began
    for connection in connections:
        connection.close()
    found = quantiles(latencies)
    return {
        "queries_per_second": len(latencies) / elapsed,
        "p50_ms": found["p50"],
        "p99_ms": found["p99"],
        "node_cpu_ms": (node_cpu_seconds() - began_cpu) * 1_000 / len(latencies),
    }


def node_cpu_seconds() -> float:
    """CPU time of the node so far, the only child of this process."""
    child = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()[0]
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_speed(port: int, names: Sequence[str], texts: Sequence[str], o: Options) -> Any:
    """Both endpoints in turn, for each kind of load."""
    make = choice_body(names)
    seconds, count = o.pick(4.0, 2.0, 0.2), o.pick(7, 3, 1)
    figures = {}
    for name, clients, use_cache in (
        ("lone_encoded", 1, False),
        ("clients_encoded", CLIENTS, False),
        ("lone_cached", 1, True),
        ("clients_cached", CLIENTS, True),
    ):
        asked = texts[:CACHED_TEXTS] if use_cache else texts
        sides = {
            path: [body(text) for text in asked]
            for path, body in ((QUERY, query_body), (DECISIONS, make))
        }

        def run(path: str, bodies: list[bytes], clients: int, use_cache: bool) -> dict[str, float]:
            return asyncio.run(closed_loop(port, path, bodies, clients, seconds, use_cache))

        found = rounds(
            {
                path: partial(run, path, bodies, clients, use_cache)
                for path, bodies in sides.items()
            },
            count,
        )
        figures[name] = {
            path: {key: spread([each[key] for each in runs]) for key in runs[0]}
            for path, runs in found.items()
        }
        figures[name]["ratio"] = {
            "p50_ms": ratio(
                [each["p50_ms"] for each in found[DECISIONS]],
                [each["p50_ms"] for each in found[QUERY]],
            ),
            "node_cpu_ms": ratio(
                [each["node_cpu_ms"] for each in found[DECISIONS]],
                [each["node_cpu_ms"] for each in found[QUERY]],
            ),
            "seconds_per_query": ratio(
                [1 / each["queries_per_second"] for each in found[DECISIONS]],
                [1 / each["queries_per_second"] for each in found[QUERY]],
            ),
        }
    return figures


async def compare_answers(
    port: int, names: Sequence[str], texts: Sequence[tuple[str, str | None]]
) -> dict[str, float]:
    """Ask both endpoints the same texts."""
    plain, with_none = choice_body(names), choice_body([*names, "none"])
    counts = dict.fromkeys(
        ("same_choice", "same_confidence", "same_decision", "query_right", "choice_right"), 0
    )
    inside = 0
    connection = await Connection.open(port)
    for text, label in texts:
        explained = json.dumps({"text": text, "explain": True}).encode()
        match = json.loads(await connection.post(QUERY, explained, use_cache=True))
        answers = []
        for make in (plain, with_none):
            document = json.loads(await connection.post(DECISIONS, make(text), use_cache=True))
            answers.append(document["answers"][0])
        first, second = answers
        candidates = match["candidates"]
        top = candidates[0]["route"] if candidates else None
        counts["same_choice"] += top is None or top == first["choice"]
        counts["same_confidence"] += match["confidence"] == first["confidence"]
        decided = None if second["choice"] == "none" else second["choice"]
        counts["same_decision"] += decided == match["route"]
        if label is not None:
            inside += 1
            counts["query_right"] += top == label
            counts["choice_right"] += first["choice"] == label
    connection.close()
    shares = {
        name: count / (inside if name.endswith("_right") else len(texts))
        for name, count in counts.items()
    }
    return {"texts": len(texts), **{name: rounded(share) for name, share in shares.items()}}


def wait_fitted(port: int) -> None:
    """Wait until the node has fitted the route set."""
    give_up_at = time.monotonic() + FIT_SECONDS_MAX
    while time.monotonic() < give_up_at:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            if FITTED in response.read():
                return
        time.sleep(0.2)
    raise RuntimeError("the node did not fit its routes")


def similarities(encoder: Encoder, corpus: Corpus, texts: list[str]) -> NDArray[np.float64]:
    """Cosine similarity of texts and the words of intents: float64[texts, intents]."""
    words = [Option.of(name).text for name in sorted(corpus.train)]
    return encoder.encode(texts).astype(np.float64) @ encoder.encode_utterances(words).T


def scores_of(values: dict[str, float], fingerprint: str) -> OptionScores:
    """Scores of a pass over a set without these routes."""
    return OptionScores(
        version="",
        node="",
        tokens=0,
        was_cached=False,
        is_understood=True,
        routes={},
        texts={text: TextFigures(value, value) for text, value in values.items()},
        exact=(),
        barred=frozenset(),
        levels=None,
        fingerprint=fingerprint,
        unmatched_share=DEFAULT_UNMATCHED_SHARE,
    )


class TextJudge:
    """Measures options that are no routes, on the test texts of a set."""

    def __init__(self, options: Options, name: str, encoder: Encoder) -> None:
        corpus = read_corpus(options.data, name)
        self._random = np.random.default_rng(SEED)
        self._fingerprint = encoder.fingerprint
        self._options = [Option.of(intent) for intent in sorted(corpus.train)]
        order = self._random.permutation(len(corpus.test))[: options.pick(2_000, 600, 20)]
        asked = [corpus.test[at] for at in order]
        places = {intent: at for at, intent in enumerate(sorted(corpus.train))}
        self._right = [places[intent] for _, intent in asked]
        self._inside = similarities(encoder, corpus, [text for text, _ in asked])
        foreign = read_out_of_scope(options.data)[: len(asked)]
        self._outside = similarities(encoder, corpus, foreign)

    def figures(self) -> dict[str, Any]:
        """Return all figures of the set."""
        by_text: dict[str, Any] = {}
        for count in (2, 5, 10, 50):
            if count <= len(self._options):
                for kind in ("random", "near"):
                    by_text[f"{count} {kind}"] = self._choices(count, kind)
                by_text[f"{count} none"] = {
                    "inside": self._nones(self._inside, self._right, count),
                    "outside": self._nones(self._outside, [None] * len(self._outside), count),
                }
        sides = {kind: self._sides(kind) for kind in ("random", "near")}
        sides["both"] = (
            [*sides["random"][0], *sides["near"][0]],
            [
                *sides["random"][1],
                *sides["near"][1],
            ],
        )
        errors = {kind: rounded(calibration_error(*found)) for kind, found in sides.items()}
        return {"by_text": by_text, "two_sides": errors}

    def _others(self, row: int, count: int, kind: str) -> list[int]:
        ranked = np.argsort(-self._inside[row])
        left = ranked[ranked != self._right[row]]
        return [int(at) for at in (left if kind == "near" else self._random.permutation(left))][
            :count
        ]

    def _scores(self, row: NDArray[np.float64], places: Sequence[int]) -> OptionScores:
        values = {self._options[at].text: float(row[at]) for at in places}
        return scores_of(values, self._fingerprint)

    def _choices(self, count: int, kind: str) -> dict[str, float]:
        chances, confidences, right = [], [], []
        for row, place in enumerate(self._right):
            places = [place, *self._others(row, count - 1, kind)]
            question = ChoiceQuestion(tuple(self._options[at] for at in places))
            found = answer_choice(question, self._scores(self._inside[row], places))
            chances.append(max(found.probabilities))
            confidences.append(found.confidence)
            right.append(found.choice == self._options[place].value)
        return {
            "accuracy": rounded(float(np.mean(right))),
            "ece": rounded(calibration_error(chances, right)),
            "ece_confidence": rounded(calibration_error(confidences, right)),
        }

    def _nones(self, rows: NDArray[np.float64], right: Sequence[int | None], count: int) -> float:
        taken = 0
        for row, place in zip(rows, right, strict=True):
            places = [int(at) for at in self._random.permutation(len(self._options))[:count]]
            if place is not None and place not in places:
                places[0] = place
            options = (*(self._options[at] for at in places), Option.of("none"))
            found = answer_choice(ChoiceQuestion(options), self._scores(row, places))
            taken += found.choice == "none"
        return rounded(taken / len(rows))

    def _sides(self, kind: str) -> tuple[list[float], list[bool]]:
        """Probabilities of the side that is asked for, and whether it is the right one."""
        chances, right = [], []
        for row, place in enumerate(self._right):
            (other,) = self._others(row, 1, kind)
            is_true = bool(self._random.integers(2))
            sides = (place, other) if is_true else (other, place)
            asks = SidesQuestion.of(*(self._options[at].text for at in sides))
            found = answer(asks, self._scores(self._inside[row], sides))
            assert isinstance(found, SidesAnswer)
            chances.append(found.probability)
            right.append(is_true)
        return chances, right


def calibration_error(chances: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error over 15 bins of equal width."""
    predicted, seen = np.array(chances), np.array(right, np.float64)
    bins = np.minimum((predicted * 15).astype(int), 14)
    return float(
        sum(
            abs(predicted[own].mean() - seen[own].mean()) * own.mean()
            for own in (bins == each for each in range(15))
            if own.any()
        )
    )


def _name(intent: str) -> str:
    return intent.rstrip("?")


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    figures: dict[str, Any] = {"accuracy": {}}
    for name in SETS:
        corpus = read_corpus(options.data, name)
        # A question mark in the name of an intent would begin the query of its URL.
        routes = {_name(intent): texts for intent, texts in corpus.draw(10, SEED).items()}
        with tempfile.TemporaryDirectory() as folder, node(Path(folder)) as port:
            put_routes(port, routes)
            wait_fitted(port)
            if "speed" not in figures:
                drawn = np.random.default_rng(SEED).permutation(sorted(routes))[:OPTIONS].tolist()
                figures["speed"] = measure_speed(port, drawn, corpus.queries(4_096, SEED), options)
            texts: list[tuple[str, str | None]] = [(text, _name(own)) for text, own in corpus.test]
            texts += [(text, None) for text in read_out_of_scope(options.data)]
            order = np.random.default_rng(SEED).permutation(len(texts))
            kept = [texts[at] for at in order[: options.pick(len(texts), 600, 10)]]
            figures["accuracy"][corpus.name] = asyncio.run(
                compare_answers(port, sorted(routes), kept)
            )
    encoder = Encoder(providers=["CPUExecutionProvider"])
    figures["texts"] = {name: TextJudge(options, name, encoder).figures() for name in SETS}
    encoder.close()
    return figures


if __name__ == "__main__":
    read = read_options(__doc__)
    bench = Bench("decisions", read)
    bench.finish(measure(read))

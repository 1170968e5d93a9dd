"""Routers without a transformer, each in a process of its own: start, memory, answers, latency.

Standard input is one JSON object: ``routes`` and ``texts``, and ``database`` for this project.
Standard output is one JSON object.  A side needs its own packages and the standard library alone.

    python benchmarks/peers/fast_sides.py ours|default|microresolve|wordllama
    python benchmarks/peers/fast_sides.py fill
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[[str], "str | None"]
Routes = dict[str, list[str]]


def ours(given: dict[str, Any], started: Callable[[], None], model: str = "fast") -> Ask:
    """Open the router from a file that ``fill`` left, as a program does at its next start."""
    from synaptoroute import AdaptiveRouter, Encoder
    from synaptoroute.storage import SQLiteStorage

    router = AdaptiveRouter(Encoder(model), SQLiteStorage(given["database"]))
    started()
    return lambda text: router.query(text).route


def default(given: dict[str, Any], started: Callable[[], None]) -> Ask:
    return ours(given, started, "default")


def fill(given: dict[str, Any]) -> None:
    """Write the routes into a database and fit it, as a router does by itself after a while."""
    import asyncio

    from synaptoroute import AdaptiveRouter, Encoder, Route
    from synaptoroute.storage import SQLiteStorage

    async def act() -> None:
        router = AdaptiveRouter(Encoder(given["model"]), SQLiteStorage(given["database"]))
        for name, utterances in given["routes"].items():
            router.add_route(Route(name=name, utterances=utterances))
        await router.start()
        # Every text gets its best route, as from the others.
        settings = await router.aget_settings()
        await router.aput_settings(settings.model_copy(update={"confidence_min": 0.0}))
        await router.fits.fit_now()
        await router.stop()

    asyncio.run(act())


def microresolve(given: dict[str, Any], started: Callable[[], None]) -> Ask:
    """Seeded with the utterances; the best intent, whatever its band."""
    routes: Routes = given["routes"]
    from microresolve import MicroResolve

    space = MicroResolve().namespace("bench")
    started()
    for name, utterances in routes.items():
        space.add_intent(name, utterances)

    def ask(text: str) -> str | None:
        found = space.resolve(text).intents
        return found[0].id if found else None

    return ask


def wordllama(given: dict[str, Any], started: Callable[[], None]) -> Ask:
    """Its embeddings with the score ``blend`` in numpy: it has no router of its own."""
    routes: Routes = given["routes"]
    import numpy as np
    import wordllama as package
    from wordllama import WordLlama

    # The wheel has the tokenizer where its loader does not look.
    model = WordLlama.load(cache_dir=Path(package.__file__).parent, disable_download=True)
    started()
    names = list(routes)
    rows = model.embed([text for texts in routes.values() for text in texts], norm=True)
    starts = np.cumsum([0, *map(len, routes.values())])[:-1]
    centroids = np.add.reduceat(rows, starts, axis=0)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)

    def ask(text: str) -> str | None:
        query = model.embed(text, norm=True)[0]
        scores = np.maximum.reduceat(rows @ query, starts) + centroids @ query
        return names[int(scores.argmax())]

    return ask


SIDES = {
    "ours": ours,
    "default": default,
    "microresolve": microresolve,
    "wordllama": wordllama,
}


def memory_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    given: dict[str, Any] = json.load(sys.stdin)
    if sys.argv[1] == "fill":
        fill(given)
        return
    figures: dict[str, Any] = {}
    began, worked = time.perf_counter(), time.process_time()

    def started() -> None:
        figures["start_seconds"] = time.perf_counter() - began
        figures["start_cpu_seconds"] = time.process_time() - worked
        figures["start_mib"] = memory_mib()

    ask = SIDES[sys.argv[1]](given, started)
    texts: list[str] = given["texts"]
    for text in texts[:100]:
        ask(text)
    figures["answers"], figures["microseconds"] = [], []
    worked = time.process_time()
    for text in texts:
        sent = time.perf_counter_ns()
        found = ask(text)
        figures["microseconds"].append((time.perf_counter_ns() - sent) / 1e3)
        figures["answers"].append(found)
    figures["cpu_microseconds"] = (time.process_time() - worked) / len(texts) * 1e6
    figures["mib"] = memory_mib()
    json.dump(figures, answers)
    answers.close()
    os._exit(0)  # some libraries leave threads that never end


if __name__ == "__main__":
    main()

"""synaptoroute 0.4.1, the single-node original's later release, as a contender.

Its import package has the same name as this project's, so this runs only in an
environment of its own.  The encoder is made as its quick start makes it, the router has
its default profile and index (NumPy), routes are kept in SQLite in memory: no disk.
A route counts as visible when its index holds it; 0.4.1 returns before that, and
writes to its database later still.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
from bundled_model import register
from contender import serve

POLL_SECONDS = 0.00005
CAPACITY = 60_000


class SynaptoRoutePeer:
    """See ``contender.Contender``."""

    def __init__(self, model: str) -> None:
        from synaptoroute.encoder import FastEmbedEncoder

        self._encoder = FastEmbedEncoder(model_name=model, providers=["CPUExecutionProvider"])
        self._router = None

    async def _restart(self) -> None:
        from synaptoroute.router import AdaptiveRouter

        if self._router is not None:
            await self._router.stop()
        self._router = AdaptiveRouter(self._encoder, max_capacity=CAPACITY)
        await self._router.start()

    async def load(self, routes: dict[str, list[str]]) -> None:
        await self._restart()
        for name, texts in routes.items():
            self._router.add_route(self._route(name, texts))
        await self._wait_visible(list(routes))

    def _route(self, name: str, texts: list[str]):  # type: ignore[no-untyped-def]
        from synaptoroute.models import Route

        return Route(name=name, utterances=texts)

    async def _wait_visible(self, names: list[str]) -> None:
        while not all(name in self._router.index._route_to_ids for name in names):
            await asyncio.sleep(0.01)

    async def ask(self, text: str) -> str | None:
        route = await self._router.aquery(text)
        return route.name if route is not None else None

    async def fill(self, routes: dict[str, list[str]], rows: np.ndarray) -> None:
        await self._restart()
        start = 0
        for name, texts in routes.items():
            part = rows[start : start + len(texts)]
            self._router.add_route(self._route(name, texts), _precomputed_embeddings=part)
            start += len(texts)
        await self._wait_visible(list(routes))
        while not self._router._storage_queue.empty():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)

    async def add(self, name: str, utterances: list[str], rows: np.ndarray) -> float:
        route = self._route(name, utterances)
        began = time.perf_counter()
        self._router.add_route(route, _precomputed_embeddings=rows)
        while name not in self._router.index._route_to_ids:
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - began

    async def search(self, row: np.ndarray) -> None:
        self._router.index.search(row[np.newaxis], top_k=5)

    async def classify(self, rows: np.ndarray) -> list[str | None]:
        found = self._router.index.search(rows, top_k=1)
        return [best[0][1] if best else None for best in found]


if __name__ == "__main__":
    serve(SynaptoRoutePeer(register(Path(sys.argv[1]), Path(sys.argv[2]))))

"""semantic-router 1.1.1 as a contender.

``IndexedRouter`` with its defaults (local index, top_k 5, mean) and its own
``FastEmbedEncoder``.  Queries go through ``acall``, its asynchronous face, which encodes
in threads.  Vectors are added to its index directly: its router has no call that takes
them, and what the router would do on top is spared it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from bundled_model import register
from contender import serve


class SemanticRouterPeer:
    """See ``contender.Contender``."""

    def __init__(self, model: str) -> None:
        from semantic_router.encoders import FastEmbedEncoder

        self._encoder = FastEmbedEncoder(name=model)
        self._router = self._make({})

    def _make(self, routes: dict[str, list[str]]):  # type: ignore[no-untyped-def]
        from semantic_router import IndexedRouter, Route

        made = [Route(name=name, utterances=texts) for name, texts in routes.items()]
        return IndexedRouter(encoder=self._encoder, routes=made)

    async def load(self, routes: dict[str, list[str]]) -> None:
        self._router = self._make(routes)

    async def ask(self, text: str) -> str | None:
        return (await self._router.acall(text)).name

    async def fill(self, routes: dict[str, list[str]], rows: np.ndarray) -> None:
        self._router = self._make({})
        names = [name for name, texts in routes.items() for _ in texts]
        texts = [text for texts in routes.values() for text in texts]
        self._router.index.add(rows.tolist(), names, texts)

    async def add(self, name: str, utterances: list[str], rows: np.ndarray) -> float:
        vectors = rows.tolist()
        began = time.perf_counter()
        self._router.index.add(vectors, [name] * len(vectors), utterances)
        return time.perf_counter() - began

    async def search(self, row: np.ndarray) -> None:
        self._router.index.query(row, top_k=5)

    async def classify(self, rows: np.ndarray) -> list[str | None]:
        found: list[str | None] = []
        for row in rows:
            scores, names = self._router.index.query(row, top_k=5)
            hits: dict[str, list[float]] = {}
            for name, score in zip(names, scores, strict=True):
                hits.setdefault(name, []).append(float(score))
            found.append(max(hits, key=lambda name: self._router.aggregate(hits[name])))
        return found


if __name__ == "__main__":
    serve(SemanticRouterPeer(register(Path(sys.argv[1]), Path(sys.argv[2]))))

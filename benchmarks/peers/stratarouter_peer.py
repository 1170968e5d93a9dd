"""stratarouter 0.2.5 as a contender.

``RouteLayer``, the class that its documentation recommends, with the same ONNX file through
fastembed: its own encoders need torch or a key of a service.  ``search`` is its core in Rust
alone, which holds one vector a route and is given the query's vector; that is what its
published figures are of.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
from bundled_model import DIM, register
from contender import serve

MATCH_ANYTHING = -1.0


class StrataRouterPeer:
    """See ``contender.Contender``."""

    def __init__(self, model: str) -> None:
        import fastembed
        from stratarouter import RouteLayer
        from stratarouter.encoders.base import BaseEncoder

        session = fastembed.TextEmbedding(model)

        class Encoder(BaseEncoder):
            dimension = DIM

            def encode(self, text):  # type: ignore[no-untyped-def]
                texts = [text] if isinstance(text, str) else text
                return np.stack(list(session.embed(texts)))

        self._encoder = Encoder()
        self._layer = RouteLayer(encoder=self._encoder)
        self._core = None

    async def load(self, routes: dict[str, list[str]]) -> None:
        from stratarouter import Route, RouteLayer

        made = [Route(name=name, utterances=texts) for name, texts in routes.items()]
        self._layer = await asyncio.to_thread(RouteLayer, self._encoder, made)

    async def ask(self, text: str) -> str | None:
        return (await asyncio.to_thread(self._layer, text)).name

    async def fill(self, routes: dict[str, list[str]], rows: np.ndarray) -> None:
        from stratarouter import Route
        from stratarouter._core import PyRoute, PyRouter

        self._layer.clear()
        self._core = PyRouter(DIM, 0.5)
        start, first = 0, []
        for name, texts in routes.items():
            part = rows[start : start + len(texts)]
            start += len(texts)
            self._layer._routes[name] = Route(name=name, utterances=texts)
            self._layer._embeddings[name] = list(part)
            route = PyRoute(name)
            route.examples = list(texts)
            self._core.add_route(route)
            first.append(part[0].tolist())
        self._core.build_index(first)

    async def add(self, name: str, utterances: list[str], rows: np.ndarray) -> float:
        from stratarouter import Route

        route = Route(name=name, utterances=utterances)
        began = time.perf_counter()
        self._layer._routes[name] = route
        self._layer._embeddings[name] = list(rows)
        return time.perf_counter() - began

    async def search(self, row: np.ndarray) -> None:
        self._core.route("a text", row.tolist())

    async def classify(self, rows: np.ndarray) -> list[str | None]:
        names = [name for name, own in self._layer._embeddings.items() for _ in own]
        known = np.stack([each for own in self._layer._embeddings.values() for each in own])
        return [names[int(np.argmax(known @ row))] for row in rows]


if __name__ == "__main__":
    serve(StrataRouterPeer(register(Path(sys.argv[1]), Path(sys.argv[2]))))

"""Plain fastembed as a contender: embeddings alone, no routing.

One call a query, as an application that embeds queries as they come would do it, in
threads of the event loop; ``bulk`` of the embedding benchmark gives it whole lists.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import fastembed
from bundled_model import register
from contender import serve


class FastEmbedPeer:
    """See ``contender.Contender``; it holds no routes."""

    def __init__(self, model: str) -> None:
        self._model = fastembed.TextEmbedding(model)

    async def load(self, routes: dict[str, list[str]]) -> None:
        """Embed the texts in one call, and forget them."""
        texts = [text for texts in routes.values() for text in texts]
        await asyncio.to_thread(lambda: list(self._model.embed(texts)))

    async def ask(self, text: str) -> str | None:
        await asyncio.to_thread(lambda: list(self._model.embed([text])))
        return None


if __name__ == "__main__":
    serve(FastEmbedPeer(register(Path(sys.argv[1]), Path(sys.argv[2]))))  # type: ignore[arg-type]

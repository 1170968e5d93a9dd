"""Libraries without a transformer as contenders: MicroResolve 0.2.2 and wordllama 0.4.0.

Both are called directly, as their quick starts do.  Neither is given a threshold: every text gets
its best route.  wordllama has no router: its vectors are scored in numpy, see ``fast_sides.py``.

    static_peer.py MODEL TOKENIZER microresolve|wordllama
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from contender import serve
from fast_sides import SIDES, Ask


class StaticPeer:
    """See ``contender.Contender``."""

    def __init__(self, side: str) -> None:
        self._make = SIDES[side]
        self._ask: Ask | None = None

    async def load(self, routes: dict[str, list[str]]) -> None:
        self._ask = await asyncio.to_thread(self._make, {"routes": routes}, lambda: None)

    async def ask(self, text: str) -> str | None:
        assert self._ask is not None
        found = self._ask(text)
        await asyncio.sleep(0)  # clients take turns although nothing waits
        return found

    async def fill(self, routes: dict[str, list[str]], rows: Any) -> None:
        raise NotImplementedError("it takes no vectors")

    async def add(self, name: str, utterances: list[str], rows: Any) -> float:
        raise NotImplementedError("it takes no vectors")


if __name__ == "__main__":
    serve(StaticPeer(sys.argv[3]))

"""Routers for tests: real engine, real SQLite, and an encoder that can be held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import Revision
from synaptoroute.encoder import Encoder, HashEncoder, Tokens
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

WAIT_SECONDS = 20.0


class HeldEncoder(HashEncoder):
    """A real encoder that records what it encodes, and waits while its gate is closed."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__(dim)
        self.gate = threading.Event()
        self.gate.set()
        self.write_gate = threading.Event()
        self.write_gate.set()
        self.is_busy = threading.Event()
        self.batches: list[list[bytes]] = []
        self.utterances: list[list[str]] = []
        self.fails_on: str | None = None

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        self.batches.append([each.key for each in tokens])
        self.is_busy.set()
        assert self.gate.wait(WAIT_SECONDS)
        if self.fails_on is not None:
            failing = self.tokenize([self.fails_on])[0].key
            if any(each.key == failing for each in tokens):
                raise RuntimeError("the model broke")
        return super().encode_tokens(tokens)

    def encode_utterances(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.utterances.append(list(texts))
        assert self.write_gate.wait(WAIT_SECONDS)
        if self.fails_on in texts:
            raise RuntimeError("the model broke")
        return super().encode_tokens(self.tokenize_utterances(texts))

    def count_of(self, text: str) -> int:
        """How often a text was encoded as a query."""
        key = self.tokenize([text])[0].key
        return sum(batch.count(key) for batch in self.batches)

    def hold(self) -> None:
        """Shut the gate."""
        self.is_busy.clear()
        self.gate.clear()

    async def held_up(self) -> None:
        """Wait until an encoder worker waits at the gate."""
        assert await asyncio.to_thread(self.is_busy.wait, WAIT_SECONDS)


class ConfusedEncoder(HashEncoder):
    """An encoder for which all texts mean the same, and emoji mean nothing."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        found = super().tokenize(["same" for _ in texts])
        return [
            Tokens(each.ids, each.key, each.count, text.isascii(), len(text) > 200)
            for each, text in zip(found, texts, strict=True)
        ]


def route(name: str, *utterances: str, threshold: float | None = None) -> Route:
    """A route; without utterances its name is its only one."""
    return Route(name=name, utterances=list(utterances) or [name], threshold=threshold)


def many(count: int, utterances: int = 10, word: str = "words") -> list[Route]:
    """Routes with distinct utterances."""
    return [
        route(f"r{n:04}", *(f"{word} n{n} u{u}" for u in range(utterances))) for n in range(count)
    ]


@asynccontextmanager
async def running(
    path: Path | None = None,
    *,
    encoder: HashEncoder | None = None,
    storage: SQLiteStorage | None = None,
    **settings: object,
) -> AsyncIterator[AdaptiveRouter]:
    """A started router, stopped at the end; without a path it is in memory only."""
    config = EngineConfig.model_validate({"lanes": 2, **settings})
    kept = storage or (SQLiteStorage(path) if path is not None else None)
    router = AdaptiveRouter(encoder or HashEncoder(), kept, config=config)
    await router.start()
    try:
        yield router
    finally:
        if isinstance(encoder, HeldEncoder):
            encoder.gate.set()
            encoder.write_gate.set()
        await router.stop()


async def stream(routes: Iterable[Route]) -> AsyncIterator[Route]:
    """Routes as an import takes them."""
    for each in routes:
        yield each


async def until(fact: object, wait_seconds: float = WAIT_SECONDS) -> None:
    """Wait until a function gives true."""
    assert callable(fact)
    async with asyncio.timeout(wait_seconds):
        while not fact():
            await asyncio.sleep(0.002)


def revision(version: str) -> Revision:
    """Read ``epoch.seq``."""
    epoch, seq = version.split(".")
    return Revision(int(epoch), int(seq))


@contextmanager
def bundled_router(routes: Iterable[Route]) -> Iterator[AdaptiveRouter]:
    """A router with the bundled encoder and some routes."""
    router = AdaptiveRouter(Encoder())
    try:
        for each in routes:
            router.add_route(each)
        yield router
    finally:
        router.close()

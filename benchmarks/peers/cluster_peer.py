"""This project as a contender, driven exactly as the peers are.

Arguments: the model and tokenizer are its own and ignored; ``--database PATH`` and
``--synchronous full|normal`` choose storage, which is in memory otherwise;
``--precision auto|float32|int8`` chooses the encoder's arithmetic, ``--model`` the encoder.
The router has its default settings, but no cascade; ``--defaults`` leaves that as it is, too.
Queries bypass the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import numpy as np
from contender import serve

from synaptoroute.config import DEFAULT_MODEL, Precision
from synaptoroute.encoder import Encoder
from synaptoroute.errors import RouteError
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

SETTLE_SECONDS_MAX = 300.0


class ClusterPeer:
    """See ``contender.Contender``."""

    def __init__(
        self,
        database: str,
        synchronous: str,
        precision: Precision,
        model: str,
        *,
        has_cascade: bool,
    ) -> None:
        self._database = database
        self._synchronous = synchronous
        self._encoder = Encoder(model, precision=precision)
        self._has_cascade = has_cascade
        self._router: AdaptiveRouter | None = None

    async def _started(self) -> AdaptiveRouter:
        if self._router is None:
            storage = SQLiteStorage(self._database, synchronous=self._synchronous)
            tables = None if self._has_cascade else ()
            self._router = AdaptiveRouter(self._encoder, storage, cascade=tables)
            await self._router.start()
        return self._router

    async def load(self, routes: dict[str, list[str]]) -> None:
        router = await self._started()
        await router.aimport(_each(routes, None), replace=True)
        with suppress(RouteError):  # a tiny set is too small to be fitted
            await router.fits.fit_now()
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while router.cascade().state == "uncalibrated":
                await asyncio.sleep(0.1)

    async def ask(self, text: str) -> str | None:
        assert self._router is not None
        return (await self._router.aquery(text, use_cache=False)).route

    async def fill(self, routes: dict[str, list[str]], rows: np.ndarray) -> None:
        router = await self._started()
        await router.aimport(_each(routes, rows), replace=True)

    async def add(self, name: str, utterances: list[str], rows: np.ndarray) -> float:
        router = await self._started()
        route = Route(name=name, utterances=utterances, vectors=rows.tolist())
        began = time.perf_counter()
        result = await router.aput_route(route)
        elapsed = time.perf_counter() - began
        assert result.status == "applied", result
        return elapsed

    def delays(self, count: int) -> list[float]:
        assert self._router is not None
        return [delay_ms for _, delay_ms in self._router.propagation()[-count:]]


async def _each(routes: dict[str, list[str]], rows: np.ndarray | None) -> AsyncIterator[Route]:
    start = 0
    for name, texts in routes.items():
        vectors = None if rows is None else rows[start : start + len(texts)].tolist()
        start += len(texts)
        yield Route(name=name, utterances=texts, vectors=vectors)
        await asyncio.sleep(0)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model_files", nargs="*")
    parser.add_argument("--database", default=":memory:")
    parser.add_argument("--synchronous", default="full")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--defaults", action="store_true")
    options = parser.parse_args()
    serve(
        ClusterPeer(
            options.database,
            options.synchronous,
            options.precision,
            options.model,
            has_cascade=options.defaults,
        )
    )


if __name__ == "__main__":
    main()

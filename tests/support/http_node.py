"""A node's application in process: real router, real SQLite, no socket; and its log."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import structlog
from fastapi import FastAPI

from synaptoroute.config import NodeConfig
from synaptoroute.encoder import HashEncoder
from synaptoroute.router import AdaptiveRouter
from synaptoroute.server import create_app
from synaptoroute.server.metrics import Metrics
from synaptoroute.server.runtime import Runtime
from synaptoroute.storage import SQLiteStorage
from synaptoroute.web.keys import KeyRing
from synaptoroute.web.logs import configure_logs

REFUND = {
    "utterances": ["I want my money back", "how do I get a refund"],
    "payload": {"tool": "refund"},
}
PARCEL = {"utterances": ["where is my parcel", "track my order"], "metadata": {"team": "post"}}


@dataclass
class HttpNode:
    """One application that has started.

    Attributes:
        app: The ASGI application.
        http: A client of it.
        router: Its router.
        runtime: What its endpoints share.
    """

    app: FastAPI
    http: httpx.AsyncClient
    router: AdaptiveRouter
    runtime: Runtime

    async def digest(self) -> str:
        """Digest of the whole state."""
        return self.router.status().digest

    async def fill(self) -> None:
        """Put two routes."""
        for name, body in (("refund", REFUND), ("parcel", PARCEL)):
            answer = await self.http.put(f"/v1/routes/{name}", json=body)
            assert 201 == answer.status_code, answer.text


@asynccontextmanager
async def http_node(
    folder: Path, *, encoder: HashEncoder | None = None, **settings: Any
) -> AsyncIterator[HttpNode]:
    """Start an application on a database in ``folder``; stop it at the end."""
    settings = {"database": folder / "node.sqlite", "sqlite_synchronous": "normal", **settings}
    config = NodeConfig(lanes=1, **settings)
    encoder, metrics = encoder or HashEncoder(64), Metrics()
    storage = SQLiteStorage(config.database, synchronous=config.sqlite_synchronous)
    router = AdaptiveRouter(encoder, storage, config=config, observer=metrics)
    path = config.api_keys_file
    keys = await asyncio.to_thread(KeyRing, path) if path else None
    app = create_app(router, config, encoder=encoder, metrics=metrics, keys=keys)
    async with app.router.lifespan_context(app):
        await app.state.runtime.wait_started()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
            yield HttpNode(app, http, router, app.state.runtime)
    encoder.close()


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """What the process writes to its log, as JSON at debug level; restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    configure_logs("debug", "json", stream)
    try:
        yield stream
    finally:
        root.handlers, root.level = handlers, level
        logging.captureWarnings(False)
        structlog.reset_defaults()


@contextmanager
def overloaded(node: HttpNode) -> Iterator[None]:
    """Let the queue hold what takes a quarter of an hour."""
    batching = node.router._engine._batcher
    for tokens in (8, 16, 24, 32) * 4:
        batching.learn(tokens, tokens, tokens * 0.1)
    texts = [f"{number}" + "x" * 2_047 for number in range(10)]
    for text in texts:
        batching._forecast.enter(text)
    yield
    for text in texts:
        batching._forecast.leave(text)
    batching._forecast.refresh()

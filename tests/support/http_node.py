"""A node's application in this process: real router and SQLite, in memory or on a socket."""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
from synaptoroute.web.api_keys import ApiKeys
from synaptoroute.web.client_address import proxies_of
from synaptoroute.web.connections import HttpLimits
from synaptoroute.web.cors import unless_of_a_page
from synaptoroute.web.http_server import HttpServer
from synaptoroute.web.logs import LogHandler, configure_logs

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
    keys = await asyncio.to_thread(ApiKeys, path) if path else None
    app = create_app(router, config, encoder=encoder, metrics=metrics, keys=keys)
    async with app.router.lifespan_context(app):
        await app.state.runtime.wait_started()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
            yield HttpNode(app, http, router, app.state.runtime)
    encoder.close()


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Capture the log as JSON at debug level; restore the configuration afterwards."""
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


async def exceptions_logged() -> None:
    """Wait until the exceptions that were logged so far are written."""
    for handler in logging.getLogger().handlers:
        while isinstance(handler, LogHandler) and handler.is_rendering:
            await asyncio.sleep(0.01)


@contextmanager
def overloaded(node: HttpNode) -> Iterator[None]:
    """Fill the queue with a quarter of an hour of work."""
    queue = node.router._engine()._queue
    for tokens in (8, 16, 24, 32) * 4:
        queue.learn(tokens, tokens, tokens * 0.1)
    texts = [f"{number}" + "x" * 2_047 for number in range(10)]
    for text in texts:
        queue._forecast.enter(text)
    yield
    for text in texts:
        queue._forecast.leave(text)
    queue._forecast.refresh()


_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@asynccontextmanager
async def on_socket(
    node: HttpNode, limits: HttpLimits | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application as a node process does; yield a client."""
    config = node.runtime.config
    server = HttpServer(
        node.app,
        direct=unless_of_a_page(node.app.state.query_handler, config),
        limits=limits,
        proxies=proxies_of(config),
        root_path=config.root_path,
    )
    (url,) = await server.listen("127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client
    await server.close(seconds=5)


class Wire:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, client: httpx.AsyncClient) -> Wire:
        """Connect to where a client would."""
        return cls(*await asyncio.open_connection(client.base_url.host, client.base_url.port))

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: status, headers in lower case, body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await self._reader.readexactly(int(length[1])) if length else b""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, body

    async def rest(self) -> bytes:
        """Read until the node closes."""
        return await self._reader.read()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()


def request(body: bytes, *lines: str, path: str = "/v1/query", version: str = "1.1") -> bytes:
    """A plain query as bytes, with more header lines."""
    head = [
        f"POST {path} HTTP/{version}",
        "Host: node",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def seen(answer: httpx.Response) -> tuple[Any, ...]:
    """Return the parts of an answer that do not depend on the request."""
    document = answer.json()
    document.pop("instance", None)
    of_one = ("x-request-id", "date")
    headers = {name: value for name, value in answer.headers.items() if name not in of_one}
    return answer.status_code, headers, document

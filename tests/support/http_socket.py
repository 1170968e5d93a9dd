"""A node's application behind its own protocol on a loopback socket, in process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import uvicorn
from uvicorn.server import ServerState

from http_node import HttpNode
from synaptoroute.server.protocol import LimitedProtocol

_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@asynccontextmanager
async def on_socket(node: HttpNode) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application as a node process does; give a client."""
    config = uvicorn.Config(node.app, loop="none", log_config=None, access_log=False)
    config.load()
    state = ServerState()

    def protocol() -> asyncio.Protocol:
        return LimitedProtocol(config, state, {}, express=node.app.state.express)

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client:
        yield client
    for connection in list(state.connections):
        connection.shutdown()
    server.close()
    await server.wait_closed()


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
    """What a client can tell of an answer, apart from what is of one request alone."""
    document = answer.json()
    document.pop("instance", None)
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, headers, document

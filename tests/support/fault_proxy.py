"""A TCP proxy that breaks connections the ways a network does.

Runs on the test's event loop.  ``fault`` decides what happens to bytes that arrive while
it is set; nothing is dropped from the middle of a stream, as TCP would not: bytes that
may not pass wait, and pass when the fault is healed, unless the connection ended first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

_LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 65_536


class Fault(Enum):
    """Faults of the network."""

    NONE = "none"
    BLACK_HOLE = "black_hole"
    """Nothing passes either way, connections stay open."""
    TO_SERVER_ONLY = "to_server_only"
    """Requests pass, answers do not."""
    TO_CLIENT_ONLY = "to_client_only"
    """Answers pass, requests do not."""
    REFUSE = "refuse"
    """New connections end at once; old ones go on."""


@dataclass(eq=False)
class _Pair:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    pumps: list[asyncio.Task[None]] = field(default_factory=list)


@dataclass
class FaultProxy:
    """One listening port in front of one server.

    Attributes:
        target_port: The server's port on the loopback.
        delay_seconds: How long each chunk is held back.
        bytes_per_second: Limit of the rate, 0 for none.
        port: Where the proxy listens, once started.
        answers_held: Set as soon as an answer of the server waits behind a fault.
        last_request: Once a request with these bytes passes, no answer does any more: it is the
            first one whose answer is lost, whatever else its connection carried. Empty for none.
    """

    target_port: int
    delay_seconds: float = 0.0
    bytes_per_second: float = 0.0
    port: int = 0
    last_request: bytes = b""
    answers_held: asyncio.Event = field(default_factory=asyncio.Event)
    _fault: Fault = Fault.NONE
    _may_pass: dict[bool, asyncio.Event] = field(default_factory=dict)
    _pairs: set[_Pair] = field(default_factory=set)
    _listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Address for a client."""
        return f"redis://{_LOOPBACK}:{self.port}/0"

    async def __aenter__(self) -> FaultProxy:
        self._may_pass = {True: asyncio.Event(), False: asyncio.Event()}
        self.set_fault(Fault.NONE)
        self._listener = await asyncio.start_server(self._accept, _LOOPBACK, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.reset()
        pumps = [pump for pair in self._pairs for pump in pair.pumps]
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listener.wait_closed(), 1)

    def set_fault(self, fault: Fault) -> None:
        """Change what the network does from now on."""
        self._fault = fault
        self.answers_held.clear()
        passes = {
            True: fault not in (Fault.BLACK_HOLE, Fault.TO_CLIENT_ONLY),
            False: fault not in (Fault.BLACK_HOLE, Fault.TO_SERVER_ONLY),
        }
        for to_server, event in self._may_pass.items():
            if passes[to_server]:
                event.set()
            else:
                event.clear()

    def reset(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            pair.client.transport.abort()
            pair.server.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._fault is Fault.REFUSE:
            client.transport.abort()
            return
        try:
            answers, server = await asyncio.open_connection(_LOOPBACK, self.target_port)
        except OSError:
            client.transport.abort()
            return
        pair = _Pair(client, server)
        self._pairs.add(pair)
        pair.pumps = [
            asyncio.create_task(self._pump(reader, server, to_server=True)),
            asyncio.create_task(self._pump(answers, client, to_server=False)),
        ]
        await asyncio.gather(*pair.pumps, return_exceptions=True)
        self._pairs.discard(pair)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_server: bool
    ) -> None:
        """Carry bytes one way until either side ends."""
        try:
            while chunk := await source.read(_CHUNK_BYTES):
                if to_server and self.last_request and self.last_request in chunk:
                    self.last_request = b""
                    self.set_fault(Fault.TO_SERVER_ONLY)
                if not self._may_pass[to_server].is_set() and not to_server:
                    self.answers_held.set()
                await self._may_pass[to_server].wait()
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if self.bytes_per_second:
                    await asyncio.sleep(len(chunk) / self.bytes_per_second)
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
            with contextlib.suppress(OSError):
                await sink.wait_closed()


WAIT_SECONDS = 30.0


class Network:
    """Proxies on an event loop of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")
        self._thread.start()
        self._proxies: list[FaultProxy] = []

    def run(self, make: Callable[[], Any]) -> Any:
        """Run a coroutine on the network's loop."""
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(WAIT_SECONDS)

    def proxy(self, target_port: int) -> FaultProxy:
        """Put a proxy before a port."""

        async def enter() -> FaultProxy:
            return await FaultProxy(target_port).__aenter__()

        proxy: FaultProxy = self.run(enter)
        self._proxies.append(proxy)
        return proxy

    def set_fault(self, proxy: FaultProxy, fault: Fault, *, reset: bool = False) -> None:
        """Change what the network does; ``reset`` ends what is connected, too."""

        async def change() -> None:
            proxy.set_fault(fault)
            if reset:
                proxy.reset()

        self.run(change)

    def close(self) -> None:
        """Stop every proxy, the loop and its thread."""
        for proxy in self._proxies:
            self.run(lambda proxy=proxy: proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

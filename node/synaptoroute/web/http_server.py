"""An HTTP server process: listen, serve, drain, stop.

A first stop signal begins the drain: the application says that it is not ready, and
clients are told to close for a moment while the listener still accepts, so that no request
is lost.  Then the listener closes, requests in flight end, and the application stops.  A
second signal does not wait for requests in flight.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp

from synaptoroute.errors import ConfigError
from synaptoroute.version import __version__
from synaptoroute.web.http_protocol import DirectHandler, HttpLimits, HttpProtocol, ServerState
from synaptoroute.web.logs import ServerLog
from synaptoroute.web.middleware import is_loopback

FAILED_START: Final = 3
"""Exit code of a process that could not listen or start its application."""
TICK_SECONDS: Final = 1.0
POLL_SECONDS: Final = 0.05
ABORT_SECONDS: Final = 1.0


class HttpServer:
    """Listeners and connections of one application; used on one event loop."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: DirectHandler | None = None,
        limits: HttpLimits | None = None,
        backlog: int = 2_048,
    ) -> None:
        self.state = ServerState()
        self._app = app
        self._direct = direct
        self._limits = limits or HttpLimits()
        self._backlog = backlog
        self._listeners: list[asyncio.Server] = []
        self._ticking: asyncio.Task[None] | None = None

    async def listen(
        self, host: str | None = None, port: int = 0, *, sock: socket.socket | None = None
    ) -> list[str]:
        """Listen on an address, or on a socket that is bound already.

        Returns:
            The URLs that reach the application.

        Raises:
            OSError: The address cannot be used.
        """
        loop = asyncio.get_running_loop()

        def connect() -> HttpProtocol:
            return HttpProtocol(self._app, self.state, self._limits, self._direct)

        if sock is not None:
            listener = await loop.create_server(connect, sock=sock, backlog=self._backlog)
        else:
            listener = await loop.create_server(connect, host, port, backlog=self._backlog)
        self._listeners.append(listener)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(), name="http-tick")
        return [url_of(each.getsockname()) for each in listener.sockets]

    async def close(self, seconds: float, is_forced: Callable[[], bool] = lambda: False) -> None:
        """Close the listeners, let requests in flight end, then cut what is left.

        Args:
            seconds: How long requests in flight may take.
            is_forced: Whether to wait no longer; asked again and again.
        """
        for listener in self._listeners:
            listener.close()
        for connection in list(self.state.connections):
            connection.shutdown()
        give_up_at = asyncio.get_running_loop().time() + seconds
        while self._is_busy() and not is_forced():
            if asyncio.get_running_loop().time() >= give_up_at:
                break
            await asyncio.sleep(POLL_SECONDS)
        await self._cut()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        for listener in self._listeners:
            await listener.wait_closed()

    def _is_busy(self) -> bool:
        return bool(self.state.connections or self.state.tasks)

    async def _cut(self) -> None:
        """Cancel the cycles that still run and close their connections."""
        tasks = list(self.state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ABORT_SECONDS)
        for connection in list(self.state.connections):
            connection.abort()

    async def _tick(self) -> None:
        """Renew the date and look for connections that are late, once a second."""
        loop = asyncio.get_running_loop()
        while True:
            self.state.renew_date()
            now = loop.time()
            for connection in list(self.state.connections):
                connection.check_deadline(now)
            await asyncio.sleep(TICK_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessHooks:
    """What a program adds to the life of its server process.

    Attributes:
        lifespan: Starts the application when it is entered, and stops it when it is left.
        on_drain: Called at the first stop signal.
        on_hangup: Runs at SIGHUP; None leaves the signal its default, which ends the process.
        drain_seconds: How long connections are told to close before the listener closes.
        shutdown_seconds: How long requests in flight may take after that.
    """

    lifespan: AbstractAsyncContextManager[object]
    on_drain: Callable[[], None]
    on_hangup: Callable[[], Coroutine[None, None, None]] | None = None
    drain_seconds: float = 0.0
    shutdown_seconds: float = 5.0


class ServerProcess:
    """One process that serves HTTP until a signal ends it."""

    def __init__(self, server: HttpServer, hooks: ProcessHooks, log: ServerLog) -> None:
        self._server = server
        self._hooks = hooks
        self._log = log
        self._stopped = asyncio.Event()
        self._is_draining = False
        self._is_forced = False
        self._tasks: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """Stop without a drain."""
        self._stopped.set()

    async def run(self, host: str, port: int, sockets: tuple[socket.socket, ...] = ()) -> bool:
        """Serve until a stop signal; return False where the address cannot be used."""
        loop, hooks = asyncio.get_running_loop(), self._hooks
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self._on_stop_signal,
            signal.SIGINT: self._on_stop_signal,
        }
        if hooks.on_hangup is not None:
            handlers[signal.SIGHUP] = self._on_hangup
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            async with hooks.lifespan:
                try:
                    if not await self._listens(host, port, sockets):
                        return False
                    await self._stopped.wait()
                finally:
                    await self._server.close(hooks.shutdown_seconds, lambda: self._is_forced)
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
        return True

    async def _listens(self, host: str, port: int, sockets: tuple[socket.socket, ...]) -> bool:
        try:
            urls = await self._server.listen(host, port)
        except OSError as error:
            self._log.error("listen_failed", host=host, port=port, detail=str(error))
            return False
        for sock in sockets:
            urls += await self._server.listen(sock=sock)
        for url in urls:
            self._log.info("listening", url=url, release=__version__)
        return True

    def _on_stop_signal(self) -> None:
        if self._is_draining:
            self._is_forced = True
            self.end()
            return
        self._is_draining = True
        connections = len(self._server.state.connections)
        self._log.info("draining", connections=connections)
        self._hooks.on_drain()
        grace_seconds = self._hooks.drain_seconds if connections else 0.0
        asyncio.get_running_loop().call_later(grace_seconds, self.end)

    def _on_hangup(self) -> None:
        assert self._hooks.on_hangup is not None
        task = asyncio.ensure_future(self._hooks.on_hangup())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def url_of(address: tuple[str, int]) -> str:
    """The URL of a listening address."""
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_exposure(host: str, *, has_keys: bool, insecure: bool, ways_out: str) -> None:
    """Refuse to serve everybody on an address that others can reach.

    Raises:
        ConfigError: ``ways_out`` says what to do instead.
    """
    if not (has_keys or insecure or is_loopback(host)):
        raise ConfigError(f"refusing to serve {host} without API keys: {ways_out}")

"""An HTTP server process: listen, serve, drain, stop.

A first stop signal begins the drain: the application says that it is not ready, and
clients are told to close for a moment while the listener still accepts, so that no request
is lost.  Then the listener closes, requests in flight end, and the application stops.  A
second signal does not wait for requests in flight.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp

from synaptoroute.errors import ConfigError
from synaptoroute.version import __version__
from synaptoroute.web.client_address import TrustedProxies
from synaptoroute.web.connections import HttpLimits, ServerState, raise_file_limit
from synaptoroute.web.http_protocol import DirectHandler, HttpProtocol
from synaptoroute.web.logs import ServerLog, server_log
from synaptoroute.web.site_rules import is_loopback
from synaptoroute.web.tls import ServerTls
from synaptoroute.web.tls_handshake import HandshakeLog, TlsConnection

FAILED_START: Final = 3
"""Exit code of a process that could not listen or start its application."""
CHECK_SECONDS: Final = 1
POLL_SECONDS: Final = 0.05
REFUSAL_SECONDS: Final = 0.3
STOP_MARGIN_SECONDS: Final = 3.0
"""For closing the database and threads, after the time of the requests."""
CHECKED_AT_ONCE: Final = 256
"""Connections whose timers are checked before other events get their turn."""


class HttpServer(uvicorn.Server):
    """uvicorn with the protocol and the limits of this project; used on one event loop.

    uvicorn owns listeners, connections and tasks; ``HttpProtocol`` is passed by its public
    option ``http``.  Signals and the lifespan of the application belong to the process.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: DirectHandler | None = None,
        limits: HttpLimits | None = None,
        proxies: TrustedProxies | None = None,
        root_path: str = "",
        backlog: int = 2_048,
        tls: ServerTls | None = None,
    ) -> None:
        if tls is not None and proxies is not None and proxies.proxy_protocol:
            raise ConfigError("proxy_protocol cannot be used where the server speaks TLS itself")
        self.tls = tls
        self._handshakes = HandshakeLog(tls) if tls is not None else None
        self._direct = direct
        self._serving: asyncio.Task[None] | None = None
        self._has_started = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, self._connect),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                backlog=backlog,
                callback_notify=self._check_connections,
                timeout_notify=CHECK_SECONDS,
            )
        )
        connections = cast(set[Any], self.server_state.connections)
        tasks = self.server_state.tasks
        self.state = ServerState(limits or HttpLimits(), connections, tasks, proxies, root_path)

    def _connect(self, **_: object) -> asyncio.Protocol:
        app = cast(ASGIApp, self.config.app)
        http = HttpProtocol(app, self.state, self._direct)
        if self.tls is None or self._handshakes is None:
            return http
        return TlsConnection(http, self.tls, self._handshakes)

    async def listen(
        self, host: str | None = None, port: int = 0, *, sockets: Sequence[socket.socket] = ()
    ) -> list[str]:
        """Listen on an address, and on sockets that are bound already."""
        listeners = [*(bind(host, port) if host is not None else ()), *sockets]
        self._serving = asyncio.create_task(self.serve(listeners), name="http-server")
        started = asyncio.ensure_future(self._has_started.wait())
        await asyncio.wait({started, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            await self._serving
        return [url_of(each.getsockname(), is_tls=self.tls is not None) for each in listeners]

    async def close(self, seconds: float, is_forced: Callable[[], bool] = lambda: False) -> None:
        """Close the listeners, let requests in flight end, then refuse what is left."""
        if self._serving is None:
            return
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        self.config.timeout_graceful_shutdown = cast(int, seconds + REFUSAL_SECONDS)
        self.should_exit = True
        while not self._serving.done():
            if is_forced() or loop.time() >= ends_at:
                await self._refuse_requests()
                # uvicorn waits for connections even after its timeout.
                self.force_exit = True
            await asyncio.wait({self._serving}, timeout=POLL_SECONDS)
        for connection in self._connections():
            connection.abort()
        await self._serving

    async def _refuse_requests(self) -> None:
        """Tell the clients of requests in flight that the process ends, and cancel those."""
        connections = self._connections()
        for connection in connections:
            connection.give_up()
        tasks = list(self.state.tasks)
        for task in tasks:
            task.cancel()
        if connections or tasks:
            # Clients that were sending a body need a moment to read their response.
            await asyncio.sleep(REFUSAL_SECONDS)

    def _connections(self) -> list[HttpProtocol]:
        return cast(list[HttpProtocol], list(self.state.connections))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._has_started.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def _check_connections(self) -> None:
        """Renew the date, and close connections that are late."""
        self.state.renew_date()
        now = asyncio.get_running_loop().time()
        for number, connection in enumerate(self._connections(), start=1):
            connection.check_deadline(now)
            if number % CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._log_refusals()

    def _log_refusals(self) -> None:
        """Log connections that found no room, in one line for all of the last second."""
        state = self.state
        if state.refused_count or state.evicted_count:
            server_log().warning(
                "connections_refused",
                refused=state.refused_count,
                closed_idle=state.evicted_count,
                connections=len(state.connections),
            )
            state.refused_count = state.evicted_count = 0


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a listener on every address of a host that this machine has."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            listeners.append(_bound(socket.socket(family, kind, protocol), address))
        except OSError as error:
            # A name such as localhost has an IPv6 address even where IPv6 is switched off.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for listener in listeners:
                    listener.close()
                raise
            absent = error
    if absent is not None and not listeners:
        raise absent
    return listeners


def _bound(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            # Otherwise the IPv6 listener also takes the port of the IPv4 one.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessHooks:
    """Hooks of a program in the life of its server process."""

    lifespan: AbstractAsyncContextManager[object]
    on_drain: Callable[[], None]  # called at the first stop signal
    # Runs at SIGHUP; None leaves the signal its default, which ends the process.
    on_hangup: Callable[[], Coroutine[None, None, None]] | None = None
    drain_seconds: float = 0.0  # responses ask to close before the listener closes
    shutdown_seconds: float = 5.0  # for the drain and the requests in flight
    # Ends a process whose stop takes too long; anything kept on disk must bear that.
    end_at_once: Callable[[], None] | None = None


class ServerProcess:
    """One process that serves HTTP until a signal ends it."""

    def __init__(self, server: HttpServer, hooks: ProcessHooks, log: ServerLog) -> None:
        self._server = server
        self._hooks = hooks
        self._log = log
        self._stopped = asyncio.Event()
        self._is_draining = False
        self._is_forced = False
        self._ends_at: float | None = None  # time of the loop
        self._tasks: set[asyncio.Task[None]] = set()

    def end(self) -> None:
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
                    await self._server.close(self._seconds_left(), lambda: self._is_forced)
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
        return True

    def _seconds_left(self) -> float:
        """Time that requests in flight still have."""
        if self._ends_at is None:  # nobody asked for the end: the start failed
            return self._hooks.shutdown_seconds
        left_seconds = self._ends_at - asyncio.get_running_loop().time()
        return max(0.0, left_seconds - REFUSAL_SECONDS)

    def _bound_the_stop(self) -> None:
        """End the process even if a thread does not; requests have had their time by then."""
        hooks = self._hooks
        if hooks.end_at_once is None:
            return
        seconds = hooks.shutdown_seconds + STOP_MARGIN_SECONDS
        timer = threading.Timer(seconds, self._end_at_once, args=[hooks.end_at_once])
        # It must outlive the loop, which waits for threads, and never keep a process alive.
        timer.daemon = True
        timer.start()

    def _end_at_once(self, end: Callable[[], None]) -> None:
        self._log.error("stop_overdue", shutdown_seconds=self._hooks.shutdown_seconds)
        end()

    async def _listens(self, host: str, port: int, sockets: tuple[socket.socket, ...]) -> bool:
        self._fit_file_limit()
        try:
            urls = await self._server.listen(host, port, sockets=sockets)
        except OSError as error:
            self._log.error("listen_failed", host=host, port=port, detail=str(error))
            return False
        for url in urls:
            self._log.info("listening", url=url, release=__version__)
        return True

    def _fit_file_limit(self) -> None:
        state = self._server.state
        wanted = state.limits.connections_max
        possible = raise_file_limit(wanted)
        if possible < wanted:
            state.limits = replace(state.limits, connections_max=possible)
            self._log.warning("connections_limited", connections_max=possible, wanted=wanted)

    def _on_stop_signal(self) -> None:
        if self._is_draining:
            self._is_forced = True
            self.end()
            return
        self._is_draining = True
        loop = asyncio.get_running_loop()
        self._ends_at = loop.time() + self._hooks.shutdown_seconds
        self._bound_the_stop()
        connections = len(self._server.state.connections)
        self._log.info("draining", connections=connections)
        self._hooks.on_drain()
        grace_seconds = self._hooks.drain_seconds if connections else 0.0
        loop.call_later(min(grace_seconds, self._hooks.shutdown_seconds), self.end)

    def _on_hangup(self) -> None:
        assert self._hooks.on_hangup is not None
        task = asyncio.ensure_future(self._hooks.on_hangup())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def url_of(address: tuple[str, int], *, is_tls: bool = False) -> str:
    host, port = address[:2]
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def check_exposure(host: str, *, has_keys: bool, insecure: bool, ways_out: str) -> None:
    """Refuse to serve everybody on an address that others can reach.

    Raises:
        ConfigError: ``ways_out`` says what to do instead.
    """
    if not (has_keys or insecure or is_loopback(host)):
        raise ConfigError(f"refusing to serve {host} without API keys: {ways_out}")

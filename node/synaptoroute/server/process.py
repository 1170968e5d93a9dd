"""The life of a node process: listen, start, serve, drain, stop.

The socket is open before the model is loaded, so that probes are answered from the
first moment.  A stop signal first makes the node unready; connections are then
answered with ``Connection: close`` for a moment, so that clients which are sending
lose nothing; then the listener closes, what is in flight ends, and the router stops.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import uvicorn

from synaptoroute.config import NodeConfig, is_tracing_enabled, requested_failpoint
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import ConfigError
from synaptoroute.failpoints import arm
from synaptoroute.router import AdaptiveRouter
from synaptoroute.sequencer import RedisLog
from synaptoroute.sequencer.client import Tls
from synaptoroute.server import gc_tuning
from synaptoroute.server.app import create_app
from synaptoroute.server.encoder_loading import LoadEncoder, load_encoder, load_spare, load_tables
from synaptoroute.server.fast_path import Express
from synaptoroute.server.metrics import Metrics
from synaptoroute.server.protocol import LimitedProtocol
from synaptoroute.server.runtime import OpenRouter, Runtime
from synaptoroute.server.tracing import start_tracing
from synaptoroute.storage import SQLiteStorage
from synaptoroute.version import __version__
from synaptoroute.web.keys import KeyRing
from synaptoroute.web.logs import configure_logs, server_log

FAILED_START: Final = 3
"""Exit code of a process whose router could not be started."""
DRAIN_GRACE_SECONDS: Final = 0.5
KEEP_ALIVE_SECONDS: Final = 75
BACKLOG_CONNECTIONS: Final = 2_048


def serve(config: NodeConfig, *, encoder: LoadEncoder | None = None) -> None:
    """Run a node until SIGTERM or SIGINT; returns after a graceful stop.

    Args:
        config: Settings of the node.
        encoder: Gives the encoder of these settings, where it is being loaded already;
            called once, in a thread; None loads it here.

    Raises:
        ConfigError: The settings contradict each other; nothing was started.
        SystemExit: With code 3, when the router could not be started; the log says why.
    """
    check_exposure(config)
    configure_logs(config.log_level, config.log_format)
    keys = KeyRing(config.api_keys_file) if config.api_keys_file is not None else None
    metrics = Metrics()
    app = create_app(
        router_opener(config, metrics, encoder or partial(load_encoder, config)),
        config,
        metrics=metrics,
        keys=keys,
        on_failure=lambda: server.end(),
    )
    runtime: Runtime = app.state.runtime
    # What is traced is told by the application's own layers, so every request passes them.
    express = None if is_tracing_enabled() else app.state.express
    server = NodeServer(app, config, runtime, express)
    arm(requested_failpoint())
    end_tracing = start_tracing(app)
    gc_tuning.tune()
    try:
        server.run()
    finally:
        end_tracing()
    if runtime.failure is not None:
        raise SystemExit(FAILED_START)


def check_exposure(config: NodeConfig) -> None:
    """Refuse to serve everybody on an address that others can reach.

    Raises:
        ConfigError: Names the three ways out.
    """
    if config.api_keys_file is None and not config.insecure and not is_loopback(config.host):
        raise ConfigError(
            f"refusing to serve {config.host} without API keys: name a file of keys "
            "(SYNAPTOROUTE_API_KEYS_FILE), listen on 127.0.0.1 (SYNAPTOROUTE_HOST), or accept "
            "that everybody may change routes (--insecure, SYNAPTOROUTE_INSECURE=true)"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def router_opener(config: NodeConfig, metrics: Metrics, load: LoadEncoder) -> OpenRouter:
    """Make what loads the encoder and opens the database; runs in a thread."""

    def open_router() -> tuple[AdaptiveRouter, TextEncoder]:
        encoder = load()
        spare: TextEncoder | None = None
        try:
            if config.next_model:
                spare = load_spare(config)
            storage = SQLiteStorage(
                config.database, synchronous=config.sqlite_synchronous, on_corrupt="move_aside"
            )
            router = AdaptiveRouter(
                encoder,
                storage,
                log=log_of(config),
                config=config,
                cluster=advertised(config),
                observer=metrics,
                spare=spare,
                cascade=load_tables(config, [encoder, spare] if spare else [encoder]),
            )
        except BaseException:
            encoder.close()
            if spare is not None:
                spare.close()
            raise
        gc_tuning.settle()
        return router, encoder

    return open_router


def log_of(config: NodeConfig) -> RedisLog | None:
    """The log of the cluster, if the node is to be a member of one; may read key files.

    Raises:
        ConfigError: The URL, the namespace or a key file is malformed.
    """
    if config.redis_url is None:
        return None
    return RedisLog(
        config.redis_url.get_secret_value(),
        namespace=config.namespace,
        password_file=config.redis_password_file,
        tls=Tls(
            ca_file=config.redis_ca_file,
            cert_file=config.redis_cert_file,
            key_file=config.redis_key_file,
        ),
        signing_keys_file=config.signing_keys_file,
        allow_unsigned=config.allow_unsigned,
    )


def advertised(config: NodeConfig) -> NodeConfig:
    """Say where peers reach this node, where the settings do not."""
    if config.advertise_url or config.host in ("0.0.0.0", "::", ""):
        return config
    return config.model_copy(update={"advertise_url": _url((config.host, config.port))})


def front_socket(config: NodeConfig) -> socket.socket:
    """Listen on a port that other processes of this host listen on too."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((config.host, config.front_port))
    return listener


class NodeServer(uvicorn.Server):
    """uvicorn with this project's signals, limits and log."""

    def __init__(
        self, app: object, config: NodeConfig, runtime: Runtime, express: Express | None = None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                host=config.host,
                port=config.port,
                loop="uvloop",
                http=cast(Any, partial(LimitedProtocol, express=express)),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(config.shutdown_seconds),
            )
        )
        self._runtime = runtime
        self._settings = config
        self._reload: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        if sockets is None and self._settings.front_port:
            sockets = [self.config.bind_socket(), front_socket(self._settings)]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_gently)
        loop.add_signal_handler(signal.SIGHUP, self._reload_keys)
        try:
            await super().serve(sockets)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the event loop's own handlers do it, and no signal is raised again."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            for server in self.servers:
                for listener in server.sockets:
                    url = _url(listener.getsockname())
                    server_log().info("listening", url=url, release=__version__)

    def end(self) -> None:
        """Stop at the next tick."""
        self.should_exit = True

    def _stop_gently(self) -> None:
        """First signal: drain.  Second: do not wait for what is in flight."""
        if self._runtime.is_draining:
            self.force_exit = self.should_exit = True
            return
        server_log().info("draining", connections=len(self.server_state.connections))
        self._runtime.drain()
        grace_seconds = DRAIN_GRACE_SECONDS if self.server_state.connections else 0.0
        asyncio.get_running_loop().call_later(grace_seconds, self.end)

    def _reload_keys(self) -> None:
        self._reload = asyncio.ensure_future(self._runtime.reload_keys(force=True))


def _url(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

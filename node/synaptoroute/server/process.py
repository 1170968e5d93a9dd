"""The life of a node process: listen, start, serve, drain, stop.

The socket is open before the model is loaded, so that probes are answered from the first
moment.  See ``web.http_server`` for what a stop signal does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from synaptoroute.cascade.table_store import TableStore
from synaptoroute.config import NodeConfig, requested_failpoint
from synaptoroute.encoder import TextEncoder
from synaptoroute.failpoints import arm
from synaptoroute.private_files import exposed_secrets
from synaptoroute.router import AdaptiveRouter
from synaptoroute.sequencer import RedisLog
from synaptoroute.sequencer.client import SentinelAccess, Tls, split_urls
from synaptoroute.sequencer.retention import RetentionLimits
from synaptoroute.server.app import create_app
from synaptoroute.server.encoder_loading import (
    LoadEncoder,
    load_encoder,
    load_spare,
    load_tables,
    table_keeper,
)
from synaptoroute.server.metrics import Metrics
from synaptoroute.server.runtime import OpenRouter, Runtime
from synaptoroute.storage import SQLiteStorage
from synaptoroute.web.api_keys import ApiKeys, add_line, key_line, make_key
from synaptoroute.web.client_address import proxies_of
from synaptoroute.web.connections import limits_of
from synaptoroute.web.cors import unless_of_a_page
from synaptoroute.web.http_server import (
    FAILED_START,
    HttpServer,
    ProcessHooks,
    ServerProcess,
    check_exposure,
    url_of,
)
from synaptoroute.web.logs import configure_logs, server_log
from synaptoroute.web.site_rules import is_loopback
from synaptoroute.web.tls import ServerTls, client_tls, peer_files, server_tls
from synaptoroute.web.tracing import RequestTracer, start_tracing

DRAIN_SECONDS: Final = 0.5
SWITCH_SECONDS: Final = 0.000_2
"""Time after which a thread that waits for the interpreter asks for it; see ADR 0083."""
COLLECT_OBJECTS: Final = 4_000
"""New objects after which the youngest generation is collected, in less than a millisecond.

A large import makes hundreds of thousands, and each collection stops all threads.
"""
COLLECT_RUNS: Final = (100, 100)
"""Collections of a generation after which the next older one is collected."""
SERVICE_NAME: Final = "synaptoroute"
FIRST_KEY_NOTICE: Final = """
This node was given no API keys, so it has made one with the scope admin.  It is shown only now:

    {key}

    curl http://localhost:{port}/v1/query -H 'Authorization: Bearer {key}' \\
      -H 'Content-Type: application/json' -d '{{"text": "I want my money back"}}'

Its hash is in {path}: keep that on a volume, or name a file of your own in
SYNAPTOROUTE_API_KEYS_FILE.  SYNAPTOROUTE_INSECURE=true serves everybody without a key.

"""


def serve(config: NodeConfig, *, encoder: LoadEncoder | None = None) -> None:
    """Run a node until SIGTERM or SIGINT; returns after a graceful stop.

    Args:
        config: Settings of the node.
        encoder: Returns the encoder of these settings, where it is being loaded already;
            called once, in a thread; None loads it here.

    Raises:
        ConfigError: The settings contradict each other; nothing was started.
        SystemExit: With code 3, if the address or the router cannot be used; the log says why.
    """
    keys_file = config.api_keys_file or first_api_key_file(config)
    check_exposure(
        config.host,
        has_keys=keys_file is not None,
        insecure=config.insecure,
        ways_out="name a file of keys (SYNAPTOROUTE_API_KEYS_FILE), listen on 127.0.0.1 "
        "(SYNAPTOROUTE_HOST), or accept that everybody may change routes (--insecure, "
        "SYNAPTOROUTE_INSECURE=true)",
    )
    configure_logs(config.log_level, config.log_format)
    for warning in exposed_secrets(config):
        server_log().warning("secret_exposed", detail=warning)
    keys = ApiKeys(keys_file) if keys_file is not None else None
    tls = server_tls(config)
    # The router reads these files too, but a mistake in them must be told before it starts.
    client_tls(peer_files(config))
    tracing = start_tracing(SERVICE_NAME, config.node_name, config.otlp_headers_file)
    arm(requested_failpoint())
    tune_interpreter()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            load = encoder or partial(load_encoder, config)
            tracer = tracing.tracer if tracing is not None else None
            is_started = runner.run(_serve(config, keys, load, tls, tracer))
    finally:
        if tracing is not None:
            tracing.close()
    if not is_started:
        raise SystemExit(FAILED_START)


def first_api_key_file(config: NodeConfig) -> Path | None:
    """Make an API key for a node that would refuse to start without one; returns its file.

    None where nothing names the file, or the node needs no key.

    Raises:
        ConfigError: The file cannot be written.
    """
    path = config.first_api_key_file
    if path is None or config.insecure or is_loopback(config.host):
        return None
    if not path.exists():
        key = make_key()
        add_line(path, key_line(key, ["admin"], "first"))
        # To the terminal, not to the log: logs are kept and collected.
        sys.stdout.write(FIRST_KEY_NOTICE.format(key=key, port=config.port, path=path))
        sys.stdout.flush()
    return path


async def _serve(
    config: NodeConfig,
    keys: ApiKeys | None,
    load: LoadEncoder,
    tls: ServerTls | None,
    tracer: RequestTracer | None,
) -> bool:
    """Serve until a stop signal; return False if the node did not start."""
    metrics = Metrics()
    app = create_app(
        router_opener(config, metrics, load),
        config,
        metrics=metrics,
        keys=keys,
        tls=tls,
        tracer=tracer,
        on_failure=lambda: process.end(),
    )
    runtime: Runtime = app.state.runtime
    direct = unless_of_a_page(app.state.query_handler, config)
    hooks = ProcessHooks(
        lifespan=app.router.lifespan_context(app),
        on_drain=runtime.drain,
        on_hangup=runtime.reload_keys,
        drain_seconds=DRAIN_SECONDS,
        shutdown_seconds=config.shutdown_seconds,
        end_at_once=partial(os._exit, 0),
    )
    server = HttpServer(
        app,
        direct=direct,
        tls=tls,
        limits=limits_of(config),
        proxies=proxies_of(config),
        root_path=config.root_path,
    )
    process = ServerProcess(server, hooks, server_log())
    sockets = (front_socket(config),) if config.front_port else ()
    is_listening = await process.run(config.host, config.port, sockets)
    return is_listening and runtime.failure is None


def tune_interpreter() -> None:
    """Adapt the interpreter to a process that only serves; once a process.

    A query crosses several threads.  Each crossing may have to wait until a thread that applies a
    large import, or an event loop that refuses thousands of queries a second, gives up the
    interpreter, by default after 5 ms.  A full garbage collection stops all threads while it looks
    at every object.  A library leaves such settings to its host; here the process is the host.

    Sources: https://docs.python.org/3/library/sys.html#sys.setswitchinterval and
    https://docs.python.org/3/library/gc.html#gc.freeze.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(COLLECT_OBJECTS, *COLLECT_RUNS)


def freeze_objects() -> None:
    """Exclude from collections what is there now and stays: modules, encoder, settings."""
    gc.collect()
    gc.freeze()


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
                cluster=cluster_config(config),
                observer=metrics,
                spare=spare,
                cascade=TableStore(
                    load_tables(config, [encoder, spare] if spare else [encoder]),
                    table_keeper(config),
                ),
            )
        except BaseException:
            encoder.close()
            if spare is not None:
                spare.close()
            raise
        freeze_objects()
        return router, encoder

    return open_router


def log_of(config: NodeConfig) -> RedisLog | None:
    """The log of the cluster, if the node is to be a member of one; may read key files.

    Raises:
        ConfigError: The URL, the namespace or a key file is malformed.
    """
    if config.redis_url is None:
        return None
    bus_urls = config.redis_bus_urls
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
        retention=RetentionLimits(config.log_bytes_max, config.retain_bytes, config.retain_entries),
        clock_skew_seconds_max=config.clock_skew_seconds_max,
        sentinel=SentinelAccess(
            config.redis_sentinel_user,
            config.redis_sentinel_password_file,
            config.redis_sentinel_tls,
        ),
        replica_urls=split_urls(bus_urls.get_secret_value()) if bus_urls is not None else (),
    )


def cluster_config(config: NodeConfig) -> NodeConfig:
    """Fill in what follows from other settings: address and certificates for other nodes."""
    files = peer_files(config)
    changes: dict[str, object] = {
        "peer_ca_file": files.ca,
        "peer_cert_file": files.cert,
        "peer_key_file": files.key,
    }
    is_known = config.host not in ("0.0.0.0", "::", "") and config.port != 0
    if not config.advertise_url and is_known:
        address = (config.host, config.port)
        changes["advertise_url"] = url_of(address, is_tls=config.tls_cert is not None)
    return config.model_copy(update=changes)


def front_socket(config: NodeConfig) -> socket.socket:
    """Listen on a port that other processes of this host listen on too."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((config.host, config.front_port))
    return listener

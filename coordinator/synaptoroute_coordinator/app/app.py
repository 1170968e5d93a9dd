"""One coordinator process: make the application, serve, stop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from synaptoroute.errors import ConfigError, NotReady
from synaptoroute.private_files import exposed_secrets
from synaptoroute.sequencer.client import SentinelAccess, Tls
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_rows import STRICT_LEVEL
from synaptoroute.sequencer.peers import Membership, PeerClient
from synaptoroute.sequencer.proven_http import ProvenHttp
from synaptoroute.sequencer.retention import RetentionLimits
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.genesis import read_genesis
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import COORDINATOR, Signer
from synaptoroute.version import __version__
from synaptoroute.web.api_keys import ApiKeys
from synaptoroute.web.client_address import proxies_of
from synaptoroute.web.connections import limits_of
from synaptoroute.web.cors import add_cors
from synaptoroute.web.http_server import (
    FAILED_START,
    HttpServer,
    ProcessHooks,
    ServerProcess,
    check_exposure,
    url_of,
)
from synaptoroute.web.logs import configure_logs
from synaptoroute.web.middleware import Middleware, add_error_handlers
from synaptoroute.web.openapi import (
    SECURITY,
    SECURITY_SCHEMES,
    operation_id,
    serve_document,
)
from synaptoroute.web.tls import client_tls, peer_files, server_tls
from synaptoroute.web.tls_metrics import TlsCollector
from synaptoroute.web.tracing import RequestTracer, start_tracing
from synaptoroute_coordinator.actions.audit_log import AuditLog
from synaptoroute_coordinator.actions.backup_store import (
    BackupStore,
    BucketStore,
    FolderStore,
    read_credentials,
)
from synaptoroute_coordinator.actions.backups import Backups
from synaptoroute_coordinator.actions.fleet_client import FleetClient, read_secret
from synaptoroute_coordinator.app import (
    dashboard,
    encoders,
    fleet,
    gateway,
    learning,
    metrics,
    promotions,
    route_sets,
)
from synaptoroute_coordinator.app.responses import PROBLEM_SCHEMA, TAGS
from synaptoroute_coordinator.app.runtime import CoordinatorPolicy, Runtime
from synaptoroute_coordinator.config import CoordinatorConfig
from synaptoroute_coordinator.leader_lease import LeaderLease
from synaptoroute_coordinator.reconciler import Reconciler

_DESCRIPTION: Final = """\
The control plane of a SynaptoRoute cluster: the state of every node, and the actions that
an operator may take. Queries and writes do not depend on it.

Every error is an RFC 9457 problem document with a stable `code`. Actions are POSTs, need
the scope `admin` and are recorded with the name of the key."""

_log = logging.getLogger(__name__)


def create_app(runtime: Runtime, tracer: RequestTracer | None = None) -> FastAPI:
    """Make the application; its lifespan starts and stops the coordinator.

    Args:
        runtime: What it serves.
        tracer: Makes the spans of requests; None if they are not traced.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    app = FastAPI(
        title="SynaptoRoute coordinator",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.state.runtime = runtime
    app.state.registry = metrics.make_registry(runtime.reconciler, runtime.keys)
    app.state.set_registry = metrics.make_set_registry(runtime.reconciler)
    app.state.registry.register(
        TlsCollector("synaptoroute_fleet_", lambda: (runtime.tls, runtime.peer_tls))
    )
    app.add_middleware(Middleware, policy=CoordinatorPolicy(runtime, tracer))
    add_cors(app, runtime.config)
    add_error_handlers(app)
    modules = (dashboard, metrics, fleet, encoders, gateway, learning, promotions, route_sets)
    for module in modules:
        app.include_router(module.endpoints)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    serve_document(app)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=_DESCRIPTION,
            routes=app.routes,
            tags=TAGS,
            license_info={"name": "MIT", "identifier": "MIT"},
        )
        components = document.setdefault("components", {})
        named = components.setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            named.pop(unused, None)
        named["ProblemDocument"] = PROBLEM_SCHEMA
        components["securitySchemes"] = SECURITY_SCHEMES
        document["security"] = list(SECURITY)
        app.openapi_schema = document
    return app.openapi_schema


# --- the process ---------------------------------------------------------------------

BACKLOG_CONNECTIONS: Final = 512
RECORD_NAME: Final = "actions.jsonl"
SERVICE_NAME: Final = "synaptoroute-coordinator"


def serve(config: CoordinatorConfig) -> None:
    """Run a coordinator until SIGTERM or SIGINT.

    Raises:
        ConfigError: The settings contradict each other; nothing was started.
        SystemExit: With code 3, if the address cannot be used; the log says why.
    """
    check_exposure(
        config.host,
        has_keys=config.api_keys_file is not None,
        insecure=config.insecure,
        ways_out="name a file of keys (SYNAPTOROUTE_COORDINATOR_API_KEYS_FILE), listen on "
        "127.0.0.1, or accept that everybody may change routes "
        "(SYNAPTOROUTE_COORDINATOR_INSECURE=true)",
    )
    configure_logs(config.log_level, config.log_format)
    tracing = start_tracing(SERVICE_NAME, config.url, config.otlp_headers_file)
    try:
        is_started = asyncio.run(_serve(config, tracing.tracer if tracing else None))
    finally:
        if tracing is not None:
            tracing.close()
    if not is_started:
        raise SystemExit(FAILED_START)


async def _serve(config: CoordinatorConfig, tracer: RequestTracer | None) -> bool:
    """Serve until a stop signal; return False if the address cannot be used."""
    runtime = await asyncio.to_thread(make_runtime, config)
    for warning in exposed_secrets(config):
        runtime.log.warning("secret_exposed", detail=warning)
    app = create_app(runtime, tracer)
    # Event streams end by themselves only when they are told that the process stops.
    hooks = ProcessHooks(
        lifespan=app.router.lifespan_context(app),
        on_drain=runtime.is_stopping.set,
        shutdown_seconds=config.shutdown_seconds,
        end_at_once=partial(os._exit, 0),
    )
    server = HttpServer(
        app,
        backlog=BACKLOG_CONNECTIONS,
        tls=runtime.tls,
        limits=limits_of(config),
        proxies=proxies_of(config),
        root_path=config.root_path,
    )
    return await ServerProcess(server, hooks, runtime.log).run(config.host, config.port)


def log_of(config: CoordinatorConfig) -> RedisLog:
    return RedisLog(
        config.redis_url.get_secret_value(),
        namespace=config.namespace,
        password_file=config.redis_password_file,
        tls=Tls(config.redis_ca_file, config.redis_cert_file, config.redis_key_file),
        signing_keys_file=config.signing_keys_file,
        allow_unsigned=config.allow_unsigned,
        clock_skew_seconds_max=config.clock_skew_seconds_max,
        sentinel=SentinelAccess(
            config.redis_sentinel_user,
            config.redis_sentinel_password_file,
            config.redis_sentinel_tls,
        ),
        retention=RetentionLimits(config.log_bytes_max, config.retain_bytes, config.retain_entries),
    )


def make_runtime(config: CoordinatorConfig) -> Runtime:
    log = log_of(config)
    node_key = read_secret(config.node_key_file, "API key for the nodes")
    secret = read_secret(config.peer_secret_file, "peers' secret").encode()
    tls, peer_tls = server_tls(config), client_tls(peer_files(config))
    address = config.url or url_of((config.host, config.port), is_tls=tls is not None)
    pinned = frozenset(
        read_genesis(config.genesis_file, config.namespace).values() if config.genesis_file else ()
    )
    log.has_genesis = bool(pinned)
    lease = LeaderLease(log, address)

    def peer_secret() -> bytes:
        if secret:
            return secret
        cluster_id = reconciler.view.log.cluster_id
        if not cluster_id:
            raise NotReady("the cluster's identity is not known yet")
        return sha256(b"synaptoroute peer|" + cluster_id.encode()).digest()

    def signer() -> Signer:
        """Signs requests; admitted by the cluster secret, else as the nodes' peers are."""
        ring = log.signing_keys.secret
        if not ring:
            ring = ClusterSecret(ring.namespace, {"peer": peer_secret()})
        return Signer(name, identity, ring)

    identity = open_identity(config)
    name = f"{COORDINATOR}{identity.public_key[:16]}"
    membership = Membership(peer_secret, lambda: reconciler.now_ms())
    allow_plain = config.allow_plain_peers
    peers = PeerClient(
        membership,
        signer,
        log.verifier,
        log.signing_keys,
        peer_tls,
        allow_plain=allow_plain,
        is_strict=lambda: reconciler.level >= STRICT_LEVEL,
    )
    node_http = ProvenHttp(
        signer,
        lambda: log.verifier,
        key_hash=sha256(node_key.encode()).digest() if node_key else b"",
        tls=peer_tls,
        allow_plain=allow_plain,
    )
    reconciler = Reconciler(
        log,
        config,
        lease,
        FleetClient(node_http, has_key=bool(node_key)),
        Backups(open_backup_store(config), log, peers, config.backups_kept, pinned),
        AuditLog(config.folder / RECORD_NAME),
        Signer(name, identity, log.signing_keys.secret),
    )
    _log.info("trust: %s; the key of this coordinator is %s", log.trust_mode, identity.public_key)
    keys = ApiKeys(config.api_keys_file) if config.api_keys_file is not None else None
    return Runtime(config, reconciler, keys, tls, peer_tls)


def open_identity(config: CoordinatorConfig) -> NodeIdentity:
    """Read the key of this coordinator, or make one for the time of this process; blocks."""
    if config.identity_key_file is not None:
        return NodeIdentity.load(config.identity_key_file)
    return NodeIdentity.generate()


def open_backup_store(config: CoordinatorConfig) -> BackupStore | None:
    """Open the configured backup store, if there is one.  Reads the bucket's key and blocks."""
    if not config.backup_bucket:
        return FolderStore(config.backup_folder) if config.backup_folder else None
    if config.backup_folder is not None:
        raise ConfigError("backups go to a folder or to a bucket, not to both")
    if config.backup_key_file is None:
        raise ConfigError("a bucket needs its access key (backup_key_file)")
    credentials = read_credentials(config.backup_key_file, config.backup_region)
    scratch = config.folder / "backups"
    return BucketStore(config.backup_endpoint, config.backup_bucket, credentials, scratch)

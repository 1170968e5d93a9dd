"""Nodes and coordinators as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import preloaded
from ports import free_port
from tls_files import TestTls

# `python -m synaptoroute.server`, with packages that seem not to be installed.
_PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
from synaptoroute.server.__main__ import main
main()
"""
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0


@dataclass
class NodeProcess:
    """One node; started again on the same folder it is the same node.

    Attributes:
        folder: Its database and log.
        settings: More settings, by the names of ``NodeConfig``.
        url: Where it listens, once it does.
        variables: More variables of its environment.
        without: Packages that its interpreter shall not find.
    """

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    url: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log_starts_at: int = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, running or ended."""
        assert self._process is not None, "the node was not started"
        return self._process

    def launch(self) -> NodeProcess:
        """Start the process and return at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "host": "127.0.0.1",
            "port": "0",
            "model": "test-hash-64",
            "database": str(self.folder / "node.sqlite"),
            "log_format": "json",
            "lanes": "1",
            # A fit is an entry that comes by itself: most tests expect their own entries alone.
            "fit_confidence": "false",
            # So is a table that comes by itself, and it would take a core.
            "distil_tokens_max": "0",
            **self.settings,
        }
        path = self.folder / "log"
        self._log_starts_at = path.stat().st_size if path.exists() else 0
        environment = {name: value for name, value in os.environ.items() if _is_neutral(name)}
        environment |= {f"SYNAPTOROUTE_{name.upper()}": value for name, value in settings.items()}
        environment |= self.variables
        with path.open("ab") as log:
            # An interpreter with imports cannot seem to lack packages.
            launch = subprocess.Popen if self.without else preloaded.start
            self._process = launch(
                [sys.executable, "-W", "error", "-c", _PROGRAM, *self.without],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        return self

    def start(self) -> NodeProcess:
        """Start the process and return when it is ready."""
        self.launch()
        self.wait_listening()
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < give_up_at and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass  # it is ending; the log says why
            time.sleep(0.02)
        raise AssertionError(f"the node did not become ready:\n{self.log_text()}")

    def wait_listening(self) -> None:
        """Wait until the log names the address."""
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < give_up_at and self.process.poll() is None:
            for line in self.log():
                if line.get("message") == "listening":
                    self.url = line["url"]
                    return
            time.sleep(0.02)
        raise AssertionError(f"the node did not listen:\n{self.log_text()}")

    def log_text(self) -> str:
        """Return the error stream since the last start."""
        with (self.folder / "log").open("rb") as log:
            log.seek(self._log_starts_at)
            return log.read().decode()

    def log(self) -> list[dict[str, Any]]:
        """The whole lines of the log."""
        found = []
        for line in self.log_text().splitlines(keepends=True):
            if line.endswith("\n") and line.startswith("{"):
                found.append(json.loads(line))
        return found

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait until it ends; return the exit code."""
        code = self.process.wait(STOP_SECONDS_MAX)
        assert self.process.stdout is not None
        assert b"" == self.process.stdout.read(), "a node prints nothing"
        self.process.stdout.close()
        return code

    def stop(self) -> int:
        """Stop with SIGTERM, as an orchestrator does."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kill it as a crash does."""
        self.process.kill()
        self.wait()

    def end(self) -> None:
        """Kill the process if it still runs."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


def _is_neutral(name: str) -> bool:
    return not name.startswith(("SYNAPTOROUTE_", "OTEL_"))


COORDINATOR_START_SECONDS_MAX = 30.0
COORDINATOR_STOP_SECONDS_MAX = 15.0
_COORDINATOR_PROGRAM = """
import sys
for package in sys.argv[1].split(","):
    sys.modules[package] = None
sys.argv = ["synaptoroute-coordinator", "serve"]
from synaptoroute_coordinator.cli import main
main()
"""


@dataclass
class CoordinatorProcess:
    """One coordinator; started again on the same folder and port it is the same address.

    Attributes:
        folder: Its record, its backups and its log.
        redis_url: The sequencer.
        settings: More settings, by the names of ``CoordinatorConfig``.
        tls: Certificates that it serves with; None for plain HTTP.
    """

    folder: Path
    redis_url: str
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    tls: TestTls | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """URL of the process."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the coordinator was not started"
        return self._process.pid

    def start(self) -> CoordinatorProcess:
        """Start the process and return when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        chosen = {
            "host": "127.0.0.1",
            "port": str(self.port),
            "redis_url": self.redis_url,
            "folder": str(self.folder / "record"),
            "log_format": "json",
            **(self.tls.settings() if self.tls else {}),
            **self.settings,
        }
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SYNAPTOROUTE_")}
        environment |= {f"SYNAPTOROUTE_COORDINATOR_{k.upper()}": v for k, v in chosen.items()}
        with (self.folder / "log").open("ab") as log:
            without = ",".join(preloaded.COORDINATOR_WITHOUT)
            self._process = preloaded.start_coordinator(
                [sys.executable, "-W", "error", "-c", _COORDINATOR_PROGRAM, without],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: self.http("GET", "/livez").status_code == 200)
        return self

    def http(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request."""
        verify = self.tls.client(with_certificate=True) if self.tls else True
        with httpx.Client(trust_env=False, timeout=20.0, verify=verify) as client:
            return client.request(method, self.url + path, **options)

    def cluster(self) -> dict[str, Any]:
        """Return the fleet as the coordinator sees it."""
        document: dict[str, Any] = self.http("GET", "/v1/cluster").json()
        return document

    @property
    def is_active(self) -> bool:
        """Whether it holds the lease."""
        return bool(self.cluster()["coordinator"]["is_active"])

    def order_backup(self) -> None:
        """Order a backup as soon as it knows a sound node, which takes an audit."""

        def is_taken() -> bool:
            asked = self.http("POST", "/v1/actions/backup", json={})
            assert asked.status_code in (200, 409), asked.text
            return asked.status_code == 200

        self.until(is_taken)

    def until(self, condition: Any, seconds_max: float = COORDINATOR_START_SECONDS_MAX) -> float:
        """Wait for a condition; return the seconds that it took."""
        began_at = time.monotonic()
        while time.monotonic() - began_at < seconds_max:
            try:
                if condition():
                    return time.monotonic() - began_at
            except (httpx.TransportError, KeyError, IndexError, StopIteration):
                pass
            if self._process is not None and self._process.poll() is not None:
                break
            time.sleep(0.05)
        log = (self.folder / "log").read_text(errors="replace")[-3_000:]
        raise AssertionError(f"it did not come to pass in {seconds_max} s:\n{log}")

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """Stop with SIGTERM, as an orchestrator does; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end."""
        assert self._process is not None
        return self._process.wait(COORDINATOR_STOP_SECONDS_MAX)

    def end(self) -> None:
        """Kill the process if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

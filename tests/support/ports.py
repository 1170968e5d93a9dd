"""Ports for servers that are told theirs before they listen.

A port that the system chooses lies among those of outgoing connections: until the server listens,
any client of any test may get it.  So each process that runs tests has a block of its own outside
of them, held by a lock on a file, which ends with the process.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from itertools import count
from pathlib import Path

_LOOPBACK = "127.0.0.1"
_FIRST, _BLOCKS, _SIZE = 20_000, 100, 100
_blocks: dict[int, int] = {}  # First port of each process: a child has another block
_next = count()


def free_port() -> int:
    """Return a TCP port of the loopback on which nothing listens; each call another one.

    Ports come again when the block of this process has been used up.
    """
    first = _blocks.get(os.getpid()) or _claim()
    for _ in range(_SIZE):
        port = first + next(_next) % _SIZE
        with socket.socket() as probe:
            # As servers do: what a connection that ended has left behind does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, port))
            except OSError:
                continue
            return port
    raise AssertionError("every port of this process is in use")


def _claim() -> int:
    folder = Path(tempfile.gettempdir()) / f"synaptoroute-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for block in range(_BLOCKS):
        file = os.open(folder / str(block), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        # The descriptor stays open, and with it the lock, as long as the process lives.
        _blocks.clear()
        _blocks[os.getpid()] = _FIRST + block * _SIZE
        return _blocks[os.getpid()]
    raise AssertionError("every block of ports is in use")

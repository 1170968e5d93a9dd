"""Proxies for tests without an event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from fault_proxy import Fault, FaultProxy

WAIT_SECONDS = 30.0


class Network:
    """Proxies on an event loop of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")
        self._thread.start()
        self._proxies: list[FaultProxy] = []

    def run(self, make: Callable[[], Any]) -> Any:
        """Run a coroutine on the network's loop."""
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(WAIT_SECONDS)

    def proxy(self, target_port: int) -> FaultProxy:
        """Put a proxy before a port."""

        async def enter() -> FaultProxy:
            return await FaultProxy(target_port).__aenter__()

        proxy: FaultProxy = self.run(enter)
        self._proxies.append(proxy)
        return proxy

    def set_fault(self, proxy: FaultProxy, fault: Fault, *, reset: bool = False) -> None:
        """Change what the network does; ``reset`` ends what is connected, too."""

        async def change() -> None:
            proxy.set_fault(fault)
            if reset:
                proxy.reset()

        self.run(change)

    def close(self) -> None:
        """End every proxy, the loop and its thread."""
        for proxy in self._proxies:
            self.run(lambda proxy=proxy: proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

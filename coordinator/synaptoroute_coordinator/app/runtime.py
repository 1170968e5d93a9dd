"""What the endpoints of one coordinator share."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from starlette.requests import Request

from synaptoroute.errors import SynaptoRouteError
from synaptoroute.web.keys import KeyRing
from synaptoroute.web.logs import ServerLog
from synaptoroute_coordinator.app.sessions import Sessions
from synaptoroute_coordinator.config import CoordinatorConfig
from synaptoroute_coordinator.reconciler import Reconciler

KEYS_LOOK_SECONDS: Final = 1.0
LOGGER_NAME: Final = "synaptoroute.coordinator"


class Runtime:
    """One coordinator behind its door.

    Attributes:
        config: Its settings.
        reconciler: Its loop.
        keys: API keys; None serves everybody.
        sessions: Sessions of the dashboard.
        is_stopping: Set when the process ends; streams end then.
    """

    def __init__(
        self, config: CoordinatorConfig, reconciler: Reconciler, keys: KeyRing | None
    ) -> None:
        self.config = config
        self.reconciler = reconciler
        self.keys = keys
        self.sessions = Sessions(config.session_seconds)
        self.is_stopping = asyncio.Event()
        self.log: ServerLog = structlog.stdlib.get_logger(LOGGER_NAME)
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the record and begin to observe."""
        await asyncio.to_thread(self.reconciler.record.load)
        self.reconciler.start()
        if self.keys is not None:
            self._watching = asyncio.create_task(self._watch_keys(self.keys), name="keys")

    async def stop(self) -> None:
        """Stop, give the lease back, close every connection."""
        self.is_stopping.set()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.reconciler.stop()
        await self.reconciler.nodes.close()
        await self.reconciler.backups.close()
        await self.reconciler.log.close()

    async def _watch_keys(self, keys: KeyRing) -> None:
        """Read the file of API keys when it changes; a broken one leaves the old in force."""
        while True:
            await asyncio.sleep(KEYS_LOOK_SECONDS)
            try:
                if await asyncio.to_thread(keys.reload):
                    self.log.info("api_keys_read", keys=len(keys))
            except SynaptoRouteError as error:
                self.log.error("api_keys_refused", code=error.code, detail=error.message)


def runtime_of(request: Request) -> Runtime:
    """The coordinator that a request came to."""
    runtime: Runtime = request.app.state.runtime
    return runtime

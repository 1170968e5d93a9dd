"""The life of a router's engine: opened once, closed once, whoever asks and when.

    new -> starting -> ready -> draining -> stopped

``failed`` stands for a database that could not be opened.  Opening and closing take
disk time, so each runs on a thread of its own; a caller that is cancelled meanwhile
leaves nothing open and nothing locked behind.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from synaptoroute.errors import ConfigError, NotReady
from synaptoroute.serving.query import QueryEngine

ResultT = TypeVar("ResultT")


class Life:
    """One engine and the state it is in.

    Invariants: the engine is made at most once and stopped at most once at a time;
    its threads turn only in ``ready`` and ``draining``.
    """

    def __init__(self, make: Callable[[], QueryEngine]) -> None:
        self.state = "new"
        self.engine: QueryEngine | None = None
        self._make = make
        self._opening: Future[QueryEngine] | None = None
        self._closing: Future[None] | None = None

    def opened(self) -> QueryEngine:
        """The engine; before ``start`` the first use opens it on the caller's thread.

        Raises:
            NotReady: It is being opened, or is closed.
        """
        if self.state == "new":
            return self._open()
        if self.engine is None or self.state in ("starting", "stopped", "failed"):
            raise NotReady(f"the router is {self.state}", retry_after_seconds=1.0)
        return self.engine

    def _open(self) -> QueryEngine:
        if self.engine is None:
            self.engine = self._make()
        return self.engine

    async def start(self) -> None:
        """Open the engine and start its threads; see ``AdaptiveRouter.start``."""
        if self.state == "ready":
            return
        if self.state != "new":
            raise NotReady(f"the router is {self.state}; a router starts once")
        self.state = "starting"
        self._opening = _in_thread(self._open, "synaptoroute-open")
        try:
            engine = await asyncio.wrap_future(self._opening)
            if self.state != "starting":
                raise NotReady("the router was stopped while it started")
            engine.start()
        except BaseException:
            if self.state == "starting":
                self.state = "failed"
                self._opening.add_done_callback(_stop_opened)
            raise
        self.state = "ready"

    async def stop(self) -> None:
        """Drain and close; every caller returns when it is done."""
        if self._closing is None:
            self.state = "draining"
            self._closing = _in_thread(self._close, "synaptoroute-close")
        await asyncio.wrap_future(self._closing)

    def _close(self) -> None:
        if self._opening is not None:
            wait([self._opening])
        try:
            if self.engine is not None:
                self.engine.stop()
        finally:
            self.state = "stopped"

    def close(self) -> None:
        """Close an engine that was never started, on the caller's thread.

        Raises:
            ConfigError: Its threads turn; ``stop`` drains them.
        """
        if self.state in ("starting", "ready", "draining"):
            raise ConfigError("a router that was started is closed by awaiting stop()")
        self._close()


def _stop_opened(opening: Future[QueryEngine]) -> None:
    """Close what was opened for a start that did not come to its end."""
    if opening.exception() is None:
        opening.result().stop()


def _in_thread(task: Callable[[], ResultT], name: str) -> Future[ResultT]:
    """Run a task to its end on a thread of its own; nobody can cancel it."""
    future: Future[ResultT] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = task()
        except BaseException as error:  # whoever waits gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name).start()
    return future

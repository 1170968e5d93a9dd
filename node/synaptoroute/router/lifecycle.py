"""Lifecycle of a router's engine: opened once, closed once, from any caller.

    new -> starting -> ready -> draining -> stopped

``failed`` means that the database could not be opened.  Opening and closing wait for the
disk, so each runs on its own thread.  A caller that is cancelled meanwhile leaves nothing
open and nothing locked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from synaptoroute.errors import ConfigError, NotReady
from synaptoroute.serving.query import QueryEngine

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

ResultT = TypeVar("ResultT")


class Lifecycle:
    """An engine and its state.

    Invariants: the engine is made at most once, and is never stopped twice at a time.  Its
    threads run only in ``ready`` and ``draining``.
    """

    def __init__(self, make: Callable[[], QueryEngine]) -> None:
        self.state = "new"
        self.engine: QueryEngine | None = None
        self._make = make
        self._opening: Future[QueryEngine] | None = None
        self._closing: Future[None] | None = None

    def opened(self) -> QueryEngine:
        """Return the engine; before ``start`` the first use opens it on the caller's thread."""
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
        self._opening = _run_in_thread(self._open, "synaptoroute-open")
        try:
            engine = await asyncio.wrap_future(self._opening)
            if self.state != "starting":
                raise NotReady("the router was stopped while it started")
            engine.start()
        except BaseException:
            # The thread cannot be cancelled: if this caller is, the thread still opens the
            # database some time later, and only its callback can close it then.
            if self.state == "starting":
                self.state = "failed"
                self._opening.add_done_callback(_stop_opened)
            raise
        self.state = "ready"

    async def stop(self) -> None:
        """Drain and close; every caller returns when that is done."""
        if self._closing is None:
            self.state = "draining"
            self._closing = _run_in_thread(self._close, "synaptoroute-close")
        await asyncio.wrap_future(self._closing)

    def _close(self) -> None:
        # A start may still be opening the database; closing before it would leave it open.
        if self._opening is not None:
            wait([self._opening])
        try:
            if self.engine is not None:
                self.engine.stop()
        finally:
            self.state = "stopped"

    def close(self) -> None:
        """Close an engine that was never started, on the caller's thread."""
        if self.state in ("starting", "ready", "draining"):
            raise ConfigError("a router that was started is closed by awaiting stop()")
        self._close()


def _stop_opened(opening: Future[QueryEngine]) -> None:
    if opening.exception() is None:
        opening.result().stop()


def _run_in_thread(task: Callable[[], ResultT], name: str) -> Future[ResultT]:
    """Run a task to its end on its own thread; the future cannot be cancelled."""
    future: Future[ResultT] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = task()
        except BaseException as error:  # the waiting caller gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name).start()
    return future


@dataclass(slots=True)
class Live:
    """Parts that the start of a router makes; routers bound to its route sets share them."""

    follower: Follower | None = None
    loop: asyncio.AbstractEventLoop | None = None


def is_elsewhere(live: Live) -> bool:
    """Whether the router's event loop runs, and none runs on this thread."""
    if live.loop is None or not live.loop.is_running():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def other_loop(live: Live, coroutine: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop:
    """Return the router's event loop if it runs on another thread; close the coroutine if not."""
    loop = live.loop
    assert loop is not None
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        # Waiting here for the result would block the loop that has to compute it.
        coroutine.close()
        raise ConfigError("on the event loop's thread, await the coroutine instead")
    if not loop.is_running():
        coroutine.close()
        raise NotReady("the event loop on which the router was started has ended")
    return loop

"""Threads: an inbox that a thread reads, priorities, the end of a task, numpy on one thread.

Encoding and applying use all CPU time they get.  Receiving, admission and scoring need
little, but soon: an event loop that waits for a CPU delays every answer.  On Linux each
thread has its own nice value.  Elsewhere the value is that of the process, and
``lower_priority`` does nothing.

OpenBLAS splits a decomposition among threads that synchronize a thousand times and spin
meanwhile.  Beside encoder workers, each synchronization waits for the scheduler: one
decomposition took 1.7 s of two cores instead of 0.04 s of one.  A numpy with another
library is left as it is.

Source: https://man7.org/linux/man-pages/man2/setpriority.2.html, section "C library/kernel
differences".
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, Final, Generic, TypeVar

from synaptoroute.errors import NotReady

_REPEAT_SECONDS: Final = 0.1
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_STOPPED: Final = "the router has stopped"


class Inbox(Generic[ItemT]):
    """A queue that can be closed; any thread puts, one thread gets."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[ItemT | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, item: ItemT) -> None:
        """Add one item."""
        with self._lock:
            # Checked under the lock: an item put after the thread has drained a closed inbox
            # would never be taken, and its caller would wait forever.
            if self._is_closed:
                raise NotReady(_STOPPED)
            self._queue.put(item)

    def put_all(self, items: Iterable[ItemT]) -> None:
        """Add items in order, all or none; see ``put``."""
        with self._lock:
            if self._is_closed:
                raise NotReady(_STOPPED)
            for item in items:
                self._queue.put(item)

    def get(self, seconds_max: float | None = None) -> ItemT | None:
        """Wait for the next item; None at the end.  Raises queue.Empty after ``seconds_max``."""
        return self._queue.get(timeout=seconds_max)

    def get_nowait(self) -> ItemT | None:
        """Take the next item; None at the end.  Raises queue.Empty if there is none."""
        return self._queue.get_nowait()

    def close(self) -> None:
        """Refuse new items; what is queued can still be taken."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)

    def close_and_drop(self) -> list[ItemT]:
        """Close it and return the items that were not taken."""
        self.close()
        left: list[ItemT] = []
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return left
            if item is not None:
                left.append(item)


def run_into(future: Future[Any], task: Callable[..., Any], *arguments: Any) -> None:
    """Run a task and store its result or its error; skip it if it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = task(*arguments)
    except BaseException as error:  # the caller gets it; the thread must live on
        future.set_exception(error)
    else:
        future.set_result(result)


def refuse(future: Future[Any]) -> None:
    """End a call that will not be made, with ``NotReady``."""
    if future.set_running_or_notify_cancel():
        future.set_exception(NotReady(_STOPPED))


def lower_priority(nice: int) -> None:
    """Add to the nice value of the calling thread; Linux only."""
    if nice and sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it: all threads stay equal then
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, own + nice)


class BulkThread:
    """A thread for the arithmetic of one large request; starts when it is used.

    A thread of the event loop or of an encoder that wakes takes the core of a nicer thread at
    once.  At equal priority it waits for up to two ticks of the kernel's clock, 8 ms.

    Args:
        nice: Added to the nice value of the thread; see ``lower_priority``.
    """

    def __init__(self, nice: int) -> None:
        start = partial(lower_priority, nice)
        self._executor = ThreadPoolExecutor(1, "synaptoroute-bulk", start)

    async def run(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """Run a function on the thread, after those that were given before."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *arguments))

    def close(self) -> None:
        """End the thread; what it has not begun is cancelled."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended; its result is discarded."""
    # Before Python 3.12 a cancellation that arrives in the same turn of the loop as a timeout
    # inside the client library can be taken for that timeout and swallowed.  So it is repeated.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_REPEAT_SECONDS)
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not log it


# --- linear algebra on one thread --------------------------------------------------------


_NAMES: Final = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
)
_EXTENSION: Final = "numpy._core._multiarray_umath"


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Limit numpy's products and decompositions to one thread, in the whole process."""
    functions = blas_functions()
    if functions is None:
        yield
        return
    count_threads, use_threads = functions
    before = count_threads()
    use_threads(1)
    try:
        yield
    finally:
        use_threads(before)


@cache
def blas_functions() -> tuple[Any, Any] | None:
    """Find the getter and the setter of OpenBLAS's thread count; None without OpenBLAS."""
    found = find_spec(_EXTENSION)
    if found is None or found.origin is None:
        return None
    try:
        # A symbol is also looked up in the libraries that the extension is linked with.
        library = ctypes.CDLL(found.origin)
    except OSError:
        return None
    for count, use in _NAMES:
        if hasattr(library, use) and hasattr(library, count):
            return getattr(library, count), getattr(library, use)
    return None

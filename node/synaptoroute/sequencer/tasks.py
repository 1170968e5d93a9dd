"""Ending a task for certain.

A cancellation that arrives in the same turn of the loop as a timeout of the client
library's own can be taken for that timeout and swallowed.  So it is repeated.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_REPEAT_SECONDS: Final = 0.1


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it ends; its result is nobody's any more."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_REPEAT_SECONDS)
    if not task.cancelled():
        task.exception()

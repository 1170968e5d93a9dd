"""Finds threads that outlive the test that started them."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

GRACE_SECONDS = 5.0
# Kept for the life of the process by the libraries that start them.
_IMMORTAL_CLASSES = frozenset({"TMonitor"})


def left_running(
    before: Collection[threading.Thread], grace_seconds: float = GRACE_SECONDS
) -> list[str]:
    """Name the threads that were not there before and do not end within the grace."""
    give_up_at = time.monotonic() + grace_seconds
    left = []
    for thread in threading.enumerate():
        if thread in before or type(thread).__name__ in _IMMORTAL_CLASSES:
            continue
        thread.join(max(0.0, give_up_at - time.monotonic()))
        if thread.is_alive():
            left.append(thread.name)
    return left

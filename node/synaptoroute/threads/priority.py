"""Whose turn it is where threads want more CPUs than there are.

Encoding and applying take whatever the CPUs have; what receives, refuses and scores needs
little of them, but soon: an event loop that waits for its turn delays every answer, and
what it has not read yet no prediction of waits can know of.  On Linux each thread has a
nice value of its own; elsewhere it is the whole process's, and nothing is done.

Source: https://man7.org/linux/man-pages/man2/setpriority.2.html, section "C library/kernel
differences".
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress


def give_way(nice: int) -> None:
    """Let other threads of the machine go before the calling one, by so many steps."""
    if nice and sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it: then all are equal, as before
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, own + nice)

"""Failpoints: named steps at which a test can crash the process.

They are off unless ``SYNAPTOROUTE_FAILPOINT`` names a step: ``promise.kept``, or
``commit.begun:3`` for the third time it is reached.  There the process kills itself with
SIGKILL, so no cleanup runs.  While no failpoint is armed, a step costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

from synaptoroute.errors import ConfigError

FAILPOINTS: Final = (
    "append.begun",  # a write is about to get its place in the log
    "append.placed",  # it has its place, and its writer is not answered
    "apply.received",  # the replica accepted entries, nothing is durable
    "fork.some",  # some rows of a new route set are copied, the transaction is open
    "removal.some",  # some rows of a route set are deleted, the transaction is open
    "commit.begun",  # their rows are written, the transaction is open
    "commit.done",  # they are durable, nothing is visible
    "tensor.begun",  # some of a change is visible
    "position.told",  # a voter reported what is durable
    "promise.begun",  # a ballot is about to be promised
    "promise.kept",  # the promise is durable, and not reported
    "promise.told",  # it was reported
    "ballot.begun",  # this node closed the log
    "lease.taken",  # this node is about to open the next epoch
    "refill.some",  # a part of the next log is written
    "refill.done",  # all of it is written
    "reopen.done",  # the epoch is open, and not announced
    "install.fetched",  # a peer's snapshot is downloaded
    "install.drafted",  # it holds this node's own data
    "install.renamed",  # it is the database
    "install.stored",  # it is loaded, and the old tensor still serves
    "snapshot.written",  # a snapshot for a peer is written, not yet renamed
)
"""All steps, in the order in which they are reached."""


class Failpoint:
    """An armed step, and how often it may still be passed."""

    def __init__(self, requested: str) -> None:
        """Parse a name, with an optional count after a colon."""
        self.name, _, count = requested.partition(":")
        if self.name not in FAILPOINTS:
            raise ConfigError(f"unknown failpoint: {self.name!r}")
        if count and not count.isdigit():
            raise ConfigError(f"the count of a failpoint must be a number, got {count!r}")
        self._left = int(count or 1)
        self._lock = threading.Lock()

    def passes(self, name: str) -> bool:
        """Whether the process goes on after this step."""
        if name != self.name:
            return True
        with self._lock:
            self._left -= 1
            return self._left > 0


_armed: Failpoint | None = None


def arm(requested: str) -> None:
    """Crash the process at a step; at none if empty."""
    global _armed
    _armed = Failpoint(requested) if requested else None


def failpoint(name: str) -> None:
    """Crash here if this step is armed."""
    if _armed is not None and not _armed.passes(name):
        # Not an exception and not SIGTERM: handlers and ``finally`` blocks must not run.
        os.kill(os.getpid(), signal.SIGKILL)

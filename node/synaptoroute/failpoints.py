"""Steps at which a test can have the process die as a crash does.

Off unless ``SYNAPTOROUTE_FAILPOINT`` names a step: ``promise.kept``, or ``commit.begun:3`` for the
third time it is reached.  The process kills itself there, so nothing is said goodbye to.
A step costs a comparison with None while none is armed.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

from synaptoroute.errors import ConfigError

FAILPOINTS: Final = (
    "append.begun",  # a write is about to be given its place
    "append.placed",  # it has its place, and nobody was told
    "apply.received",  # the replica took entries in, nothing is durable
    "commit.begun",  # their rows are written, the transaction is open
    "commit.done",  # they are durable, nothing is visible
    "tensor.begun",  # some of a change is visible
    "position.told",  # a voter told what it made durable
    "promise.begun",  # a ballot is about to be promised
    "promise.kept",  # the promise is durable, nobody was told
    "promise.told",  # it was told
    "ballot.begun",  # this node closed the log
    "lease.taken",  # this node is about to open the next epoch
    "refill.some",  # a part of the next log is there
    "refill.done",  # all of it is
    "reopen.done",  # the epoch is open, nobody was told
    "install.fetched",  # a peer's snapshot is here
    "install.drafted",  # it holds what belongs to this node
    "install.renamed",  # it is the database
    "install.stored",  # it is read, the old tensor serves
    "snapshot.written",  # a snapshot for a peer stands beside its place
)
"""Every step, in the order in which they are reached."""


class Failpoint:
    """Which step is named, and how often it may be passed yet."""

    def __init__(self, wished: str) -> None:
        """Read a name, with its count after a colon.

        Raises:
            ConfigError: No step has this name, or the count is none.
        """
        self.name, _, count = wished.partition(":")
        if self.name not in FAILPOINTS:
            raise ConfigError(f"no step of this name: {self.name!r}")
        if count and not count.isdigit():
            raise ConfigError(f"not a count: {count!r}")
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


def arm(wished: str) -> None:
    """Have the process die at a step; empty for none.

    Raises:
        ConfigError: No step has this name, or the count is none.
    """
    global _armed
    _armed = Failpoint(wished) if wished else None


def failpoint(name: str) -> None:
    """Die here, if this step is armed."""
    if _armed is not None and not _armed.passes(name):
        os.kill(os.getpid(), signal.SIGKILL)

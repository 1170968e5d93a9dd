"""One process, one writer: an advisory lock on a file beside the database.

The kernel releases it when the process ends, however it ends, so there are no stale
locks.  The lock file is never removed: a process that waits for a removed file and one
that made a new file would both believe to hold it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from synaptoroute.errors import StorageUnavailable
from synaptoroute.storage.connection import translated


class FileLock:
    """Exclusive ``flock`` on a path; held from ``take`` to ``free``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock at once or not at all.

        Raises:
            StorageUnavailable: Held elsewhere (reason ``locked``), or the lock file
                cannot be made.
        """
        assert self._descriptor is None, "the lock is held already: this is a bug"
        with translated(f"open the lock file {self.path.name}"):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> None:
        with translated(f"lock {self.path.name}"):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                raise StorageUnavailable(
                    f"another process{f' ({holder})' if holder else ''} has the database open: "
                    f"{self.path.name} is locked",
                    reason="locked",
                ) from error
        # Only for the message above, so a full disk must not get in the way.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)

    def free(self) -> None:
        """Release the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

"""Who reads the file, and whoever puts another file in its place.

SQLite keeps log and index beside the file by name.  A connection that outlives the file
it opened could take the next file's log for its own, so none may.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from synaptoroute.errors import StorageUnavailable

SHUT_SECONDS_MAX: Final = 30.0


class Gate:
    """Open to many readers, or shut by one.

    Invariants: while it is shut nobody is inside.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reader_count = 0
        self._is_shut = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside.

        Raises:
            StorageUnavailable: It stays shut for too long.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._is_shut, SHUT_SECONDS_MAX):
                raise StorageUnavailable("the database is being replaced", reason="busy")
            self._reader_count += 1
        try:
            yield
        finally:
            with self._changed:
                self._reader_count -= 1
                self._changed.notify_all()

    @contextmanager
    def shut(self, wait_seconds_max: float) -> Iterator[bool]:
        """Keep others out, and say whether those inside left in time."""
        with self._changed:
            assert not self._is_shut, "the gate is shut already: this is a bug"
            self._is_shut = True
            is_empty = self._changed.wait_for(lambda: self._reader_count == 0, wait_seconds_max)
        try:
            yield is_empty
        finally:
            with self._changed:
                self._is_shut = False
                self._changed.notify_all()

"""A wrong wall clock for whole processes; monotonic clocks stay right.

libfaketime stands between a process and the clock of its machine.  What it adds is read from
a file at each look, so that the clock can jump while the process runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from environment import variables
from needs import lacking, require

HOUR_SECONDS = 3_600
_LIBRARY = "libfaketimeMT.so.1"


def library() -> Path:
    """Find the library next to the program `faketime`."""
    prefix = require("faketime").parent.parent
    found = sorted(prefix.glob(f"lib*/**/faketime/{_LIBRARY}"))
    if not found:
        lacking(f"{_LIBRARY} (package 'faketime')")
    return found[0]


class WallClock:
    """A wall clock for the processes that are started under it."""

    def __init__(self, path: Path, ahead_seconds: int = 0) -> None:
        self._path = path
        self._library = library()
        self.jump_to(ahead_seconds)

    def jump_to(self, ahead_seconds: int) -> None:
        """Set the difference to the machine's clock in seconds."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(f"{ahead_seconds:+d}\n")
        draft.replace(self._path)

    @contextmanager
    def rules(self) -> Iterator[None]:
        """Processes that start within the block use it."""
        with variables(
            LD_PRELOAD=str(self._library),
            FAKETIME_TIMESTAMP_FILE=str(self._path),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        ):
            yield

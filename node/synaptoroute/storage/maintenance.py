"""Background maintenance of the database: checkpoints and scrubs.

Both walk over the rows, a thousand at a time in short read transactions, and recompute
the hash of each.  A checkpoint copies the rows.  A scrub copies nothing, but also lets
SQLite check its pages and looks for gaps in the op log: it verifies what a boot from a
checkpoint did not read.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from synaptoroute.core.mutation import Position
from synaptoroute.errors import StorageUnavailable
from synaptoroute.storage.checkpoint import CheckpointWriter
from synaptoroute.storage.connection import connect_reader, translated
from synaptoroute.storage.corruption import CorruptFile, corruption_detected
from synaptoroute.storage.loader import check_op_log, check_pages, read_meta, read_remembered
from synaptoroute.storage.records import read_after, verify_rows

CHECKPOINT_ROWS_MIN: Final = 4_096  # Fewer rows and outcomes are read as fast without a checkpoint
WALK_ROWS: Final = 1_024
PAUSE_SECONDS: Final = 0.02
POLL_SECONDS: Final = 5.0
INTERVAL_SECONDS: Final = 600.0
CHANGED_SHIFT: Final = 4
"""Once a sixteenth of the rows changed, a checkpoint does not wait for the interval."""

Pause: TypeAlias = Callable[[], None]
"""Called after each part of a walk; sleeps, or raises ``Interrupted``."""
Derive: TypeAlias = Callable[[Position, str], bytes]
"""Returns bytes derived from the rows at a position and digest, or none if it has others."""


class Interrupted(Exception):
    """The walk was asked to end."""


@dataclass(slots=True)
class ChangeCounter:
    """Counts of rows, and of those that changed since the checkpoint.

    Commits count without a lock while a checkpoint subtracts: an estimate is enough.
    """

    rows: int = 0
    rows_changed: int = 0
    newest_at: float = 0.0

    def add(self, added: int, changed: int) -> None:
        self.rows += added
        self.rows_changed += changed
        self.newest_at = time.monotonic()

    @property
    def is_stale(self) -> bool:
        """Whether a new checkpoint would make the next boot faster."""
        return self.rows >= CHECKPOINT_ROWS_MIN and self.rows_changed > 0

    def is_due(self, written_at: float) -> bool:
        """Whether to write a checkpoint: the node is idle and changed enough, or long ago."""
        now = time.monotonic()
        if not self.is_stale or now - self.newest_at < POLL_SECONDS:
            return False
        is_much = self.rows_changed > self.rows >> CHANGED_SHIFT
        return is_much or now - written_at > INTERVAL_SECONDS


def write_checkpoint(path: Path, pause: Pause | None = None, derive: Derive | None = None) -> None:
    """Copy every row, verified, and the outcomes into a checkpoint.  Any thread.

    ``derive`` is called with the position and the digest at the end of the walk.
    """
    with (
        translated("write a checkpoint"),
        corruption_detected(),
        closing(connect_reader(path)) as reader,
    ):
        meta = read_meta(reader)
        writer = CheckpointWriter(path, meta.fingerprint, meta.dim)
        try:
            # Many short transactions, because one long one would keep the WAL from being
            # reset.  Rows may change in between: the boot checks every row anyway.
            _walk(reader, meta.dim, pause, writer)
            reader.execute("BEGIN")
            meta = read_meta(reader)
            derived = derive(meta.position, meta.digest) if derive is not None else b""
            remembered = read_remembered(reader, meta.position.seq)
            writer.finish(remembered, meta.position, derived)
        finally:
            writer.close()


def scrub(path: Path, pause: Pause | None = None) -> None:
    """Verify all of the file that a boot from a checkpoint does not read.  Any thread."""
    check_pages(path)
    with corruption_detected(), closing(connect_reader(path)) as reader:
        _walk(reader, read_meta(reader).dim, pause, None)
        check_op_log(reader)


def _walk(
    reader: sqlite3.Connection, dim: int, pause: Pause | None, writer: CheckpointWriter | None
) -> None:
    slot = -1
    while part := read_after(reader, slot, WALK_ROWS):
        vectors = verify_rows(part, dim)
        if writer is not None:
            writer.add(part, vectors)
        slot = part[-1][0]
        if pause is not None:
            pause()


class MaintenanceThread(threading.Thread):
    """Scrubs once after a boot from a checkpoint, then writes checkpoints when due."""

    def __init__(
        self,
        changes: ChangeCounter,
        *,
        needs_scrub: bool,
        scrub: Callable[[Pause], None],
        checkpoint: Callable[[Pause], None],
    ) -> None:
        super().__init__(name="storage-maintenance", daemon=True)
        self.needs_scrub = needs_scrub
        self._changes = changes
        self._scrub = scrub
        self._checkpoint = checkpoint
        self._stopped = threading.Event()

    def run(self) -> None:
        """Check every few seconds whether something is due."""
        written_at = time.monotonic()
        while not self._stopped.wait(POLL_SECONDS):
            try:
                if self.needs_scrub:
                    self._scrub(self._pause)
                    self.needs_scrub = False
                elif self._changes.is_due(written_at):
                    written_at = time.monotonic()
                    self._checkpoint(self._pause)
            except (Interrupted, CorruptFile):
                return
            except StorageUnavailable:
                continue  # a full disk costs the checkpoint, never the node

    def _pause(self) -> None:
        if self._stopped.wait(PAUSE_SECONDS):
            raise Interrupted

    def stop(self) -> None:
        """End the thread, and the walk it is in."""
        self._stopped.set()
        if self.is_alive():
            self.join()

"""What is done about the file in the background: checkpoint and scrub are one walk.

The walk reads rows a thousand at a time in short read transactions and recomputes each
row's hash.  A checkpoint is what it copies on the way.  A scrub copies nothing, but also
lets SQLite check its pages and looks for gaps in the op log: after a boot from a
checkpoint it makes up for what the boot did not look at.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import StorageUnavailable
from synaptoroute.storage.checkpoint import CheckpointWriter
from synaptoroute.storage.connection import connect_reader, translated
from synaptoroute.storage.corruption import Damaged, finding_damage
from synaptoroute.storage.loader import check_log, check_pages, read_meta, read_remembered
from synaptoroute.storage.rows import read_after, verified

CHECKPOINT_ROWS_MIN: Final = 4_096
"""Fewer rows and outcomes are read as fast without one."""
WALK_ROWS: Final = 1_024
PAUSE_SECONDS: Final = 0.02
POLL_SECONDS: Final = 5.0
INTERVAL_SECONDS: Final = 600.0
CHANGED_SHIFT: Final = 4
"""A sixteenth of the rows, once changed, does not wait for the interval."""

Pause = Callable[[], None]
"""Called after each part of a walk; rests, or raises ``Interrupted``."""


class Interrupted(Exception):
    """The walk was asked to end."""


@dataclass(slots=True)
class Changes:
    """How much changed since the checkpoint; counts, not measures."""

    rows: int = 0
    rows_changed: int = 0
    newest_at: float = 0.0

    def add(self, added: int, changed: int) -> None:
        """Follow a commit."""
        self.rows += added
        self.rows_changed += changed
        self.newest_at = time.monotonic()

    @property
    def is_stale(self) -> bool:
        """Whether a checkpoint would help the next boot."""
        return self.rows >= CHECKPOINT_ROWS_MIN and self.rows_changed > 0

    def is_due(self, written_at: float) -> bool:
        """Whether it is time for one: the node is idle, and enough or old enough changed."""
        now = time.monotonic()
        if not self.is_stale or now - self.newest_at < POLL_SECONDS:
            return False
        is_much = self.rows_changed > self.rows >> CHANGED_SHIFT
        return is_much or now - written_at > INTERVAL_SECONDS


Derive = Callable[[Position, str], bytes]
"""Gives what the node derives from the rows of a state, or nothing if it has another."""


def write_checkpoint(path: Path, pause: Pause | None = None, derive: Derive | None = None) -> None:
    """Copy every row, verified, and the outcomes into a checkpoint.  Any thread.

    Rows may change meanwhile; see ``checkpoint`` for why that does no harm.

    Args:
        path: The database.
        pause: Called after each part.
        derive: Given the position and the digest with which the walk ended.

    Raises:
        Damaged: A row of the database is not what was written.
        StorageUnavailable: It could not be read, or the checkpoint not be written.
    """
    with (
        translated("write a checkpoint"),
        finding_damage(),
        closing(connect_reader(path)) as reader,
    ):
        meta = read_meta(reader)
        writer = CheckpointWriter(path, meta.fingerprint, meta.dim)
        try:
            _walk(reader, meta.dim, pause, writer)
            reader.execute("BEGIN")
            meta = read_meta(reader)
            derived = derive(meta.position, meta.digest) if derive is not None else b""
            remembered = read_remembered(reader, meta.position.seq)
            writer.finish(remembered, meta.position, derived)
        finally:
            writer.close()


def scrub(path: Path, pause: Pause | None = None) -> None:
    """Verify all of the file that a boot from a checkpoint does not look at.  Any thread.

    Raises:
        Damaged: The file is not what was written.
        StorageUnavailable: It could not be read.
    """
    check_pages(path)
    with finding_damage(), closing(connect_reader(path)) as reader:
        _walk(reader, read_meta(reader).dim, pause, None)
        check_log(reader)


def _walk(
    reader: sqlite3.Connection, dim: int, pause: Pause | None, writer: CheckpointWriter | None
) -> None:
    """Verify rows in slot order, and give them to a checkpoint."""
    slot = -1
    while part := read_after(reader, slot, WALK_ROWS):
        vectors = verified(part, dim)
        if writer is not None:
            writer.add(part, vectors)
        slot = part[-1][0]
        if pause is not None:
            pause()


class Keeper(threading.Thread):
    """Scrubs once after a boot from a checkpoint, then keeps the checkpoint fresh."""

    def __init__(
        self,
        changes: Changes,
        *,
        needs_scrub: bool,
        scrub: Callable[[Pause], None],
        write: Callable[[Pause], None],
    ) -> None:
        super().__init__(name="storage-keeper", daemon=True)
        self.needs_scrub = needs_scrub
        self._changes = changes
        self._scrub = scrub
        self._write = write
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look every few seconds whether something is due."""
        written_at = time.monotonic()
        while not self._stopped.wait(POLL_SECONDS):
            try:
                if self.needs_scrub:
                    self._scrub(self._rest)
                    self.needs_scrub = False
                elif self._changes.is_due(written_at):
                    written_at = time.monotonic()
                    self._write(self._rest)
            except (Interrupted, Damaged):
                return
            except StorageUnavailable:
                continue  # a full disk costs the checkpoint, never the node

    def _rest(self) -> None:
        if self._stopped.wait(PAUSE_SECONDS):
            raise Interrupted

    def stop(self) -> None:
        """End the thread, with what it does."""
        self._stopped.set()
        if self.is_alive():
            self.join()

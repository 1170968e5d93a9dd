"""The audit log of actions: actor, address, action, time and outcome.

Each action is one JSON line, appended and synced.  The newest are kept in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from synaptoroute.author import AUTHOR_ADDRESS
from synaptoroute.private_files import make_private_folder, open_private

ENTRIES_SHOWN_MAX: Final = 200
DETAIL_CHARACTERS_MAX: Final = 500
FILE_BYTES_MAX: Final = 16_777_216
"""A larger file is renamed to ``.1``, and a new one is started."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One action."""

    at_ms: int  # wall clock
    actor: str  # name of the API key, or "coordinator itself"
    action: str
    outcome: str  # done, refused or failed
    detail: str = ""
    address: str = ""  # of the client; empty for the coordinator itself


class AuditLog:
    """The audit log of one coordinator.  ``load`` reads the existing file and blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: deque[AuditRecord] = deque(maxlen=ENTRIES_SHOWN_MAX)
        self._writing = asyncio.Lock()

    def load(self) -> None:
        """Read the newest actions; a line that a crash cut off is skipped."""
        make_private_folder(self._path.parent)
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            # Only the end is read; the first line read may be cut off and is skipped below.
            file.seek(max(0, self._path.stat().st_size - FILE_BYTES_MAX))
            lines = file.read().splitlines()[-ENTRIES_SHOWN_MAX:]
        for line in lines:
            try:
                self._newest.append(AuditRecord(**json.loads(line)))
            except (ValueError, TypeError):
                continue

    @property
    def newest(self) -> list[AuditRecord]:
        return list(reversed(self._newest))

    async def add(self, actor: str, action: str, outcome: str, detail: str = "") -> None:
        entry = AuditRecord(
            int(time.time() * 1_000),
            actor,
            action,
            outcome,
            detail[:DETAIL_CHARACTERS_MAX],
            AUTHOR_ADDRESS.get(),
        )
        self._newest.append(entry)
        line = json.dumps(asdict(entry), separators=(",", ":")) + "\n"
        # One writer at a time: two threads would interleave their lines and rotate twice.
        async with self._writing:
            await asyncio.to_thread(self._append, line)

    def _append(self, line: str) -> None:
        if self._path.exists() and self._path.stat().st_size > FILE_BYTES_MAX:
            self._path.replace(self._path.with_suffix(".1"))
        with open_private(self._path, "ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

"""Figures of a database file for a support bundle, never a row."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from synaptoroute.storage.connection import connect_reader

_FIGURES: Final = (
    "page_size", "page_count", "freelist_count", "journal_mode", "user_version", "auto_vacuum",
    "synchronous",
)  # fmt: skip
_STEPS_BETWEEN_LOOKS: Final = 100_000


def inspect_database(path: Path, seconds_max: float) -> dict[str, Any]:
    """Read the figures of a database, its positions, and whether its pages are sound.

    The file may be open elsewhere; it is read only.

    Args:
        seconds_max: Longest time; ``quick_check`` is ``interrupted`` beyond it.

    Raises:
        sqlite3.Error: The file is no database, or too damaged to read.
    """
    give_up_at = time.monotonic() + seconds_max
    found: dict[str, Any] = {"bytes": path.stat().st_size}
    wal = path.with_name(path.name + "-wal")
    found["wal_bytes"] = wal.stat().st_size if wal.exists() else 0
    with closing(connect_reader(path)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > give_up_at, _STEPS_BETWEEN_LOOKS)
        for name in _FIGURES:
            found[name] = connection.execute(f"PRAGMA {name}").fetchone()[0]
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        found["rows"] = {
            name: connection.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0]
            for name in sorted(tables)
        }
        for row in connection.execute("SELECT epoch, seq, chain, digest, fingerprint FROM meta"):
            names = ("epoch", "seq", "chain", "digest", "fingerprint")
            found["position"] = dict(zip(names, row, strict=True))
        found["oplog"] = dict(
            zip(
                ("first_seq", "last_seq"),
                connection.execute("SELECT MIN(seq), MAX(seq) FROM oplog").fetchone(),
                strict=True,
            )
        )
        try:
            answers = connection.execute("PRAGMA quick_check(5)").fetchall()
            # A finding may quote an index or a table, never a value of a row.
            found["quick_check"] = "ok" if answers == [("ok",)] else f"{len(answers)} findings"
        except Exception:
            found["quick_check"] = "interrupted"
    return found

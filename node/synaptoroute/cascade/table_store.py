"""Static tables of a node, by encoder and by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from synaptoroute.encoder.static_table import StaticTable

NAME_DIGITS: Final = 16


class TableStore:
    """Tables by fingerprint of their encoder; any thread.

    A name is the first digits of a table's checksum, as calibrations have it.  Of one encoder there
    may be several: tables that were distilled on unlike CPUs differ.
    """

    def __init__(self, tables: Iterable[StaticTable] = ()) -> None:
        self._found: dict[str, dict[str, StaticTable]] = {}
        for table in tables:
            self.add(table)

    def add(self, table: StaticTable) -> None:
        """Add a table; readers see the ones before or all."""
        known = self._found.get(table.fingerprint, {})
        own = {**known, table.checksum[:NAME_DIGITS]: table}
        self._found = {**self._found, table.fingerprint: own}

    def find(self, fingerprint: str, name: str = "") -> tuple[StaticTable, str] | None:
        """Find a table of an encoder and its name: the named one, else the first; None for none."""
        own = self._found.get(fingerprint)
        if not own:
            return None
        chosen = name if name in own else next(iter(own))
        return own[chosen], chosen

    @property
    def names(self) -> list[str]:
        return sorted(name for own in self._found.values() for name in own)

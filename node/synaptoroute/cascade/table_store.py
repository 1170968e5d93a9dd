"""Static tables of a node, by encoder and by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from synaptoroute.core.mutation import CascadeMode
from synaptoroute.encoder import TextEncoder
from synaptoroute.encoder.static_table import StaticTable

NAME_DIGITS: Final = 16
NO_TABLE: Final = "not_prepared"
STATIC_ENCODER: Final = "static_encoder"
NO_VOCABULARY: Final = "no_vocabulary"
DISTILLING: Final = "distilling"
TOO_LARGE: Final = "vocabulary_too_large"
WHY_NO_TABLE: Final = {
    NO_TABLE: "this node has no table for its encoder: `synaptoroute model prepare`",
    STATIC_ENCODER: "the encoder is a static table itself: there is nothing to prepare",
    NO_VOCABULARY: "the encoder has no vocabulary to distil a table from",
}


def why_no_table(encoder: TextEncoder) -> str:
    """Say why an encoder has no table, as the reason of a state."""
    if getattr(encoder, "is_static", False):
        return STATIC_ENCODER
    return NO_TABLE if hasattr(encoder, "vocabulary") else NO_VOCABULARY


def state_without_table(encoder: TextEncoder, mode: CascadeMode) -> tuple[str, str]:
    """Name the state and the reason of a cascade whose encoder has no table here."""
    reason = why_no_table(encoder)
    # An encoder that is a table itself lacks nothing, whatever the settings ask for.
    is_off = mode == "auto" or reason == STATIC_ENCODER
    return "off" if is_off else "no_table", reason


class TableStore:
    """Tables by fingerprint of their encoder; any thread.

    A name is the first digits of a table's checksum, as calibrations have it.  Of one encoder there
    may be several: tables that were distilled on unlike CPUs differ.

    Attributes:
        keep: Writes a table to disk that this node distilled or read from a peer; None where
            tables are not kept, and then none is distilled.
        reason: What to say of an encoder whose table could be prepared.
        distilled_share: Share of the tokens of a table that is being distilled; else None.
    """

    def __init__(
        self,
        tables: Iterable[StaticTable] = (),
        keep: Callable[[StaticTable], None] | None = None,
    ) -> None:
        self.keep = keep
        self.reason = NO_TABLE
        self.distilled_share: float | None = None
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

"""What may be done, as values.  Each is safe to do twice, and by two at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Trim:
    """Drop the entries before a floor; the script refuses to go beyond a majority."""

    epoch: int
    floor: int


@dataclass(frozen=True, slots=True)
class StartAudit:
    """Log an audit; a deep one compares memory and disk as well."""

    is_deep: bool


@dataclass(frozen=True, slots=True)
class Judge:
    """Compare what was reported to the pending audit; ``is_last`` waits no longer."""

    is_last: bool


@dataclass(frozen=True, slots=True)
class Repair:
    """Tell a node to put its rows right, or to take the state of one of the donors."""

    node: str
    donors: tuple[str, ...]
    reason: str
    audit_seq: int = 0
    kind: Literal["mend", "resync"] = "resync"


@dataclass(frozen=True, slots=True)
class AbortImport:
    """Drop what an abandoned import staged."""

    import_id: str
    touched_seq: int


@dataclass(frozen=True, slots=True)
class TakeBackup:
    """Keep a snapshot of this node."""

    node: str
    url: str


Action: TypeAlias = Trim | StartAudit | Judge | Repair | AbortImport | TakeBackup

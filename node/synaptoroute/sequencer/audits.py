"""What nodes report at the place of an audit, so that somebody can compare it.

An audit is an entry of the log, so every node that applies it stands at the same
place, and equal histories have equal digests there.  A deep audit also has each node
compare its memory and its disk with that digest, row by row.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.scripts import Script, Scripts

KEPT_MS: Final = 3_600_000
REPORT_BYTES_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class AuditReport:
    """One node's answer to an audit.

    Attributes:
        epoch: Epoch of the audit's place.
        digest: Digest of the whole state there, 32 hexadecimal digits.
        is_scrubbed: Whether memory and disk were compared with it, row by row.
        rows: Rows that were compared.
        memory_rows: Rows of the tensor that were found altered.
        disk_rows: Rows of the database that were found altered.
    """

    epoch: int
    digest: str
    is_scrubbed: bool = False
    rows: int = 0
    memory_rows: int = 0
    disk_rows: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether the node's memory and disk are what its own digest says."""
        return not (self.memory_rows or self.disk_rows)


_KINDS: Final = {
    each.name: {"int": int, "str": str, "bool": bool}[str(each.type)]
    for each in fields(AuditReport)
}


class Audits:
    """Reports of one namespace."""

    def __init__(self, scripts: Scripts, link: Link) -> None:
        self._scripts = scripts
        self._link = link

    async def report(self, seq: int, node_id: str, report: AuditReport) -> None:
        """Say what this node found at a place.

        Raises:
            SequencerUnavailable: No answer.
        """
        row = json.dumps(asdict(report), sort_keys=True, separators=(",", ":"))
        key = self._scripts.keys.audit(seq)
        await self._scripts.run(Script.AUDIT, [key], [node_id, row, KEPT_MS])

    async def reports(self, seq: int) -> dict[str, AuditReport]:
        """Read who found what at a place; malformed reports are left out.

        Raises:
            SequencerUnavailable: No answer.
        """
        flat = await self._link.call("HGETALL", self._scripts.keys.audit(seq))
        found: dict[str, AuditReport] = {}
        for node_id, row in zip(flat[::2], flat[1::2], strict=False):
            try:
                found[node_id.decode()] = report_of(row)
            except (ProtocolError, UnicodeDecodeError):
                continue
        return found


def report_of(row: bytes) -> AuditReport:
    """Read one report; fields of a later release are ignored.

    Raises:
        ProtocolError: It is malformed.
    """
    if len(row) > REPORT_BYTES_MAX:
        raise ProtocolError(f"a report has at most {REPORT_BYTES_MAX} bytes")
    try:
        said: Any = json.loads(row)
        values = {name: said[name] for name in _KINDS}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError("a report is malformed") from error
    if any(type(values[name]) is not kind for name, kind in _KINDS.items()):
        raise ProtocolError("a report has a field of a wrong kind")
    return AuditReport(**values)

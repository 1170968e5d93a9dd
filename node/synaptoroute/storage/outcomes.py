"""Outcomes of writes: their text form, and how many thousands of them are read at once.

A boot reads as many outcomes as the idempotency window is long, and nearly none of
them is ever asked for again.  So an outcome that was read stays text until it is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final

from synaptoroute.core.change import Outcome
from synaptoroute.core.mutation import Revision
from synaptoroute.core.snapshot import Remembered

_OUTCOME_PLACE: Final = 3
_write_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class StoredOutcome(Remembered):
    """What is remembered of a write, with its outcome still as text."""

    __slots__ = ()

    @property
    def outcome(self) -> Outcome:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What came of it."""
        return load_outcome(self.text)

    @property
    def text(self) -> str:
        """The outcome as it is stored."""
        return str(tuple.__getitem__(self, _OUTCOME_PLACE))

    def _whole(self) -> tuple[bytes, int, bytes, Outcome]:
        return self.op_id, self.seq, self.request_hash, self.outcome

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StoredOutcome):
            return tuple.__eq__(self, other) or self._whole() == other._whole()
        return isinstance(other, tuple) and self._whole() == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._whole())


def as_remembered(
    op_ids: Iterable[bytes],
    seqs: Iterable[int],
    request_hashes: Iterable[bytes],
    texts: Iterable[str],
) -> list[Remembered]:
    """Make the values of many outcomes from their columns."""
    columns = zip(op_ids, seqs, request_hashes, texts, strict=True)
    return list(map(tuple.__new__, repeat(StoredOutcome), columns))


def text_of(remembered: Remembered) -> str:
    """The outcome's text, unread if it was not read."""
    if isinstance(remembered, StoredOutcome):
        return remembered.text
    return dump_outcome(remembered.outcome)


def dump_outcome(outcome: Outcome) -> str:
    """Write an outcome as a JSON array."""
    fields = (
        outcome.status,
        *outcome.at,
        outcome.revision,
        outcome.code,
        outcome.message,
        outcome.count,
    )
    return _write_json(fields)


def load_outcome(text: str) -> Outcome:
    """Read an outcome."""
    fields: Sequence[Any] = json.loads(text)
    status, epoch, seq, revision, code, message, count = fields
    held = None if revision is None else Revision(*revision)
    return Outcome(status, Revision(epoch, seq), held, code, message, count)


def remembered_sum(seq: int, op_id: bytes, request_hash: bytes, outcome: str) -> int:
    """Checksum of a row of ``remembered``; there may be as many as the window is long."""
    return zlib.crc32(b"%d|%b|%b|%b" % (seq, op_id, request_hash, outcome.encode()))

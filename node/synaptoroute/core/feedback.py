"""The review queue: what people said about answers, until somebody decides what to learn.

The queue is part of the replicated state, bounded, and off unless the settings of the route
set switch it on, because it holds what people wrote.  An item has an identity that follows from
what it says, so the same said twice is one item that counts.  Items leave the queue by a
revision of the routes: resolved by a reviewer, or expired.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Any, Final

from synaptoroute.core.change import Change, FeedbackItem, Outcome, Rejection
from synaptoroute.core.mutation import PutFeedback, Revision

ITEM_ID_DIGITS: Final = 16
ITEMS_MAX: Final = 10_000
RETENTION_DAYS_MAX: Final = 3_650.0
PATTERNS_MAX: Final = 32
PATTERN_CHARACTERS_MAX: Final = 256
FEEDBACK_BYTES_MAX: Final = 16_384
"""Bytes of the settings of the queue, as text."""
TIMES_MAX: Final = 1_000_000_000
_WRITE_JSON: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


@dataclass(frozen=True, slots=True)
class FeedbackSettings:
    """Settings of the review queue while it is on."""

    items_max: int = 1_000  # Further items are refused until some are resolved
    retention_days: float = 30.0  # Items that nobody resolves are deleted after that
    is_hash_only: bool = False  # Keep no texts, only that the same was said
    redaction: tuple[str, ...] = ()  # What is cut out of texts before they are stored


def write_feedback_settings(settings: FeedbackSettings | None) -> str:
    """Write settings as canonical JSON; None, for a queue that is off, as the empty text."""
    if settings is None:
        return ""
    return _WRITE_JSON(
        {
            "hash_only": settings.is_hash_only,
            "items_max": settings.items_max,
            "redaction": list(settings.redaction),
            "retention_days": float(settings.retention_days),
        }
    )


def read_feedback_settings(text: str) -> FeedbackSettings | None:
    """Read settings that ``write_feedback_settings`` wrote.

    Raises:
        ValueError: They are malformed, out of range or not canonical.
    """
    if not text:
        return None
    if len(text.encode()) > FEEDBACK_BYTES_MAX:
        raise ValueError(f"the settings are over {FEEDBACK_BYTES_MAX} bytes")
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("the settings of the review queue are an object")
    patterns = document.get("redaction")
    if not isinstance(patterns, list) or len(patterns) > PATTERNS_MAX:
        raise ValueError(f"redaction is a list of at most {PATTERNS_MAX} patterns")
    if not all(isinstance(each, str) and 0 < len(each) <= PATTERN_CHARACTERS_MAX
               for each in patterns):  # fmt: skip
        raise ValueError(f"a pattern has 1 to {PATTERN_CHARACTERS_MAX} characters")
    settings = FeedbackSettings(
        items_max=_count(document.get("items_max")),
        retention_days=_days(document.get("retention_days")),
        is_hash_only=_flag(document.get("hash_only")),
        redaction=tuple(patterns),
    )
    if write_feedback_settings(settings) != text:
        raise ValueError("the settings are not written canonically")
    return settings


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= ITEMS_MAX:
        raise ValueError(f"items_max is 1 to {ITEMS_MAX}")
    return value


def _days(value: Any) -> float:
    is_number = isinstance(value, float) and isfinite(value)
    if not is_number or not 0.0 < value <= RETENTION_DAYS_MAX:
        raise ValueError(f"retention_days is above 0 and at most {RETENTION_DAYS_MAX:g}")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("hash_only is true or false")
    return value


def item_id_of(text: str, route: str | None, was: str | None) -> str:
    """Derive the identity of an item; ``text`` is the text after redaction."""
    said = json.dumps([text, route, was], ensure_ascii=False).encode()
    return sha256(b"feedback|" + said).hexdigest()[:ITEM_ID_DIGITS]


def plan_feedback(
    items: Mapping[str, FeedbackItem], settings: str, put: PutFeedback, at: Revision
) -> Change:
    """Plan a new item of the queue, or one more mention of a known one.

    Raises:
        Rejection: The queue is off or full.
    """
    wanted = read_feedback_settings(settings)
    if wanted is None:
        raise Rejection("feedback_off", "the review queue is off; the settings switch it on")
    known = items.get(put.item_id)
    if known is None and len(items) >= wanted.items_max:
        raise Rejection(
            "feedback_full", f"the review queue holds {wanted.items_max} items; resolve some first"
        )
    times = 1 if known is None else min(TIMES_MAX, known.times + 1)
    at_ms = put.at_ms if known is None else max(put.at_ms, known.at_ms)
    item = FeedbackItem(put.item_id, put.text, put.route, put.was, at_ms, times, at.seq)
    before = () if known is None else (known,)
    outcome = Outcome("applied", at, count=times)
    return Change(outcome, feedback=(item,), feedback_before=before)


def resolve_items(
    items: Mapping[str, FeedbackItem], resolved: tuple[str, ...]
) -> tuple[FeedbackItem, ...]:
    """Return the items that leave the queue.

    Raises:
        Rejection: One is not there: somebody else resolved it, or it expired.
    """
    missing = [each for each in resolved if each not in items]
    if missing:
        raise Rejection("feedback_not_found", f"the review queue has no item {missing[0]!r}")
    return tuple(items[each] for each in resolved)

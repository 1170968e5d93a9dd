"""Kinds of personal data that are cut out of texts before they are stored.

They are plain regular expressions without nested repetition, so their time is linear in the
text.  They find what looks like such data and promise nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from types import MappingProxyType
from typing import Final

from synaptoroute.inputs.ignore import cut

KINDS: Final = MappingProxyType(
    {
        "email": re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
        "url": re.compile(r"\b(?:https?://|www\.)\S{1,2048}", re.IGNORECASE),
        "uuid": re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE),
        # Telephone, order and card numbers: six digits or more, with short separators.
        "long_number": re.compile(r"(?<![\w.])\+?\(?\d(?:[ ./()-]{0,2}\d){5,31}(?!\w)"),
    }
)
"""By name, in the order in which they are cut."""
DEFAULT_KINDS: Final = ("email", "long_number")


def cut_kinds(text: str, kinds: Collection[str]) -> str:
    """Replace what looks like these kinds by their names; ``[email]`` stands for an address."""
    for name, kind in KINDS.items():
        if name in kinds:
            text = kind.sub(f"[{name}]", text)
    return text


def redacted(text: str, redaction: Sequence[str]) -> str:
    """Cut kinds and patterns out of a text."""
    patterns = tuple(each for each in redaction if each not in KINDS)
    kept = cut_kinds(text, redaction)
    return cut(kept, patterns) if patterns else kept

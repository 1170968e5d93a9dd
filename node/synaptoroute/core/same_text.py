"""The normal form of a text: equal forms count as the same text.

An exact match compares texts after this normalisation, so it depends on no encoder.  The
result depends on the text and on the Unicode tables of the interpreter.  It is computed
where it is needed and never stored or sent.
"""

from __future__ import annotations

import unicodedata
from typing import Final

TRAILING: Final = " .!?,;:\u2026\u3002\uff01\uff1f\uff0c\u3001\u061f\u06d4\u0964"
"""Punctuation that does not count at the end of a text: Latin, CJK, Arabic, Devanagari."""
_INVISIBLE: Final = dict.fromkeys(
    # Soft hyphen, zero width space, word joiner, byte order mark, and the selectors that
    # choose between the text and the picture of an emoji.  Joiners stay: they change words.
    [0x00AD, 0x200B, 0x2060, 0xFEFF, 0xFE0E, 0xFE0F]
)


def same_text_form(text: str) -> str:
    """Normalise a text: NFC, case folded, single spaces, no punctuation at its end.

    A text of punctuation alone keeps it.
    """
    if not text.isascii():
        # Case folding may leave NFC, so it comes between two normalisations.
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE)).casefold()
        text = unicodedata.normalize("NFC", text)
    else:
        text = text.lower()
    text = " ".join(text.split())
    return text.rstrip(TRAILING) or text

"""Whether an encoder understands a text: its pieces are known, and its script is declared.

A tokenizer of word pieces maps everything that it does not know to one piece.  Two such texts
have one vector, whatever they say.  Letters of a script that a model was not trained on are
often in its vocabulary, and their vectors are arbitrary.  In both cases a similarity says
nothing, and a text matches nothing but an equal utterance.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from functools import cache, lru_cache
from typing import Final

UNKNOWN_SHARE_MAX: Final = 0.5
"""A text with more unknown pieces, or more letters of undeclared scripts, is not understood."""
_NO_SCRIPT: Final = frozenset(
    "ALEF ANGSTROM BET BLACK-LETTER CARON DALET DOUBLE-STRUCK EULER FEMININE GIMEL IDEOGRAPHIC "
    "INFORMATION KATAKANA-HIRAGANA KELVIN MASCULINE MASU MATHEMATICAL MICRO MODIFIER OHM PLANCK "
    "ROMAN SCRIPT SUPERSCRIPT TURNED VERTICAL".split()
)
"""First words of the names of letters that several scripts share, and of letters as symbols."""
_WIDE: Final = frozenset({"FULLWIDTH", "HALFWIDTH"})
_COMMON_LETTERS: Final = (
    0x10000  # letters beyond belong to scripts of scholars, and to rare Chinese
)


def is_understood(
    text: str, known: int, unknown: int, scripts: Collection[str] | None = None
) -> bool:
    """Say whether a text means something to an encoder.

    Args:
        text: The text, without the encoder's prefix.
        known: Its pieces in the vocabulary, without the special ones.
        unknown: Its pieces that the vocabulary does not have.
        scripts: Scripts that the encoder was trained on, such as ``LATIN``; None for all.
    """
    if unknown:
        # Punctuation is in every vocabulary and says nothing.  Emoji beside words are no words
        # that are missing.
        known -= sum(map(_is_punctuation, text))
        unknown -= sum(not any(map(str.isalnum, word)) for word in text.split())
    if known <= 0 or unknown > UNKNOWN_SHARE_MAX * (known + unknown):
        return False
    return scripts is None or text.isascii() or _foreign_share(text, scripts) <= UNKNOWN_SHARE_MAX


def _is_punctuation(letter: str) -> bool:
    if letter.isascii():
        return not letter.isalnum() and not letter.isspace()
    return unicodedata.category(letter).startswith("P")


def script_of(letter: str) -> str:
    """Name the script of a letter, in upper case; empty for what belongs to all scripts.

    The name of a character begins with its script.  Chinese characters are ``CJK``, Korean
    ones ``HANGUL``.
    """
    return _script_of(letter) if letter.isalpha() else ""


@lru_cache(maxsize=4_096)
def _script_of(letter: str) -> str:
    first, _, rest = unicodedata.name(letter, "").partition(" ")
    if first in _WIDE:
        first = rest.partition(" ")[0]
    return "" if first in _NO_SCRIPT else first


@cache
def known_scripts() -> frozenset[str]:
    """Names of the scripts in use: what ``script_of`` says of the first 65,536 characters."""
    return frozenset(map(script_of, map(chr, range(_COMMON_LETTERS)))) - {""}


def _foreign_share(text: str, scripts: Collection[str]) -> float:
    """Share of the letters in scripts that are not declared; 0 without letters."""
    found = [script for letter in text if (script := script_of(letter))]
    foreign = sum(script not in scripts for script in found)
    return foreign / len(found) if found else 0.0

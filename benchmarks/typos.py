"""Makes misspelled texts: one random edit in each word of five letters and more.

An edit swaps two neighbouring letters, drops a letter, repeats a letter, or replaces a letter
by one beside it on a US keyboard, each as likely as the others.  The same seed and text give
the same edits, whatever other texts there are.
"""

from __future__ import annotations

import hashlib
import random
import re

WORD_LETTERS_MIN = 5
_WORD = re.compile(rf"[A-Za-z]{{{WORD_LETTERS_MIN},}}")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Letters beside each letter on a keyboard, whose rows are shifted by half a key."""
    places = {
        key: (row, at + row * 0.5) for row, keys in enumerate(_ROWS) for at, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (other_row, other_at) in places.items()
            if other != key and abs(other_row - row) <= 1 and abs(other_at - at) <= 1
        )
        for key, (row, at) in places.items()
    }


NEIGHBOURS = _neighbours()


def misspell_word(word: str, chance: random.Random) -> str:
    """Apply one edit that changes the word."""
    while True:
        at = chance.randrange(len(word))
        match chance.choice(("swap", "drop", "repeat", "neighbour")):
            case "swap":
                at = min(at, len(word) - 2)
                edited = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            case "drop":
                edited = word[:at] + word[at + 1 :]
            case "repeat":
                edited = word[:at] + word[at] + word[at:]
            case _:
                letter = chance.choice(NEIGHBOURS[word[at].lower()])
                letter = letter.upper() if word[at].isupper() else letter
                edited = word[:at] + letter + word[at + 1 :]
        if edited != word:
            return edited


def misspell(text: str, seed: int) -> str:
    """Misspell each word of five letters and more."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    chance = random.Random(digest)
    return _WORD.sub(lambda found: misspell_word(found.group(), chance), text)

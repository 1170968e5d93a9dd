"""Word repair: misspelled words of a query are replaced by known words before encoding.

A word is known if an utterance of the route set holds it, if the encoder's vocabulary holds it
as a whole, or if one of both is an inflection of the other.  Only an unknown word is replaced, by a
known one from which a slip of the hand makes it: two neighbouring letters swapped, a letter
left out, a letter typed twice, or a key beside the right one.  So an utterance is never
altered, and a text of known words costs one look at each word.

What a word becomes is a function of the words of the route set and of the encoder: nodes at
the same position repair alike.  Names are left alone as far as they show themselves: words
with a capital letter inside a text, and words beside digits or signs as in addresses.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

WORD_LETTERS_MIN: Final = 4
"""Shorter words have too many neighbours."""
VOCABULARY_LETTERS_MIN: Final = 5
"""Shorter words are repaired to words of the route set only."""
VOCABULARY_RANKS: Final = 10_000
"""Only so many words of the encoder, the most frequent ones, replace others."""
WORD_LETTERS_MAX: Final = 32
UNKNOWN_WORDS_MAX: Final = 32
"""Unknown words of a text that are looked at; each costs about 0.1 ms at first."""
NEAREST_KEPT: Final = 4_096
"""Unknown words whose nearest known word is kept until the words change."""
_TEXTS_AT_ONCE: Final = 256
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_ROWS: Final = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_PREFIXES: Final = ("re", "de", "un", "dis", "non", "pre")
_SUFFIXES: Final = (
    ("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"),
    ("ing", ""), ("ing", "e"), ("er", ""), ("er", "e"), ("ly", ""),
)  # fmt: skip

# Letters only, and nothing beside them that a name, an address or a code has.
_WORD = re.compile(r"(?<![\w@#/\\&'\u2019.])[^\W\d_]+(?![\w@/\\]|['\u2019][tT]\b|[.:][^\W])")


class Repair(NamedTuple):
    """One replaced word."""

    written: str
    read: str


def _keys_beside() -> dict[str, str]:
    """Letters beside each letter on a US keyboard, whose rows are shifted by half a key."""
    places = {
        key: (row, at + row / 2) for row, keys in enumerate(_ROWS) for at, key in enumerate(keys)
    }
    return {
        key: "".join(
            other
            for other, (its_row, its_at) in places.items()
            if other != key and abs(its_row - row) <= 1 and abs(its_at - at) <= 1
        )
        for key, (row, at) in places.items()
    }


_BESIDE: Final = _keys_beside()


def count_words(utterances: Iterable[str]) -> Counter[str]:
    """Count the words of utterances that repair looks at, in lower case.

    Other threads get the interpreter after every few hundred utterances.
    """
    tokens: Counter[str] = Counter()
    texts = iter(utterances)
    while part := tuple(islice(texts, _TEXTS_AT_ONCE)):
        tokens.update("\n".join(part).lower().split())
    counts: Counter[str] = Counter()
    # Nothing that the pattern looks at lies beyond white space, so each token is looked at
    # once, however often it occurs.
    for token, count in tokens.items():
        # The pattern takes letters as they are and digits never, and costs ten times the question.
        if token.isalpha():
            counts[token] += count
        elif not token.isdecimal():
            for word in _WORD.findall(token):
                counts[word] += count
    return counts


class Lexicon:
    """The known words; changed by one thread, read by any.

    Args:
        vocabulary: Whole words of the encoder in lower case, with their ranks, the most
            frequent first.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._counts: Counter[str] = Counter()
        self._foreign_letters: Counter[str] = Counter()
        self._nearest_known: dict[str, str | None] = {}

    def copy(self) -> Lexicon:
        copied = Lexicon(self._vocabulary)
        copied._counts = self._counts.copy()
        copied._foreign_letters = self._foreign_letters.copy()
        return copied

    def add(self, utterances: Iterable[str]) -> None:
        self.add_counts(count_words(utterances))

    def remove(self, utterances: Iterable[str]) -> None:
        """Forget words of utterances that were added."""
        self.remove_counts(count_words(utterances))

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add the words of utterances as ``count_words`` counts them."""
        known = self._counts
        for word, count in counts.items():
            if word not in known and not word.isascii():
                self._foreign_letters.update(each for each in word if not each.isascii())
            known[word] += count
        self._nearest_known = {}

    def remove_counts(self, counts: Mapping[str, int]) -> None:
        """Forget words that were added."""
        known = self._counts
        for word, count in counts.items():
            known[word] -= count
            if not known[word]:
                del known[word]
                if not word.isascii():
                    self._foreign_letters.subtract(each for each in word if not each.isascii())
        self._nearest_known = {}

    def knows(self, text: str) -> bool:
        """Whether all words of a text are known as they stand."""
        counts, vocabulary = self._counts, self._vocabulary
        # As in ``count_words``, each token is looked at by itself; few need the pattern.
        for token in text.lower().split():
            if token in counts or token in vocabulary or len(token) < WORD_LETTERS_MIN:
                continue
            for word in _WORD.findall(token):
                if word not in counts and word not in vocabulary and len(word) >= WORD_LETTERS_MIN:
                    return False
        return True

    def repair(self, text: str) -> tuple[str, tuple[Repair, ...]]:
        """Replace misspelled words; also says which."""
        lower = text.lower()
        # ``lower`` may change the length of a text in a few scripts; places would be off.
        if len(lower) != len(text):
            return text, ()
        unknown = []
        for found in _WORD.finditer(lower):
            letters = found.end() - found.start()
            if WORD_LETTERS_MIN <= letters <= WORD_LETTERS_MAX and not self._is_known(found[0]):
                unknown.append(found)
                if len(unknown) == UNKNOWN_WORDS_MAX:
                    break
        shouts = text.isupper()
        parts, repairs, stop = [], [], 0
        for found in unknown:
            start, end = found.span()
            written = text[start:end]
            if not written.islower() and not shouts and (start > 0 or not written.istitle()):
                continue
            best = self._nearest(found[0])
            if best is None:
                continue
            read = best.upper() if shouts else best.capitalize() if written.istitle() else best
            parts += [text[stop:start], read]
            repairs.append(Repair(written, read))
            stop = end
        return "".join([*parts, text[stop:]]), tuple(repairs)

    def _is_known(self, word: str) -> bool:
        counts, vocabulary = self._counts, self._vocabulary
        forms = [word, f"{word}s", f"{word}d", f"{word}ed"]
        forms += [word[: -len(end)] + stem for end, stem in _SUFFIXES if word.endswith(end)]
        forms += [word[len(start) :] for start in _PREFIXES if word.startswith(start)]
        return any(
            form in counts or form in vocabulary for form in forms if len(form) >= WORD_LETTERS_MIN
        )

    def _nearest(self, word: str) -> str | None:
        """The known word from which one slip makes ``word``; the most plausible of several."""
        # Read first: what is computed during a change must not outlive it.
        known = self._nearest_known
        if word in known:
            return known[word]
        counts, vocabulary = self._counts, self._vocabulary
        takes_vocabulary = len(word) >= VOCABULARY_LETTERS_MIN
        best = None
        for candidate, slip in self._candidates(word):
            if candidate not in counts and candidate not in vocabulary:
                continue
            count = counts.get(candidate, 0)
            rank = vocabulary.get(candidate, VOCABULARY_RANKS)
            is_frequent = takes_vocabulary and rank < VOCABULARY_RANKS
            if (count or is_frequent) and len(candidate) >= WORD_LETTERS_MIN:
                # Words of the route set first; the word itself last, so that the order is total.
                key = (not count, slip, -count, rank, candidate)
                if best is None or key < best:
                    best = key
        found = None if best is None else best[-1]
        if len(known) < NEAREST_KEPT:
            known[word] = found
        return found

    def _candidates(self, word: str) -> Iterator[tuple[str, int]]:
        """Words from which one slip makes ``word``; 0 for the likely slips, 1 for the others."""
        foreign = [letter for letter, count in self._foreign_letters.items() if count > 0]
        letters = [*_LETTERS, *foreign]
        for at in range(len(word) + 1):
            head, tail = word[:at], word[at:]
            for letter in letters:
                yield head + letter + tail, 1
            if not tail:
                continue
            first = tail[0]
            if head and head[-1] == first:
                yield head + tail[1:], 0
            if len(tail) > 1 and tail[1] != first:
                yield head + tail[1] + first + tail[2:], 0
            base = unicodedata.normalize("NFD", first)[0]
            beside = [*_BESIDE.get(first, ""), *(x for x in foreign if _base(x) == base)]
            if base != first:
                beside.append(base)
            for letter in beside:
                yield head + letter + tail[1:], 1


def _base(letter: str) -> str:
    return unicodedata.normalize("NFD", letter)[0]

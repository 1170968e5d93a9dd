"""Token ids of plain English text, put together from those of its words.

A BERT tokenizer lowers a text, splits it at spaces and around each punctuation mark, and cuts each
word into pieces by itself.  For printable ASCII that is one regular expression, and the pieces
of a word are known from the last text that had it: a fifth of the time of the library.  Every
other text, and a vocabulary with other rules, is left to the library.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDS_KEPT: Final = 8_192
"""Of about 150 bytes each; all are forgotten when there are more."""
TEXT_CHARACTERS_MAX: Final = 512
"""A longer text is worth a call of the library, which lets other threads run meanwhile."""
_WORD_CHARACTERS_MAX: Final = 24
_MARK: Final = "["
"""Begins the special tokens, which are found before a text is split."""
_WORDS: Final = re.compile(r"[a-z0-9]+|[^a-z0-9 ]").findall


class PlainText:
    """Tokenizes plain text by words; any thread.

    Args:
        before, after: Ids around those of every text.
        tokens_max: A longer text is left to the library, which cuts it.
    """

    def __init__(
        self, tokenizer: Tokenizer, before: list[int], after: list[int], tokens_max: int
    ) -> None:
        self._tokenizer = tokenizer
        self._before, self._after = before, after
        self._tokens_max = tokens_max
        self._pieces: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer, tokens_max: int) -> PlainText | None:
        """Make it for a tokenizer; None for one with other rules than BERT's without case."""
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        rules = tokenizer.normalizer
        if not isinstance(rules, BertNormalizer) or not (rules.lowercase and rules.clean_text):
            return None
        if not isinstance(tokenizer.pre_tokenizer, BertPreTokenizer):
            return None
        model = tokenizer.model
        if not isinstance(model, WordPiece):
            return None
        if model.max_input_chars_per_word < _WORD_CHARACTERS_MAX:  # longer words are unknown
            return None
        added = tokenizer.get_added_tokens_decoder().values()
        if not all(token.content.startswith(_MARK) for token in added):
            return None
        empty, one = tokenizer.encode("").ids, tokenizer.encode("a").ids
        if len(one) != len(empty) + 1:
            return None
        head = next((at for at, token in enumerate(empty) if token != one[at]), len(empty))
        return cls(tokenizer, empty[:head], empty[head:], tokens_max)

    def ids_of(self, text: str) -> list[int] | None:
        """Tokenize a text; None if it is left to the library."""
        if len(text) > TEXT_CHARACTERS_MAX or not (text.isascii() and text.isprintable()):
            return None
        if _MARK in text:
            return None
        pieces, ids = self._pieces, self._before.copy()
        for word in _WORDS(text.lower()):
            ids += pieces.get(word) or self._look_up(word)
        ids += self._after
        return ids if len(ids) <= self._tokens_max else None

    def _look_up(self, word: str) -> tuple[int, ...]:
        is_short = len(word) <= _WORD_CHARACTERS_MAX
        # The longest piece comes first, so a word of the vocabulary is one piece.
        whole = self._tokenizer.token_to_id(word) if is_short else None
        if whole is None:
            found = tuple(self._tokenizer.encode(word, add_special_tokens=False).ids)
        else:
            found = (whole,)
        if is_short:
            if len(self._pieces) >= WORDS_KEPT:
                self._pieces.clear()
            self._pieces[word] = found
        return found

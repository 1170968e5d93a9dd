"""The tokenizer of a model: its ``tokenizer.json``, cut and padded by our rules.

``tokenizer.json`` may ask for fixed padding and its own truncation (MiniLM's pads every
text to 128 tokens, eleven times the work of a short query).  Both are replaced here;
micro-batches pad.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from synaptoroute.encoder.contract import Tokens, Vocabulary, freeze_tokens
from synaptoroute.encoder.plain_text import PlainText
from synaptoroute.encoder.understanding import is_understood
from synaptoroute.errors import InvalidQuery, ModelCorrupt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PARALLELISM: Final = "TOKENIZERS_PARALLELISM"
PLAIN_TEXTS_MAX: Final = 64
"""Texts at once that are put together from known words: as many as a worker takes."""
WHOLE_WORDS_MAX: Final = 50_000
"""The most frequent ones; a multilingual vocabulary has several times as many."""
_WORD_MARKS: Final = ("\u2581", "\u0120")
"""Begin the tokens that begin a word, of SentencePiece and of byte-level BPE."""
_MARKED_SHARE_MIN: Final = 0.1


class TextTokenizer:
    """The tokenizer of one model; its methods may run on any thread.

    Attributes:
        scripts: Scripts that the model reads, such as ``LATIN``; None for all.
    """

    def __init__(
        self, tokenizer_file: Path, max_tokens: int, scripts: frozenset[str] | None = None
    ) -> None:
        # The encoder workers are the only parallelism.  The library reads this variable
        # when it is imported, so it is set before.
        os.environ.setdefault(_PARALLELISM, "false")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the library raises plain Exception
            raise ModelCorrupt(
                f"{tokenizer_file.name} is not a tokenizer: {error}", file=tokenizer_file.name
            ) from error
        padding = self._tokenizer.padding or {}
        self.pad_id = int(padding.get("pad_id", 0))
        # Padding here would change the token count that batches are planned with.
        self._tokenizer.no_padding()
        truncation = self._tokenizer.truncation or {}
        self._tokenizer.enable_truncation(
            max_length=max_tokens, direction=truncation.get("direction", "right")
        )
        self.scripts = scripts
        self._plain = PlainText.of(self._tokenizer, max_tokens)
        self._special_count = len(self._tokenizer.encode("").ids)
        self._unknown_id = _unknown_id(self._tokenizer)
        self._prefix_counts: dict[str, int] = {}

        self._words: dict[str, int] | None = None

    def vocabulary(self) -> Vocabulary:
        tokenizer = self._tokenizer
        empty, one = tokenizer.encode("").ids, tokenizer.encode("a").ids
        head = 0
        while head < len(empty) and empty[head] == one[head]:
            head += 1
        special = {
            number
            for number, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        return Vocabulary(
            count=tokenizer.get_vocab_size(with_added_tokens=True),
            before=tuple(empty[:head]),
            after=tuple(empty[head:]),
            special=frozenset({*special, *empty, self.pad_id}),
        )

    def whole_words(self) -> Mapping[str, int]:
        if self._words is None:
            self._words = self._find_words()
        return self._words

    def _find_words(self) -> dict[str, int]:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        first = "".join([token[:1] for token in tokens])
        # Word pieces mark what continues a word, the others what begins one.
        mark = max(_WORD_MARKS, key=first.count)
        if first.count(mark) >= _MARKED_SHARE_MIN * len(tokens):
            tokens = [token[1:] for token in tokens if token.startswith(mark)]
        else:
            mark = ""
        words = dict.fromkeys([word for token in tokens if (word := token.lower()).isalpha()])
        kept = [word for word in words if word.isascii()] if mark == "\u0120" else list(words)
        return {word: rank for rank, word in enumerate(kept[:WHOLE_WORDS_MAX])}

    def tokenize(self, texts: Sequence[str], prefix: str = "") -> tuple[list[Tokens], int]:
        """Tokenize texts; also returns how many of them were truncated."""
        # Not for many: the library lets other threads run meanwhile.
        if self._plain is None or prefix or len(texts) > PLAIN_TEXTS_MAX:
            return self._tokenize_by_library(texts, prefix)
        found: list[Tokens | None] = []
        for text in texts:
            ids = self._plain.ids_of(text) if isinstance(text, str) else None
            tokens = None if ids is None else self._tokens_of(text, ids, self._special_count)
            found.append(tokens)
        if len(found) == 1 and found[0] is not None:
            return [found[0]], 0
        left = [text for text, tokens in zip(texts, found, strict=True) if tokens is None]
        others, truncated_count = self._tokenize_by_library(left, prefix) if left else ([], 0)
        rest = iter(others)
        return [tokens or next(rest) for tokens in found], truncated_count

    def _tokenize_by_library(self, texts: Sequence[str], prefix: str) -> tuple[list[Tokens], int]:
        prefixed = [prefix + text for text in texts] if prefix else list(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(prefixed)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidQuery("a text to encode must be a string of valid Unicode") from error
        extra = self._special_count + (self._count_prefix(prefix) if prefix else 0)
        tokens, truncated_count = [], 0
        for text, encoding in zip(texts, encodings, strict=True):
            is_truncated = bool(encoding.overflowing)
            tokens.append(self._tokens_of(text, encoding.ids, extra, is_truncated=is_truncated))
            truncated_count += is_truncated
        return tokens, truncated_count

    def _tokens_of(
        self, text: str, ids: list[int], extra: int, *, is_truncated: bool = False
    ) -> Tokens:
        """Make the tokens of a text, ``extra`` of which are of no piece of it."""
        unknown = 0 if self._unknown_id is None else ids.count(self._unknown_id)
        known = len(ids) - extra - unknown
        is_known = known > 0
        if unknown or not text.isascii():
            is_known = is_understood(text, known, unknown, self.scripts)
        return freeze_tokens(ids, is_understood=is_known, is_truncated=is_truncated)

    def _count_prefix(self, prefix: str) -> int:
        """Count the tokens of a prefix; an encoder has two at most."""
        count = self._prefix_counts.get(prefix)
        if count is None:
            count = len(self._tokenizer.encode(prefix).ids) - self._special_count
            self._prefix_counts[prefix] = count
        return count


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """Find the id that stands for unknown pieces; None for a vocabulary that knows all bytes."""
    name = getattr(tokenizer.model, "unk_token", None)
    if name is None:
        # The library hides the name for some kinds of models, so the text of a piece that no
        # vocabulary has tells it.
        model = json.loads(tokenizer.to_str())["model"]
        number = model.get("unk_id")
        return None if number is None or model.get("byte_fallback") else int(number)
    found: int | None = tokenizer.token_to_id(name)
    return found

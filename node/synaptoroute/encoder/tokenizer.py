"""Texts to token ids, with the model's own tokenizer.

``tokenizer.json`` may ask for fixed padding and its own truncation (MiniLM's pads every
text to 128 tokens, eleven times the work of a short query).  Both are replaced here;
micro-batches pad.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from synaptoroute.encoder.contract import Tokens, Vocabulary, freeze_tokens
from synaptoroute.errors import InvalidQuery, ModelCorrupt

_PARALLELISM: Final = "TOKENIZERS_PARALLELISM"


class TextTokenizer:
    """The tokenizer of one model; its methods may run on any thread."""

    def __init__(self, tokenizer_file: Path, max_tokens: int) -> None:
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

    def tokenize(self, texts: Sequence[str], prefix: str = "") -> tuple[list[Tokens], int]:
        """Tokenize texts; also returns how many of them were truncated."""
        prefixed = [prefix + text for text in texts] if prefix else list(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(prefixed)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidQuery("a text to encode must be a string of valid Unicode") from error
        tokens, truncated_count = [], 0
        for encoding in encodings:
            tokens.append(freeze_tokens(encoding.ids))
            truncated_count += bool(encoding.overflowing)
        return tokens, truncated_count

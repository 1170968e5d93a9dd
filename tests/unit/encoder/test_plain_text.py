"""Tokens of plain text by words: the same ids as the library gives the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synaptoroute.encoder.plain_text import TEXT_CHARACTERS_MAX, WORDS_KEPT, PlainText
from synaptoroute.encoder.recipe import DATA
from synaptoroute.encoder.text_tokenizer import PLAIN_TEXTS_MAX, TextTokenizer

pytestmark = pytest.mark.unit

TOKENS_MAX = 256
_PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
_TEXTS = st.text(_PRINTABLE, max_size=80)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    opened = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    opened.no_padding()
    opened.enable_truncation(max_length=TOKENS_MAX)
    return opened


@pytest.fixture(scope="module")
def plain(tokenizer) -> PlainText:
    found = PlainText.of(tokenizer, TOKENS_MAX)
    assert found is not None
    return found


@given(text=_TEXTS)
@settings(max_examples=300, deadline=None)
def test_ids_equal_those_of_the_library(tokenizer, plain: PlainText, text: str) -> None:
    found = plain.ids_of(text)

    assert found == (None if "[" in text else tokenizer.encode(text).ids)


def test_words_of_the_vocabulary_have_the_ids_of_the_library(tokenizer) -> None:
    plain = PlainText.of(tokenizer, TOKENS_MAX)
    assert plain is not None
    words = [word for word in tokenizer.get_vocab() if word.isascii() and "[" not in word]

    for start in range(0, len(words), 25):
        text = " ".join(words[start : start + 25])
        assert tokenizer.encode(text).ids == plain.ids_of(text)


@pytest.mark.parametrize(
    "text",
    ["[SEP] me", "caf\u00e9", "two\nlines", "a\x7fb", "x" * (TEXT_CHARACTERS_MAX + 1), "a " * 255],
    ids=["special token", "not ASCII", "line break", "control", "long", "more tokens than kept"],
)
def test_other_texts_are_left_to_the_library(plain: PlainText, text: str) -> None:
    assert plain.ids_of(text) is None


def test_words_kept_are_bounded(tokenizer) -> None:
    plain = PlainText.of(tokenizer, TOKENS_MAX)
    assert plain is not None

    for number in range(WORDS_KEPT + 10):
        plain.ids_of(f"word{number}")

    assert len(plain._pieces) <= WORDS_KEPT
    assert tokenizer.encode("word17 again").ids == plain.ids_of("word17 again")


def test_vocabulary_with_other_rules_is_left_to_the_library(tokenizer) -> None:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import BertNormalizer

    cased = Tokenizer.from_str(tokenizer.to_str())
    cased.normalizer = BertNormalizer(lowercase=False)

    assert PlainText.of(cased, TOKENS_MAX) is None

    short = Tokenizer.from_str(tokenizer.to_str())
    short.model.max_input_chars_per_word = 8
    assert PlainText.of(short, TOKENS_MAX) is None


def test_texts_of_a_batch_get_the_tokens_that_they_get_alone() -> None:
    """In their order, whether words are put together or the library reads them."""
    tokenizer = TextTokenizer(DATA / "tokenizer.json", TOKENS_MAX)
    texts = ["pay my bill", "caf\u00e9 \u00e0 la carte", "a " * 300, "Book a TABLE!", "[SEP] me"]

    together, truncated_count = tokenizer.tokenize(texts)
    by_library, _ = tokenizer.tokenize(texts * PLAIN_TEXTS_MAX)

    assert truncated_count == 1
    for text, tokens, other in zip(texts, together, by_library, strict=False):
        assert tokens.key == tokenizer.tokenize([text])[0][0].key == other.key
        assert tokens.is_truncated == (text == texts[2])

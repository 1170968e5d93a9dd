"""Which texts the bundled encoder understands."""

from __future__ import annotations

from functools import cache

import pytest

from synaptoroute.encoder import DEFAULT_MODEL, Encoder, universal_encoder
from synaptoroute.encoder.presets import why_not_understood
from synaptoroute.encoder.understanding import is_understood, script_of

pytestmark = pytest.mark.unit


@cache
def encoder() -> Encoder:
    """The bundled encoder."""
    return Encoder(providers=["CPUExecutionProvider"])


NOT_UNDERSTOOD = {
    "emoji": "\U0001f44d",
    "emoji with punctuation": "\U0001f44d!!",
    "emoji alone": "\U0001f44e \U0001f4a9",
    "flag": "\U0001f1e9\U0001f1ea",
    "chinese": "\u6211\u60f3\u9000\u8d27",
    "chinese with a word": "\u5e2e\u6211\u53d6\u6d88\u8ba2\u5355\u5427\u8c22\u8c22 please",
    "japanese": "\u8fd4\u54c1\u3057\u305f\u3044",
    "korean": "\ubc18\ud488\ud558\uace0 \uc2f6\uc5b4\uc694",
    "thai": "\u0e04\u0e37\u0e19\u0e2a\u0e34\u0e19\u0e04\u0e49\u0e32",
    "arabic": "\u0623\u0631\u064a\u062f \u0627\u0633\u062a\u0631\u062f\u0627\u062f",
    "hebrew": "\u05d4\u05d7\u05d6\u05e8",
    "russian": "\u0432\u043e\u0437\u0432\u0440\u0430\u0442",
    "hindi": "\u0935\u093e\u092a\u0938",
    "long word": "a" * 110,
    "two long words": f"{'b' * 101} {'c' * 150}",
    "nothing visible": "\u200b\u200b",
}
UNDERSTOOD = {
    "words": "How can I return these shoes",
    "code": "ORD-1234",
    "digits": "12345",
    "price": "100\u00b0C or \u20ac5?",
    "french": "o\u00f9 est ma commande",
    "vietnamese": "T\u00f4i mu\u1ed1n tr\u1ea3 h\u00e0ng",
    "accents": "na\u00efve caf\u00e9",
    "emoji behind a word": "thanks \U0001f44d",
    "more emoji than words": "ok \U0001f44d \U0001f389 \U0001f600",
    "long word behind a word": f"refund {'a' * 110}",
    "name in another script": "call \u674e\u660e about the invoice",
    "unit": "5 \u03bcm",
}


@pytest.mark.parametrize("text", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_text_is_not_understood(text: str) -> None:
    """Its pieces are unknown, or in a script that the model was not trained on."""
    assert not encoder().tokenize([text])[0].is_understood
    assert not encoder().tokenize_utterances([text])[0].is_understood


@pytest.mark.parametrize("text", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_text_is_understood(text: str) -> None:
    """Digits, codes, accents and a few unknown pieces do no harm."""
    assert encoder().tokenize([text])[0].is_understood


def test_truncation_is_known_of_each_text() -> None:
    """A text beside a long one is not called truncated."""
    short, long = encoder().tokenize(["where is my parcel", "parcel " * 400])

    assert (False, True) == (short.is_truncated, long.is_truncated)
    assert long.count == encoder().max_tokens


def test_encoder_without_declared_scripts_reads_all() -> None:
    """A multilingual model has no unknown script."""
    assert is_understood("\u0432\u043e\u0437\u0432\u0440\u0430\u0442", 4, 0)
    assert not is_understood("\u0432\u043e\u0437\u0432\u0440\u0430\u0442", 4, 0, {"LATIN"})


@pytest.mark.parametrize(
    ("letter", "script"),
    [
        ("a", "LATIN"),
        ("\u00e9", "LATIN"),
        ("\uff41", "LATIN"),
        ("\u0436", "CYRILLIC"),
        ("\u6211", "CJK"),
        ("\ubc18", "HANGUL"),
        ("5", ""),
        ("!", ""),
        ("\u00aa", ""),
        ("\ue000", ""),
        ("\u30fc", ""),
        ("\u3005", ""),
        ("\u212a", ""),
    ],
)
def test_script_of_a_letter(letter: str, script: str) -> None:
    """Digits, punctuation, private characters and letters that scripts share have none."""
    assert script == script_of(letter)


@pytest.mark.parametrize(
    ("text", "model", "reason"),
    [
        ("\u0e40\u0e07\u0e34\u0e19", DEFAULT_MODEL, "Thai script; the preset 'multilingual' does"),
        ("\u05e9\u05dc\u05d5\u05dd", DEFAULT_MODEL, "Hebrew script; no preset does"),
        ("\u05e9 \u0436", universal_encoder.NAME, "Hebrew script; no preset does"),
        ("\u05e9 \u0436", DEFAULT_MODEL, "Cyrillic or Hebrew script; no preset does"),
        ("\U0001f44e", DEFAULT_MODEL, "no text model gives symbols alone a meaning"),
        ("q" * 110, DEFAULT_MODEL, "does not know its words"),
    ],
)
def test_reason_names_the_preset_that_declares_the_script(
    text: str, model: str, reason: str
) -> None:
    assert reason in why_not_understood(text, model)


def test_long_vowels_of_japanese_belong_to_its_script() -> None:
    """The mark of a long vowel is half of the letters of some words."""
    assert is_understood("\u30fc\u30b3\u30fc", 3, 0, universal_encoder.SCRIPTS)

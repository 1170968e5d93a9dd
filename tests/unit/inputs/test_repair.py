"""Word repair."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.inputs.repair import _WORD, UNKNOWN_WORDS_MAX, Lexicon, Repair, count_words

pytestmark = pytest.mark.unit

VOCABULARY = {"from": 0, "what": 1, "claims": 2, "tamper": 3, "credit": 4}
UTTERANCES = ("I want a refund", "Cancel my subscription", "Where is my parcel?")


def lexicon(*utterances: str) -> Lexicon:
    made = Lexicon(VOCABULARY)
    made.add(utterances or UTTERANCES)
    return made


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("i wnat a refnud", "i want a refund"),  # swapped
        ("i want a refud", "i want a refund"),  # left out
        ("i want a reffund", "i want a refund"),  # typed twice
        ("i want a refumd", "i want a refund"),  # the key beside
        ("REFNUD", "REFUND"),
        ("Cnacel my susbcription", "Cancel my subscription"),
        ("my credti", "my credit"),  # a word of the encoder alone
    ],
)
def test_a_slip_is_repaired(written: str, read: str) -> None:
    assert lexicon().repair(written)[0] == read


@pytest.mark.parametrize(
    "text",
    [
        "my refunds",  # an inflection
        "the unsubscription",
        "flights to Temper",  # a name
        "i live in Cancal",
        "refnud@example.com refnud/7 #refnud a.refnud refnud7 refnud_x",
        "he couldn't",
        "zzyzx",  # nothing is near
        "waht" * 9,  # too long
    ],
)
def test_other_words_stay(text: str) -> None:
    assert lexicon().repair(text) == (text, ())


def test_repairs_are_reported() -> None:
    assert lexicon().repair("a refnud") == ("a refund", (Repair("refnud", "refund"),))


def test_a_text_of_known_words_is_known() -> None:
    assert lexicon().knows("Where is my refund from?")
    assert not lexicon().knows("Where is my refnud from?")


def test_the_route_set_comes_before_the_encoder() -> None:
    """``creaj`` is one slip away from both."""
    both = Lexicon({"cream": 0})
    both.add(["creak"])
    assert both.repair("creaj")[0] == "creak"


def test_rare_words_of_the_encoder_do_not_replace_others() -> None:
    many = {f"w{'a' * (at % 7)}{at}": at for at in range(20_000)} | {"suntan": 20_000}
    assert Lexicon(many).repair("suntna")[0] == "suntna"


def test_short_words_become_words_of_the_route_set_only() -> None:
    assert Lexicon({"what": 0}).repair("waht")[0] == "waht"
    assert lexicon("what now").repair("waht")[0] == "what"


def test_letters_with_accents_are_repaired() -> None:
    german = lexicon("Eine Überweisung prüfen")
    assert german.repair("uberweisung")[0] == "überweisung"
    assert german.repair("prüffen")[0] == "prüfen"
    german.remove(["Eine Überweisung prüfen"])
    assert german.repair("uberweisung")[0] == "uberweisung"


def test_unknown_words_of_a_text_are_bounded() -> None:
    text = "refnud " * (UNKNOWN_WORDS_MAX + 5)
    assert len(lexicon().repair(text)[1]) == UNKNOWN_WORDS_MAX


@given(st.lists(st.lists(st.text("abcdeé ", min_size=4, max_size=20), max_size=3), max_size=5))
def test_removed_utterances_leave_nothing(writes: list[list[str]]) -> None:
    """What a lexicon repairs depends on the utterances it holds, not on those it held."""
    changed, fresh = lexicon(), lexicon()
    for texts in writes:
        changed.add(texts)
    for texts in writes:
        changed.remove(texts)
    for text in ("refnud", "wnat", "abcde", "ébcde", "bacde"):
        assert changed.repair(text) == fresh.repair(text)


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=8))
def test_an_utterance_is_never_altered(utterances: list[str]) -> None:
    own = lexicon(*utterances)
    assert [own.repair(text)[0] for text in utterances] == utterances


@given(
    st.lists(
        st.text(
            alphabet="12\u0663\u00b2ab\u03a3\u0130\u00e9 .:@#/&'t_1\n\t\x1c\u00a0\u2028-",
            max_size=20,
        )
    )
)
def test_words_are_counted_as_in_one_text(utterances: list[str]) -> None:
    """A name or an address is left out, wherever white space of any kind ends it."""
    assert count_words(utterances) == Counter(_WORD.findall("\n".join(utterances).lower()))


@given(st.text(alphabet="ab\u03a3\u0130\u00e9 .:@#/&'t_1\n\t\x1c\u00a0\u2028-", max_size=30))
def test_words_of_a_text_are_looked_at_by_the_pattern(text: str) -> None:
    own = lexicon("abba bab")
    words = _WORD.findall(text.lower())
    assert own.knows(text) == all(len(word) < 4 or word in ("abba",) for word in words)


def test_a_repair_follows_the_words() -> None:
    """The kept nearest word of a text is dropped when the known words change."""
    own = lexicon("the blockade")
    assert own.repair("blokade")[0] == "blockade"
    own.remove(["the blockade"])
    assert own.repair("blokade")[0] == "blokade"
    own.add(["a blockade"])
    assert own.repair("blokade")[0] == "blockade"
    assert own.repair("blockdae")[0] == "blockade"
    own.add(["a blokade"])
    assert own.repair("blokade")[0] == "blokade"

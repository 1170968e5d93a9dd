"""Names in letters of all scripts: one grammar on every node, from level 4 of the log on."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicas import fresh, log_of, proposal, replay
from synaptoroute.core import names
from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.levels import NAMES_LEVEL, level_of
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    Finalize,
    ImportChunk,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Position,
    Proposal,
    PutFeedback,
    PutRoute,
    RemoveUtterances,
    ReviseRoutes,
    RouteRevision,
)
from synaptoroute.core.names import NAME_CHARACTERS_MAX, NAME_SHAPE, is_name

pytestmark = pytest.mark.unit

NAME = "退款"
ROW = b"\x00\x00\x80\x3f\x00\x00\x00\x00"
PUT = PutRoute(NAME, ("x",), (ROW,))
ITEM = "0123456789abcdef"
WIDE: tuple[Mutation, ...] = (
    PUT,
    DeleteRoute(NAME),
    AddUtterances(NAME, ("x",), (ROW,)),
    RemoveUtterances(NAME, ("x",)),
    PatchRoute(NAME, threshold=0.5),
    ImportChunk("i", 0, (PutRoute("a", ("x",), (ROW,)), PUT)),
    ReviseRoutes((RouteRevision(NAME, threshold=0.5),)),
    PutFeedback(ITEM, "x", NAME, None, 1),
    PutFeedback(ITEM, "x", None, NAME, 1),
)
INVISIBLE = "\u034f\u115f\u1160\u17b4\u180b\u200b\u200c\u200d\u2060\u3164\ufe0f\ufeff\uffa0"


@pytest.mark.parametrize(
    "name",
    ["退款", "возврат денег", "שלום", "สวัสดี น้ำ", "हिन्दी", "été_2", "𠀀", "مرحبا", "ü", "a ü"],
)
def test_letters_of_all_scripts_are_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "u\u0308",
        "\u0308u",
        "ü ",
        " ü",
        "-ü",
        "ü/b",
        "ü\n",
        "👍",
        "ü_\u0301",
        "\u212a",
        "\ud800ü",
    ]
    + ["ü" * (NAME_CHARACTERS_MAX + 1)]
    + [f"ü{character}ü" for character in INVISIBLE],
)
def test_ambiguous_or_invisible_names_are_refused(name: str) -> None:
    assert not is_name(name)


@given(st.text(max_size=20))
def test_two_names_are_never_one_in_nfc(text: str) -> None:
    if is_name(text):
        assert unicodedata.normalize("NFC", text) == text
        assert re.search(NAME_SHAPE, text)


def test_table_holds_assigned_letters_that_can_be_seen() -> None:
    """The tables are those of Unicode 14; later ones only add code points."""
    letters = {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl"}
    for table, categories in ((names._LETTERS, letters), (names._MARKS, {"Mn", "Mc"})):
        listed = set()
        for item in table.split():
            first, _, last = item.partition("-")
            listed |= set(range(int(first, 16), int(last or first, 16) + 1))
        assert not listed.intersection(map(ord, INVISIBLE))
        assert all(unicodedata.normalize("NFC", chr(each)) == chr(each) for each in listed)
        found = {
            point
            for point in range(0x80, sys.maxunicode + 1)
            if unicodedata.category(chr(point)) in categories
            and unicodedata.normalize("NFC", chr(point)) == chr(point)
        }
        assert listed <= found
        if unicodedata.unidata_version == "14.0.0":
            hidden = (0x180C, 0x180D, 0x180F, 0x17B5, *range(0xFE00, 0xFE10))
            hidden += tuple(range(0xE0100, 0xE01F0))
            assert listed == found - set(map(ord, INVISIBLE)) - set(hidden)


@pytest.mark.parametrize("mutation", WIDE)
def test_such_names_need_level_4(mutation: Mutation) -> None:
    """A release that knows level 3 stops before such a frame instead of refusing it."""
    sent = Proposal(b"o" * 16, mutation)
    frame = encode_proposal(sent)

    assert (NAMES_LEVEL, NAMES_LEVEL) == (level_of(mutation), frame[4])
    assert sent == decode_proposal(frame)


@pytest.mark.parametrize("mutation", WIDE)
@pytest.mark.parametrize("level", [1, 3])
def test_log_below_level_4_rejects_them(mutation: Mutation, level: int) -> None:
    replica = fresh()
    opened = Proposal(b"f" * 16, OpenEpoch("b", 0, ("n1",), dim=2, level=level))
    replay(replica, log_of([opened], Position()))
    entries = log_of([proposal(mutation, 1), proposal(Finalize(4), 2)], replica.position)
    rejected, finalized = replay(replica, entries)

    assert ("rejected", "not_finalized") == (
        rejected.change.outcome.status,
        rejected.change.outcome.code,
    )
    assert ("applied", 4) == (finalized.change.outcome.status, replica.level)


@pytest.mark.parametrize("name", ["a/b", "u\u0308", "👍"])
def test_malformed_name_keeps_its_level(name: str) -> None:
    """Releases before level 4 have to decide such an entry alike."""
    assert 1 == level_of(DeleteRoute(name))

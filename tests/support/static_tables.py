"""A table of the bundled model for tests: its frequent tokens only, made once a process."""

from __future__ import annotations

from functools import cache

from synaptoroute.cascade import StaticTable, distil
from synaptoroute.encoder import Encoder
from synaptoroute.models import Route

TOKENS = 6_000
_ASKS = ("where is", "how do I change", "what about", "please tell me about", "cancel", "show")
_TAILS = ("now", "for my brother", "before the weekend", "again", "in two days", "at home")
_THINGS = ("flight", "music", "bank card", "dinner", "weather", "water", "holiday", "phone")


@cache
def distilled() -> tuple[Encoder, StaticTable]:
    """The encoder and its table; the encoder stays open."""
    encoder = Encoder()
    return encoder, distil(encoder, tokens_max=TOKENS)


@cache
def other_table() -> StaticTable:
    """The table that another machine might make: its last digits differ."""
    encoder, table = distilled()
    rows = table.rows.copy()
    rows[rows > 0] ^= 1
    return StaticTable(encoder.fingerprint, rows)


def things() -> list[Route]:
    """Routes of 30 utterances that can be told apart by a word."""
    return [
        Route(name=thing, utterances=texts_about(thing)[:30], threshold=None) for thing in _THINGS
    ]


def texts_about(thing: str) -> list[str]:
    """36 texts; the last six are in no route."""
    return [f"{ask} my {thing} {tail}" for tail in _TAILS for ask in _ASKS]


def questions() -> list[str]:
    """Texts that stand in no route, with some that belong to none."""
    asked = [text for thing in _THINGS for text in texts_about(thing)[30:]]
    strays = ["why is the sky blue", "who wrote this", "a green square", "two times seven"]
    return asked + strays

"""Warnings of a write: utterances that work, but not as their author may expect.

An utterance that the encoder does not understand gets its route for an equal query only.  An
utterance that another route has too is an exact match of one of them, never of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from synaptoroute.core.same_text import same_text_form
from synaptoroute.encoder import TextEncoder
from synaptoroute.encoder.presets import why_not_understood
from synaptoroute.ports import EnginePort
from synaptoroute.tensor import Tensor

WARNINGS_MAX: Final = 20
_SHOWN_CHARACTERS: Final = 60
_SURE_LETTERS: Final = 50
"""Words of so many ASCII letters are in pieces that every vocabulary has."""


async def warnings_of(
    engine: EnginePort, name: str | None, texts: Sequence[str], encoder: TextEncoder
) -> list[str]:
    """Find what to say about the utterances of a write, before it is sent.

    Args:
        name: Its route; None for several, whose texts are not compared with other routes.
    """
    found: list[str] = []
    if doubtful := doubtful_texts(texts):
        found = await asyncio.to_thread(not_understood_now, doubtful, encoder)
    if name is not None and (known := engine.known_texts(texts)):
        found += await asyncio.wrap_future(engine.read(partial(_same_texts, name, known)))
    return limited(found) if found else found


def warnings_now(
    engine: EnginePort, name: str, texts: Sequence[str], encoder: TextEncoder
) -> list[str]:
    """The same, on this thread."""
    found = not_understood_now(doubtful_texts(texts), encoder)
    if known := engine.known_texts(texts):
        found += engine.read(partial(_same_texts, name, known)).result()
    return limited(found)


def not_understood_now(texts: Sequence[str], encoder: TextEncoder) -> list[str]:
    """The same for texts that are doubtful, on this thread."""
    return [
        f"{shown(text)} matches only a query that equals it: "
        f"{why_not_understood(text, encoder.name)}"
        for text, tokens in zip(texts, encoder.tokenize_utterances(texts), strict=True)
        if not tokens.is_understood
    ]


def doubtful_texts(texts: Iterable[str]) -> list[str]:
    """Choose the texts that an encoder may not understand; all others it surely does."""
    found = []
    for text in texts:
        if text.isascii() and len(text) <= _SURE_LETTERS:
            continue
        if not text.isascii() or max(map(len, text.split())) > _SURE_LETTERS:
            found.append(text)
    return found


def limited(warnings: Sequence[str]) -> list[str]:
    """Cut a list of warnings; the last one says how many are left out."""
    if len(warnings) <= WARNINGS_MAX:
        return list(warnings)
    more = len(warnings) - WARNINGS_MAX + 1
    return [*warnings[: WARNINGS_MAX - 1], f"and {more} more; `routes lint` lists them all"]


def shown(text: str) -> str:
    """Quote a text, cut to one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…")


def _same_texts(name: str, texts: Sequence[str], tensor: Tensor) -> list[str]:
    """Name the texts that another route has.  Runs on the scorer's thread."""
    found = []
    for text in texts:
        form = same_text_form(text)
        for record, slot in tensor.owners_of(tensor.texts.find(text)):
            if record.name != name and same_text_form(tensor.utterance_of(slot)) == form:
                what = f"{shown(text)} is also an utterance of {record.name!r}"
                found.append(f"{what}: a query that equals it gets one of the two")
                break
    return found

"""Splits routes into chunks that fit into entries of the log."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from synaptoroute.core.mutation import PutRoute

CHUNK_UTTERANCES_MAX: Final = 128
CHUNK_TEXT_BYTES_MAX: Final = 65_536
CHUNK_BYTES_MAX: Final = 229_376
"""Texts, vectors, metadata and payloads as an entry holds them; below the limit of an entry."""
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')
_SEPARATORS_BYTES: Final = 3  # Two quotes and a comma


def pieces_of(parts: Sequence[PutRoute]) -> list[list[PutRoute]]:
    """Split routes into chunks within the limits; a route may span chunks."""
    pieces: list[list[PutRoute]] = [[]]
    room = CHUNK_UTTERANCES_MAX
    bytes_left = CHUNK_BYTES_MAX
    for part in parts:
        start = 0
        again_bytes = _text_bytes(part.metadata) + _text_bytes(part.payload)
        needed_bytes = again_bytes + len(part.description_vector)
        if part.description is not None:
            needed_bytes += _text_bytes(part.description)
        texts = (*part.utterances, *part.negatives)
        vectors = (*part.vectors, *part.negative_vectors)
        for end, (text, vector) in enumerate(zip(texts, vectors, strict=True), start=1):
            row_bytes = _text_bytes(text) + len(vector)
            needed_bytes += row_bytes
            if room < CHUNK_UTTERANCES_MAX and (room == 0 or needed_bytes > bytes_left):
                if start < end - 1:
                    pieces[-1].append(_cut(part, start, end - 1))
                pieces.append([])
                start, room, bytes_left = end - 1, CHUNK_UTTERANCES_MAX, CHUNK_BYTES_MAX
                needed_bytes = again_bytes + row_bytes
                if end > len(part.utterances):  # ``_cut`` repeats an utterance
                    needed_bytes += _text_bytes(part.utterances[-1]) + len(vector)
            room -= 1
            bytes_left -= needed_bytes
            needed_bytes = 0
        pieces[-1].append(_cut(part, start, len(texts)))
    return pieces


def _text_bytes(text: str) -> int:
    """Bytes of a text as a JSON string, as an entry holds it."""
    # A quote or a line break takes two bytes there, another control character six.
    if _ESCAPED.search(text):
        text = json.dumps(text, ensure_ascii=False)
    return len(text.encode()) + _SEPARATORS_BYTES


def _cut(part: PutRoute, start: int, end: int) -> PutRoute:
    """Cut rows out of a route: its utterances, then its negatives."""
    count = len(part.utterances)
    # A part needs an utterance.  One that is repeated has no effect.
    own = slice(min(start, count - 1), min(end, count))
    more = slice(max(0, start - count), max(0, end - count))
    # What a route has once counts as the first part says it.
    is_first = start == 0
    return replace(
        part,
        utterances=part.utterances[own],
        vectors=part.vectors[own],
        description=part.description if is_first else None,
        description_vector=part.description_vector if is_first else b"",
        negatives=part.negatives[more],
        negative_vectors=part.negative_vectors[more],
    )

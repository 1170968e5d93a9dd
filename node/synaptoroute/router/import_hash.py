"""The hash of what an import sends, which decides whether a repeat is the same import.

The hash is stored with the outcome of the import, and other releases compare theirs with it: the
text that is hashed is that of ``json.dumps``, byte for byte.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any, Final

from pydantic_core import to_json

from synaptoroute.core.mutation import OP_ID_BYTES
from synaptoroute.models import Route

_PLAIN_MIN: Final = 1e-4
_PLAIN_MAX: Final = 1e16
"""Numbers from the one to the other have one JSON text, which no writer puts in powers of ten."""


class ImportHash:
    """Counts and hashes the routes of an import, in the order in which they arrive."""

    def __init__(self, *, replace: bool, more: bytes = b"") -> None:
        self.utterances = 0
        self._hash = blake2b(b"replace\n" if replace else b"merge\n", digest_size=OP_ID_BYTES)
        self._hash.update(more)

    def digest(self) -> bytes:
        return self._hash.digest()

    def add(self, route: Route) -> None:
        """Add the next route; any thread, one at a time."""
        fields = (route.name, route.utterances, route.threshold, route.metadata, route.payload)
        # Stored with the outcome: later releases must write the same text.
        new = (route.confidence_min, route.description, route.negatives)
        more = () if new == (None, None, []) else new
        head = _dumps(fields)[:-1]
        tail = "," + _dumps(more)[1:] if more else "]"
        vectors = "null" if route.vectors is None else text_of_vectors(route.vectors)
        self._hash.update(f"{head},{vectors}{tail}\n".encode())
        self.utterances += len(route.utterances)


def text_of_vectors(vectors: Any) -> str:
    """Write vectors as ``json.dumps`` does; a list of lists of floats in a quarter of its time.

    Raises:
        TypeError: They are no lists of numbers.
    """
    if type(vectors) is not list:
        return _dumps(vectors)
    return f"[{','.join(map(_text_of_vector, vectors))}]"


def _text_of_vector(vector: Any) -> str:
    if type(vector) is not list or set(map(type, vector)) != {float}:
        return _dumps(vector)
    text = to_json(vector, inf_nan_mode="constants").decode()
    # Two spellings differ: of powers of ten, and of what is below the least plain number.
    if "e" not in text and "0.0000" not in text:
        return text
    numbers = text[1:-1].split(",")
    for place, value in enumerate(vector):
        if not _PLAIN_MIN <= abs(value) < _PLAIN_MAX:
            numbers[place] = _dumps(value)
    return f"[{','.join(numbers)}]"


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))

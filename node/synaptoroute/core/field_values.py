"""Values of JSON fields and vectors in frames, read strictly.

Readers raise ``TypeError`` or ``ValueError`` for anything that a writer of this release would not
write, so equal proposals have equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from synaptoroute.core.mutation import Mutation, Revision

Fields = dict[str, Any]
Vectors = list[bytes]

COUNT_MAX: Final = (1 << 53) - 1  # Largest integer that JSON, Lua and SQLite all represent exactly


def equally_long(vectors: Vectors) -> Vectors:
    sizes = set(map(len, vectors))
    if len(sizes) > 1:
        raise ValueError("vectors of different sizes")
    size_bytes = sizes.pop() if sizes else 4
    if size_bytes % 4 or not size_bytes:
        raise ValueError("a vector is not a row of float32")
    return vectors


def split_rows(vectors: bytes, count: int) -> tuple[bytes, ...]:
    if count == 0:
        if vectors:
            raise ValueError("vectors without utterances")
        return ()
    size_bytes, rest = divmod(len(vectors), count)
    if rest or size_bytes % 4 or not size_bytes:
        raise ValueError(f"{len(vectors)} bytes are not {count} float32 vectors")
    return tuple(vectors[i : i + size_bytes] for i in range(0, len(vectors), size_bytes))


def read_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError("a list of texts is expected")
    return tuple(value)


def read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def read_number(value: Any) -> float | None:
    if value is not None and (not isinstance(value, float) or not isfinite(value)):
        raise TypeError("a finite number with a decimal point is expected")
    return value


def write_number(value: float | None) -> float | None:
    # Equal numbers must have equal bytes: 1 and 1.0, -0.0 and 0.0.
    return None if value is None else float(value) + 0.0


def read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        raise TypeError("a count is expected")
    return value


def read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is expected")
    return value


def read_revision(value: Any) -> Revision | None:
    if value is None:
        return None
    epoch, seq = value
    return Revision(read_count(epoch), read_count(seq))


# --- kinds of mutations ---

Writer = Callable[[Any], tuple[Fields, Vectors]]
Reader = Callable[[Fields, bytes], Mutation]
Kind = tuple[int, type[Mutation], Writer, Reader]


def plain_kind(kind: int, of: Callable[..., Mutation], **readers: Callable[[Any], Any]) -> Kind:
    """A kind whose fields are the attributes of its mutation, without vectors."""

    def write(mutation: Mutation) -> tuple[Fields, Vectors]:
        return {name: getattr(mutation, name) for name in readers}, []

    def read(fields: Fields, vectors: bytes) -> Mutation:
        split_rows(vectors, 0)
        return of(**{name: reader(fields[name]) for name, reader in readers.items()})

    assert isinstance(of, type)
    return kind, of, write, read

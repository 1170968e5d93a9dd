"""Staged imports: chunks that are invisible until all become visible at once.

Two kinds of imports are staged.  An import of routes is committed.  A *generation* carries
the vectors of another encoder for the whole route set; its identity contains the encoder's
fingerprint and dimension.  Its chunks map texts to vectors.  A vector depends on its text
alone, so a generation stays valid when routes change, and missing texts are staged later.
``SwitchEncoder`` rewrites every row with the generation's vector of its text, or is
rejected if one is missing, so queries never see vectors of two encoders.

A *staged write* is one write to one route that is too large for an entry.  Its identity names
the kind of the write, and its commit has the op_id and the preconditions of the write.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from operator import attrgetter
from typing import Final

from synaptoroute.core.change import (
    Change,
    EncoderChange,
    Outcome,
    Rejection,
    RouteRecord,
    SlotWrite,
    StagedImport,
)
from synaptoroute.core.digest import row_hash
from synaptoroute.core.mutation import ImportAbort, ImportBegin, ImportChunk, PutRoute, Revision

NOT_OPEN_MESSAGE: Final = "the import is not open"
IMPORTS_OPEN_MAX: Final = 8
CHUNKS_MAX: Final = 100_000
GENERATION_SHARE: Final = 2
"""Rows of a generation, as a multiple of the slots: texts change while it is made."""


def plan_import(
    imports: Mapping[str, StagedImport],
    mutation: ImportBegin | ImportChunk | ImportAbort,
    at: Revision,
    capacity_slots: int,
    rows_elsewhere: int = 0,  # Rows of other sets, which a generation has vectors for
) -> Change:
    """Plan the opening, filling or dropping of an import.

    Raises:
        Rejection: Too many imports are open, this one is not, or the tensor is too small.
    """
    staged = imports.get(mutation.import_id)
    match mutation:
        case ImportBegin():
            return _plan_begin(imports, staged, mutation, at)
        case ImportChunk():
            return _plan_chunk(imports, staged, mutation, at, capacity_slots, rows_elsewhere)
        case ImportAbort(import_id):
            if staged is None:
                raise Rejection("import_rejected", f"no import {import_id!r} is open")
            return Change(Outcome("applied", at, count=len(staged.chunks)), closed=staged)


def _plan_begin(
    imports: Mapping[str, StagedImport],
    staged: StagedImport | None,
    begin: ImportBegin,
    at: Revision,
) -> Change:
    if staged is not None:
        if staged.begin != begin:
            raise Rejection(
                "import_rejected", f"the import {begin.import_id!r} is open in another mode"
            )
        return Change(Outcome("unchanged", at, count=len(staged.chunks)))
    if len(imports) >= IMPORTS_OPEN_MAX:
        raise Rejection(
            "import_rejected", f"{IMPORTS_OPEN_MAX} imports are open; commit or abort one first"
        )
    return Change(Outcome("applied", at), opened=begin)


def _plan_chunk(
    imports: Mapping[str, StagedImport],
    staged: StagedImport | None,
    chunk: ImportChunk,
    at: Revision,
    capacity_slots: int,
    rows_elsewhere: int,
) -> Change:
    if staged is None:
        raise Rejection("import_rejected", f"no import {chunk.import_id!r} is open")
    if chunk.number >= CHUNKS_MAX:
        raise Rejection("import_rejected", f"an import has at most {CHUNKS_MAX} chunks")
    if _place_of(staged, chunk.number) is None:
        return Change(Outcome("unchanged", at))
    if encoder_of(chunk.import_id) is not None:
        waiting, room = staged.row_count, (capacity_slots + rows_elsewhere) * GENERATION_SHARE
    else:
        routes = (each for name, each in imports.items() if encoder_of(name) is None)
        waiting, room = sum(each.row_count for each in routes), capacity_slots
    if waiting + row_count_of(chunk) > room:
        raise Rejection(
            "capacity_exceeded",
            f"more utterances are staged than the {capacity_slots} slots of the tensor",
        )
    outcome = Outcome("applied", at, count=row_count_of(chunk))
    return Change(outcome, staged=chunk, staged_before=staged)


def _place_of(staged: StagedImport, number: int) -> int | None:
    """Index at which a chunk belongs among the staged ones; None if it is staged already."""
    place = bisect_left(staged.chunks, number, key=attrgetter("number"))
    is_there = place < len(staged.chunks) and staged.chunks[place].number == number
    return None if is_there else place


def with_chunk(staged: StagedImport, chunk: ImportChunk, seq: int) -> StagedImport:
    """Add a chunk, staged by the entry at ``seq``, to an import."""
    place = _place_of(staged, chunk.number)
    assert place is not None, "the chunk is staged already: this is a bug"
    chunks = (*staged.chunks[:place], chunk, *staged.chunks[place:])
    return StagedImport(staged.begin, chunks, seq, staged.row_count + row_count_of(chunk))


def row_count_of(chunk: ImportChunk) -> int:
    return sum(
        len(part.utterances) + (part.description is not None) + len(part.negatives)
        for part in chunk.parts
    )


def join_chunks(staged: StagedImport | None, chunk_count: int) -> list[PutRoute]:
    """Join the parts of every route, in order of name.

    Raises:
        ValueError: The import is not open or is not complete.
    """
    if staged is None:
        raise ValueError(NOT_OPEN_MESSAGE)
    _check_complete([chunk.number for chunk in staged.chunks], chunk_count)
    rows: dict[str, dict[str, bytes]] = {}
    negatives: dict[str, dict[str, bytes]] = {}
    first: dict[str, PutRoute] = {}
    for chunk in staged.chunks:
        for part in chunk.parts:
            first.setdefault(part.name, part)
            texts = rows.setdefault(part.name, {})
            for text, vector in zip(part.utterances, part.vectors, strict=True):
                texts.setdefault(text, vector)
            if part.negatives:
                texts = negatives.setdefault(part.name, {})
                for text, vector in zip(part.negatives, part.negative_vectors, strict=True):
                    texts.setdefault(text, vector)
    return [
        replace(
            first[name],
            utterances=tuple(rows[name]),
            vectors=tuple(rows[name].values()),
            negatives=tuple(negatives.get(name, ())),
            negative_vectors=tuple(negatives.get(name, {}).values()),
        )
        for name in sorted(first)
    ]


def _check_complete(numbers: list[int], chunk_count: int) -> None:
    if len(numbers) == chunk_count and numbers == list(range(chunk_count)):
        return
    staged = set(numbers)
    # The announced count is not trusted: only as many numbers are tried as can be missing.
    first = range(min(chunk_count, len(numbers) + 3))
    missing = [number for number in first if number not in staged][:3]
    raise ValueError(
        f"{len(numbers)} chunks are staged, {chunk_count} were announced"
        + (f"; the first missing are {missing}" if missing else "")
    )


_ID: Final = re.compile(r"encoder:([0-9a-f]{64}):([1-9][0-9]{0,4})")


def generation_id(fingerprint: str, dim: int) -> str:
    """Import identity of the generation of an encoder."""
    return f"encoder:{fingerprint}:{dim}"


def encoder_of(import_id: str) -> tuple[str, int] | None:
    """Fingerprint and dimension in the identity of a generation; None for an import of routes."""
    found = _ID.fullmatch(import_id)
    return (found[1], int(found[2])) if found else None


def vectors_in(staged: StagedImport | None) -> dict[str, bytes]:
    """Collect the vector of each text of a generation; the first one counts."""
    vectors: dict[str, bytes] = {}
    for chunk in staged.chunks if staged else ():
        for part in chunk.parts:
            for text, vector in zip(part.utterances, part.vectors, strict=True):
                vectors.setdefault(text, vector)
    return vectors


def are_routes_imported(imports: Iterable[str]) -> bool:
    """Whether any of these imports is an import of routes."""
    return any(encoder_of(name) is None for name in imports)


def missing_texts(routes: Iterable[RouteRecord], known: Mapping[str, bytes]) -> dict[str, str]:
    """Find the texts without a known vector, each with a route that contains it."""
    return {
        text: route.name for route in routes for _, _, text in route.rows() if text not in known
    }


def plan_switch(
    imports: Mapping[str, StagedImport],
    import_id: str,
    routes: Iterable[RouteRecord],
    row_hashes: Mapping[int, bytes],  # Row hash of every slot that has an owner
    dim: int,  # Dimension of the current vectors
    at: Revision,
) -> Change:
    """Plan the switch of every row to its vector in a generation.

    Raises:
        Rejection: The generation is not open or lacks a text, or routes are being
            imported, with vectors of the current encoder.
    """
    encoder, staged = encoder_of(import_id), imports.get(import_id)
    if staged is None or encoder is None:
        raise Rejection("import_rejected", f"no generation {import_id!r} is open")
    if are_routes_imported(imports):
        raise Rejection("import_rejected", "routes are being imported: finish or abort that first")
    known = vectors_in(staged)
    writes = []
    for route in routes:
        for slot, owner, text in route.rows():
            vector = known.get(text)
            if vector is None:
                raise Rejection(
                    "import_rejected", f"the generation has no vector for '{text}' of {route.name}"
                )
            hashed = row_hash(slot, owner, text, vector)
            writes.append(SlotWrite(slot, owner, text, vector, hashed))
    return Change(
        outcome=Outcome("applied", at, count=len(writes)),
        writes=tuple(sorted(writes, key=lambda write: write.slot)),
        replaced=tuple(sorted(row_hashes.items())),
        closed=staged,
        encoder=EncoderChange(*encoder, dim_before=dim),
    )


class StagedKind(StrEnum):
    """Change that the commit of a staged write makes to its one route."""

    PUT = "put"
    ADD = "add"
    REMOVE = "remove"  # the vectors of the staged utterances do not matter


_STAGED_WRITE: Final = re.compile(r"/(put|add|remove)/[0-9a-f]{32}")
"""No import of a client has such an identity: theirs begin with a letter or a digit."""


def staged_write_id(kind: StagedKind, unique: str) -> str:
    """Import identity of a staged write; ``unique`` is 32 hexadecimal digits."""
    return f"/{kind.value}/{unique}"


def staged_kind(import_id: str) -> StagedKind | None:
    """Kind in the identity of a staged write; None for another import."""
    found = _STAGED_WRITE.fullmatch(import_id)
    return StagedKind(found[1]) if found else None

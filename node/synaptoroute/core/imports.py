"""Imports: chunks that are staged unseen and become visible all at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from synaptoroute.core.mutation import (
    Change,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    Outcome,
    PutRoute,
    Revision,
    StagedImport,
)
from synaptoroute.core.target import Rejection

IMPORTS_OPEN_MAX: Final = 8
CHUNKS_MAX: Final = 100_000


def plan_import(
    imports: Mapping[str, StagedImport],
    mutation: ImportBegin | ImportChunk | ImportAbort,
    at: Revision,
    capacity_slots: int,
) -> Change:
    """Plan the opening, filling or dropping of an import.

    Raises:
        Rejection: Too many imports, an unknown one, or more than the tensor holds.
    """
    staged = imports.get(mutation.import_id)
    match mutation:
        case ImportBegin():
            return _plan_begin(imports, staged, mutation, at)
        case ImportChunk():
            return _plan_chunk(imports, staged, mutation, at, capacity_slots)
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
) -> Change:
    if staged is None:
        raise Rejection("import_rejected", f"no import {chunk.import_id!r} is open")
    if chunk.number >= CHUNKS_MAX:
        raise Rejection("import_rejected", f"an import has at most {CHUNKS_MAX} chunks")
    if any(each.number == chunk.number for each in staged.chunks):
        return Change(Outcome("unchanged", at))
    waiting = sum(each.row_count for each in imports.values())
    if waiting + row_count_of(chunk) > capacity_slots:
        raise Rejection(
            "capacity_exceeded",
            f"more utterances are staged than the {capacity_slots} slots of the tensor",
        )
    return Change(Outcome("applied", at, count=row_count_of(chunk)), staged=chunk)


def row_count_of(chunk: ImportChunk) -> int:
    return sum(len(part.utterances) for part in chunk.parts)


def join_chunks(staged: StagedImport | None, chunk_count: int) -> list[PutRoute]:
    """Join the parts of every route, in order of name.

    Raises:
        ValueError: The import is not open or is not complete.
    """
    if staged is None:
        raise ValueError("the import is not open")
    numbers = [chunk.number for chunk in staged.chunks]
    if numbers != list(range(chunk_count)):
        missing = sorted(set(range(chunk_count)) - set(numbers))[:3]
        raise ValueError(
            f"{len(numbers)} chunks are staged, {chunk_count} were announced"
            + (f"; the first missing are {missing}" if missing else "")
        )
    rows: dict[str, dict[str, bytes]] = {}
    first: dict[str, PutRoute] = {}
    for chunk in staged.chunks:
        for part in chunk.parts:
            first.setdefault(part.name, part)
            texts = rows.setdefault(part.name, {})
            for text, vector in zip(part.utterances, part.vectors, strict=True):
                texts.setdefault(text, vector)
    return [
        PutRoute(
            name=name,
            utterances=tuple(rows[name]),
            vectors=tuple(rows[name].values()),
            threshold=first[name].threshold,
            metadata=first[name].metadata,
            payload=first[name].payload,
        )
        for name in sorted(first)
    ]

"""Another encoder for the whole route set, switched to at one place of the log.

A *generation* is a staged import whose name says what it is of: the fingerprint of an
encoder and the dimension of its vectors.  Its chunks give texts their vectors; a vector
depends on nothing else, so a generation outlives changes of the routes, and what it
lacks is staged later.  ``SwitchEncoder`` rewrites every row with the generation's vector
of its text, or is rejected where one is missing: nothing is ever shown of two encoders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from synaptoroute.core.change import (
    Change,
    EncoderChange,
    Outcome,
    RouteRecord,
    SlotWrite,
    StagedImport,
)
from synaptoroute.core.desired_route import Rejection
from synaptoroute.core.digest import row_hash
from synaptoroute.core.mutation import Revision

_ID: Final = re.compile(r"encoder:([0-9a-f]{64}):([1-9][0-9]{0,4})")


def generation_id(fingerprint: str, dim: int) -> str:
    """Name the generation of an encoder."""
    return f"encoder:{fingerprint}:{dim}"


def encoder_of(import_id: str) -> tuple[str, int] | None:
    """Read fingerprint and dimension from a name; None for an import of routes."""
    found = _ID.fullmatch(import_id)
    return (found[1], int(found[2])) if found else None


def vectors_in(staged: StagedImport | None) -> dict[str, bytes]:
    """Gather the vector of every text that a generation holds; the first one counts."""
    vectors: dict[str, bytes] = {}
    for chunk in staged.chunks if staged else ():
        for part in chunk.parts:
            for text, vector in zip(part.utterances, part.vectors, strict=True):
                vectors.setdefault(text, vector)
    return vectors


def are_routes_imported(imports: Iterable[str]) -> bool:
    """Whether an import of routes is open, given the names of all imports."""
    return any(encoder_of(name) is None for name in imports)


def missing_texts(routes: Iterable[RouteRecord], known: Mapping[str, bytes]) -> dict[str, str]:
    """Find the texts that a generation lacks, each with a route that has it."""
    return {text: route.name for route in routes for text in route.utterances if text not in known}


def plan_switch(
    imports: Mapping[str, StagedImport],
    import_id: str,
    routes: Iterable[RouteRecord],
    row_hashes: Mapping[int, bytes],
    dim: int,
    at: Revision,
) -> Change:
    """Plan to give every row its vector of a generation.

    Args:
        imports: Every import that is open.
        import_id: Name of the generation.
        routes: Every route.
        row_hashes: Row hash of every slot that has an owner.
        dim: Dimension of the vectors before.
        at: Place of the entry.

    Raises:
        Rejection: It is not open, or lacks a text; or routes are being imported, whose
            vectors would be of the former encoder.
    """
    encoder, staged = encoder_of(import_id), imports.get(import_id)
    if staged is None or encoder is None:
        raise Rejection("import_rejected", f"no generation {import_id!r} is open")
    if are_routes_imported(imports):
        raise Rejection("import_rejected", "routes are being imported: finish or abort that first")
    known = vectors_in(staged)
    writes = []
    for route in routes:
        for slot, text in zip(route.slots, route.utterances, strict=True):
            vector = known.get(text)
            if vector is None:
                raise Rejection(
                    "import_rejected", f"the generation has no vector for '{text}' of {route.name}"
                )
            hashed = row_hash(slot, route.route_id, text, vector)
            writes.append(SlotWrite(slot, route.route_id, text, vector, hashed))
    return Change(
        outcome=Outcome("applied", at, count=len(writes)),
        writes=tuple(sorted(writes, key=lambda write: write.slot)),
        replaced=tuple(sorted(row_hashes.items())),
        closed=staged,
        encoder=EncoderChange(*encoder, dim_before=dim),
    )

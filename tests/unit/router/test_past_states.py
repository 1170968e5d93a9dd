"""What the history says about imports of several sets that share an identity."""

from __future__ import annotations

from typing import Any

import pytest

from synaptoroute.core.mutation import ImportBegin, ImportChunk, ImportCommit, Mutation
from synaptoroute.router.past_states import PastStates, Subject

pytestmark = pytest.mark.unit


def part(name: str, text: str) -> dict[str, Any]:
    return {"import_id": "i", "number": 0, "parts": [{"name": name, "utterances": [text]}]}


def test_imports_of_two_sets_with_one_identity_are_kept_apart() -> None:
    """Each set has its own imports; here they overlap."""
    begin, commit = {"import_id": "i", "replace": False}, {"import_id": "i", "chunk_count": 1}
    log: list[tuple[type[Mutation], dict[str, Any]]] = [
        (ImportBegin, begin),
        (ImportBegin, {**begin, "route_set": "sales"}),
        (ImportChunk, part("refund", "ours")),
        (ImportChunk, {**part("refund", "theirs"), "route_set": "sales"}),
        (ImportCommit, {**commit, "route_set": "sales"}),
        (ImportCommit, commit),
    ]
    past = PastStates()
    for seq, (kind, fields) in reversed(list(enumerate(log, 1))):
        past.add(seq, kind, fields, is_applied=True)
    ours = past.after(Subject("route", "refund", "default"), 6)
    theirs = past.after(Subject("route", "refund", "sales"), 6)

    assert ours is not None
    assert theirs is not None
    assert (["ours"], ["theirs"]) == (ours["utterances"], theirs["utterances"])

"""Changes of the encoder: every row changes at once or none does, and a change can be undone."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from replicas import SMALL, ShadowedTable, fresh, log_of, proposal, put, replay, table_state
from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.imports import encoder_of, generation_id
from synaptoroute.core.mutation import (
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PutRoute,
    SwitchEncoder,
)

pytestmark = pytest.mark.unit

NEXT = generation_id("a" * 64, 3)
OTHER = generation_id("b" * 64, 3)


def staged(name: str, *texts: str, dim: int = 3) -> PutRoute:
    """Vectors of another dimension."""
    return PutRoute(name, texts, (struct.pack(f"<{dim}f", *[1.0] * dim),) * len(texts))


class Changing(ShadowedTable):
    """A table with two routes."""

    def __init__(self) -> None:
        super().__init__(SMALL)
        self.do(put("one", "a", "b"), put("two", "b", "c"))


@pytest.fixture
def changing() -> Changing:
    """Two routes with three different texts."""
    return Changing()


def test_every_row_has_its_vector_of_the_other_encoder(changing: Changing) -> None:
    """Slots, owners, texts and revisions stay; the staged vectors are dropped."""
    before = table_state(changing.table)
    begin, chunk = ImportBegin(NEXT), ImportChunk(NEXT, 0, (staged("one", "a", "b", "c"),))
    change = changing.do(begin, chunk, SwitchEncoder(NEXT))
    after = table_state(changing.table)

    assert ("applied", 4) == (change.outcome.status, change.outcome.count)
    assert [0, 1, 2, 3] == [write.slot for write in change.writes]
    assert {12} == {len(write.vector) for write in change.writes}
    assert ("a" * 64, 3, 2) == (
        change.encoder.fingerprint if change.encoder else "",
        after["dim"],
        before["dim"],
    )
    for same in ("routes", "slots", "route_ids", "imports"):
        assert before[same] == after[same]


def test_reverted_change_restores_the_state_exactly(changing: Changing) -> None:
    changing.do(ImportBegin(NEXT), ImportChunk(NEXT, 0, (staged("one", "a", "b", "c"),)))
    before = table_state(changing.table)
    changing.table.revert(changing.do(SwitchEncoder(NEXT)))

    assert before == table_state(changing.table)


def test_vector_serves_its_text_after_the_route_was_deleted(changing: Changing) -> None:
    """Another route with the same text uses the vector."""
    chunk = ImportChunk(NEXT, 0, (staged("gone", "a", "b", "c"),))
    change = changing.do(ImportBegin(NEXT), chunk, SwitchEncoder(NEXT))

    assert "applied" == change.outcome.status


@pytest.mark.parametrize(
    "mutations",
    [
        (),
        (ImportBegin(OTHER),),
        (ImportBegin(NEXT),),
        (ImportBegin(NEXT), ImportChunk(NEXT, 0, (staged("one", "a", "b"),))),
        (
            ImportBegin(NEXT),
            ImportChunk(NEXT, 0, (staged("one", "a", "b", "c"),)),
            put("three", "d"),
        ),
        (
            ImportBegin(NEXT),
            ImportChunk(NEXT, 0, (staged("one", "a", "b", "c"),)),
            ImportBegin("routes"),
        ),
        (
            ImportBegin(NEXT),
            ImportChunk(NEXT, 0, (staged("one", "a", "b", "c"),)),
            ImportAbort(NEXT),
        ),
    ],
    ids=["none", "another", "empty", "lacking", "outgrown", "importing", "dropped"],
)
def test_partial_generation_is_not_activated(
    changing: Changing, mutations: tuple[Mutation, ...]
) -> None:
    """Rejected at its place, on every node alike; nothing changes."""
    for mutation in mutations:
        changing.do(mutation)
    before = table_state(changing.table)
    change = changing.do(SwitchEncoder(NEXT))

    assert "import_rejected" == change.outcome.code
    assert before == table_state(changing.table)


def test_only_a_generation_accepts_vectors_of_its_dimension(changing: Changing) -> None:
    """Each import accepts only vectors of its encoder's dimension."""
    changing.do(ImportBegin(NEXT), ImportBegin("routes"))
    wrong = changing.do(ImportChunk(NEXT, 0, (staged("one", "a", dim=2),)))
    foreign = changing.do(ImportChunk("routes", 0, (staged("one", "a"),)))

    assert ["invalid_vector"] * 2 == [wrong.outcome.code, foreign.outcome.code]


def test_generation_cannot_be_committed(changing: Changing) -> None:
    """Its parts are vectors of texts, not routes."""
    changing.do(ImportBegin(NEXT), ImportChunk(NEXT, 0, (staged("one", "a"),)))

    assert "import_rejected" == changing.do(ImportCommit(NEXT, 1)).outcome.code


def test_step_ends_at_a_change_of_the_encoder() -> None:
    """Buffered entries after the change are fetched again instead of applied with it."""
    chunk = ImportChunk(NEXT, 0, (staged("one", "a"),))
    mutations = (put("one", "a"), ImportBegin(NEXT), chunk, SwitchEncoder(NEXT), put("two", "b"))
    entries = log_of(proposal(each, index) for index, each in enumerate(mutations))
    replica = fresh()
    replay(replica, entries[:3])
    for entry in entries[4:]:
        replica.receive(entry)
    step = replica.receive(entries[3])

    assert [entries[3].seq, entries[4].seq] == [commit.entry.seq for commit in step.commits]
    assert step.fetch is not None

    replica.advance()
    step = replica.receive(entries[5])

    assert ["rejected"] == [commit.change.outcome.status for commit in step.commits]


@pytest.mark.parametrize(
    "name", ["", "encoder:", f"encoder:{'a' * 63}:3", f"encoder:{'A' * 64}:3", f"{NEXT}0000000"]
)
def test_other_import_ids_are_imports_of_routes(name: str) -> None:
    """The import id of a client is never read as that of a generation."""
    assert encoder_of(name) is None


def test_switch_is_encoded_and_decoded() -> None:
    switch = proposal(SwitchEncoder(NEXT), 1)

    assert switch == decode_proposal(encode_proposal(switch))
    assert ("a" * 64, 3) == encoder_of(NEXT)


def test_descriptions_and_negatives_need_their_vectors_too(changing: Changing) -> None:
    """Each keeps its kind; a generation without one of them is not switched to."""
    row = struct.pack("<2f", 1, 0)
    more = {"description_vector": row, "negatives": ("no",), "negative_vectors": (row,)}
    changing.do(replace(put("one", "a", "b"), description="about", **more))
    begin, chunk = ImportBegin(NEXT), ImportChunk(NEXT, 0, (staged("one", "a", "b", "c", "no"),))
    lacking = changing.do(begin, chunk, SwitchEncoder(NEXT))
    change = changing.do(ImportChunk(NEXT, 1, (staged("one", "about"),)), SwitchEncoder(NEXT))
    held = changing.table.routes["one"]

    assert ("rejected", "import_rejected") == (lacking.outcome.status, lacking.outcome.code)
    assert ("applied", 6) == (change.outcome.status, change.outcome.count)
    assert ("about", ("no",)) == (held.description, held.negatives)
    assert {12} == {len(write.vector) for write in change.writes}

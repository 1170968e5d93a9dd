"""Goal: the encoder changes for every row at once, or for none, and the change can be undone."""

from __future__ import annotations

import struct

import pytest

from replicas import SMALL, Shadow, fresh, log_of, proposal, put, replay, table_state
from synaptoroute.core.change import Change
from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.imports import encoder_of, generation_id
from synaptoroute.core.mutation import (
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PutRoute,
    Revision,
    SwitchEncoder,
)
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.unit

NEXT = generation_id("a" * 64, 3)
OTHER = generation_id("b" * 64, 3)


def staged(name: str, *texts: str, dim: int = 3) -> PutRoute:
    """Vectors of another dimension."""
    return PutRoute(name, texts, (struct.pack(f"<{dim}f", *[1.0] * dim),) * len(texts))


class Changing:
    """A table with two routes, and what its changes make of a database."""

    def __init__(self) -> None:
        self.table = RouteTable(SMALL, dim=2)
        self.shadow = Shadow()
        self.seq = 0
        self.do(put("one", "a", "b"), put("two", "b", "c"))

    def do(self, *mutations: Mutation) -> Change:
        """Apply mutations; the change of the last one."""
        change = None
        for mutation in mutations:
            self.seq += 1
            change = self.table.apply(proposal(mutation, self.seq), Revision(1, self.seq))
            self.shadow.carry_out(change)
            self.shadow.check(self.table)
        assert change is not None
        return change


@pytest.fixture
def changing() -> Changing:
    """Two routes with three different texts."""
    return Changing()


def test_every_row_has_its_vector_of_the_other_encoder(changing: Changing) -> None:
    """Slots, owners, texts and revisions stay; what the generation staged is gone."""
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


def test_change_is_undone_to_the_bit(changing: Changing) -> None:
    """What could not be made durable leaves no trace."""
    changing.do(ImportBegin(NEXT), ImportChunk(NEXT, 0, (staged("one", "a", "b", "c"),)))
    before = table_state(changing.table)
    changing.table.revert(changing.do(SwitchEncoder(NEXT)))

    assert before == table_state(changing.table)


def test_vector_belongs_to_the_text_whatever_became_of_the_route(changing: Changing) -> None:
    """Staged under a route that is gone, it serves another route with that text."""
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
def test_what_is_not_whole_is_not_switched_to(
    changing: Changing, mutations: tuple[Mutation, ...]
) -> None:
    """Rejected at its place, on every node alike; nothing changes."""
    for mutation in mutations:
        changing.do(mutation)
    before = table_state(changing.table)
    change = changing.do(SwitchEncoder(NEXT))

    assert "import_rejected" == change.outcome.code
    assert before == table_state(changing.table)


def test_vectors_of_another_size_are_for_generations_alone(changing: Changing) -> None:
    """Each import takes vectors of its own encoder's dimension only."""
    changing.do(ImportBegin(NEXT), ImportBegin("routes"))
    wrong = changing.do(ImportChunk(NEXT, 0, (staged("one", "a", dim=2),)))
    foreign = changing.do(ImportChunk("routes", 0, (staged("one", "a"),)))

    assert ["invalid_vector"] * 2 == [wrong.outcome.code, foreign.outcome.code]


def test_generation_is_not_committed_as_routes(changing: Changing) -> None:
    """Its parts are vectors of texts, not routes."""
    changing.do(ImportBegin(NEXT), ImportChunk(NEXT, 0, (staged("one", "a"),)))

    assert "import_rejected" == changing.do(ImportCommit(NEXT, 1)).outcome.code


def test_step_ends_where_the_encoder_changes() -> None:
    """Entries that waited behind the change are asked for, not applied with it."""
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
def test_other_names_are_imports_of_routes(name: str) -> None:
    """A client's name of an import is never taken for an encoder's."""
    assert encoder_of(name) is None


def test_frame_of_a_switch_is_read_back() -> None:
    """It travels like every other entry."""
    switch = proposal(SwitchEncoder(NEXT), 1)

    assert switch == decode_proposal(encode_proposal(switch))
    assert ("a" * 64, 3) == encoder_of(NEXT)

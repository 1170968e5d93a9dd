"""Table: descriptions, negatives and confidences of routes, and the numbers behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicas import World, fresh, log_of, proposal, replay, route, vector
from synaptoroute.core.codec import LEVEL, decode_proposal, encode_proposal
from synaptoroute.core.levels import level_of
from synaptoroute.core.mutation import (
    FOUNDING_SETTINGS,
    AddUtterances,
    CalibrateDecision,
    DeleteRoute,
    Finalize,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Position,
    Proposal,
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.core.replica import make_entry
from synaptoroute.core.table import RouteTable
from synaptoroute.core.validation import DECISION_BYTES_MAX, NEGATIVES_MAX

pytestmark = pytest.mark.unit

WHOLE = replace(
    route("a", "1", "2"),
    confidence_min=0.25,
    description="about a",
    description_vector=vector(1),
    negatives=("not a", "never a"),
    negative_vectors=(vector(2), vector(3)),
)


@pytest.fixture
def world() -> World:
    """A table of twelve slots with one whole route."""
    made = World()
    made.do(WHOLE)
    return made


def test_description_and_negatives_have_rows_of_their_own(world: World) -> None:
    held = world.table.routes["a"]
    assert ((0, 1), 2, (3, 4)) == (held.slots, held.description_slot, held.negative_slots)
    assert ("about a", ("not a", "never a")) == (held.description, held.negatives)
    assert (0, 1, 2) == held.example_slots
    assert [text for _, _, text in held.rows()] == held.texts()
    assert 0.25 == held.confidence_min


def test_equal_put_changes_nothing(world: World) -> None:
    assert "unchanged" == world.do(WHOLE).outcome.status


def test_put_without_the_fields_removes_them(world: World) -> None:
    """A put replaces the whole route; the rows of its utterances stay."""
    change = world.do(route("a", "1", "2"))
    held = world.table.routes["a"]

    assert ((2, 3, 4), ()) == (change.freed, change.writes)
    assert (None, None, None, ()) == held[-5:-1]
    assert (0, 1) == held.slots


def test_only_changed_rows_are_written(world: World) -> None:
    change = world.do(
        replace(WHOLE, negatives=("never a", "nor a"), negative_vectors=(vector(3), vector(2)))
    )

    assert ["nor a"] == [write.utterance for write in change.writes]
    assert ("never a", "nor a") == world.table.routes["a"].negatives


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"confidence_min": None}, (None, "about a", ("not a", "never a"))),
        ({"confidence_min": 1.0}, (1.0, "about a", ("not a", "never a"))),
        ({"description": None}, (0.25, None, ("not a", "never a"))),
        (
            {"description": "new", "description_vector": vector(5)},
            (0.25, "new", ("not a", "never a")),
        ),
        ({"negatives": ()}, (0.25, "about a", ())),
        (
            {"negatives": ("never a",), "negative_vectors": (vector(3),)},
            (0.25, "about a", ("never a",)),
        ),
        ({"threshold": 0.5}, (0.25, "about a", ("not a", "never a"))),
    ],
)
def test_patch_sets_and_clears_each_field_alone(
    world: World, fields: dict[str, Any], expected: tuple[object, ...]
) -> None:
    assert "applied" == world.do(PatchRoute("a", **fields)).outcome.status
    held = world.table.routes["a"]
    assert expected == (held.confidence_min, held.description, held.negatives)
    assert ("1", "2") == held.utterances


def test_changes_of_utterances_leave_the_other_rows(world: World) -> None:
    world.do(AddUtterances("a", ("3",), (vector(),)))
    added = world.do(RemoveUtterances("a", ("1",)))
    held = world.table.routes["a"]

    assert 1 == added.outcome.count
    assert ("2", "3") == held.utterances
    assert ("about a", ("not a", "never a"), 0.25) == (
        held.description,
        held.negatives,
        held.confidence_min,
    )
    assert "utterance_not_found" == world.code(RemoveUtterances("a", ("not a",)))
    assert "invalid_route" == world.code(RemoveUtterances("a", ("2", "3")))


def test_deleted_route_frees_every_row(world: World) -> None:
    assert (0, 1, 2, 3, 4) == world.do(DeleteRoute("a")).freed
    world.do(replace(WHOLE, name="b"))
    assert 0 == world.slots("b")[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"confidence_min": 1.5},
        {"confidence_min": float("nan")},
        {"description": ""},
        {"description": "x" * 8_193},
        {"negatives": ("n", "n")},
        {"negatives": ("1", "not a")},  # also an utterance
        {
            "negatives": tuple(map(str, range(10, 11 + NEGATIVES_MAX))),
            "negative_vectors": (vector(),) * (1 + NEGATIVES_MAX),
        },
        {"description_vector": b"\x00" * 12},
        {"negative_vectors": (vector(), b"\x00" * 12)},
        {"negative_vectors": (vector(),)},
    ],
)
def test_malformed_fields_are_rejected(world: World, wrong: dict[str, Any]) -> None:
    """With a stable code; the put and the patch agree."""
    put = replace(WHOLE, **wrong)
    expected = "invalid_vector" if set(wrong) & {"description_vector"} else "invalid_route"
    if set(wrong) == {"negative_vectors"}:
        expected = "invalid_vector"
    assert expected == world.code(put)
    patch = PatchRoute(
        "a",
        confidence_min=put.confidence_min,
        description=put.description,
        description_vector=put.description_vector,
        negatives=put.negatives,
        negative_vectors=put.negative_vectors,
    )
    assert expected == world.code(patch)


def test_negative_cannot_be_added_as_an_utterance(world: World) -> None:
    assert "invalid_route" == world.code(AddUtterances("a", ("not a",), (vector(),)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"confidence_min": -0.1},
        {"expected_unmatched_share": 0.0},
        {"expected_unmatched_share": float("nan")},
        {"ignore": ("",)},
        {"ignore": ("x" * 257,)},
        {"ignore": ("x",) * 33},
        {"ignore": ("\ud800",)},
    ],
)
def test_malformed_settings_are_rejected(world: World, wrong: dict[str, Any]) -> None:
    assert world.code(PutSettings(Settings(capacity_slots=12, **wrong))) in (
        "invalid_request",
        "invalid_route",
    )


def test_import_carries_the_fields_of_the_first_part(world: World) -> None:
    other = replace(route("a", "7"), confidence_min=0.75)
    for mutation in (
        ImportBegin("i"),
        ImportChunk("i", 0, (replace(WHOLE, utterances=("6",), vectors=(vector(),)),)),
        ImportChunk("i", 1, (other,)),
        ImportCommit("i", 2),
    ):
        world.do(mutation)
    held = world.table.routes["a"]

    assert ("7", "6") == held.utterances or ("6", "7") == held.utterances
    assert ("about a", ("not a", "never a"), 0.25) == (
        held.description,
        held.negatives,
        held.confidence_min,
    )


def test_rows_of_every_kind_count_for_the_capacity(world: World) -> None:
    texts = tuple("123456")
    put = replace(WHOLE, name="b", utterances=texts, vectors=(vector(),) * len(texts))
    assert "capacity_exceeded" == world.code(put)


def test_numbers_of_a_fit_are_part_of_the_state(world: World) -> None:
    before = world.table.digest.hex()
    change = world.do(CalibrateDecision(b"fit", "n1", 5))
    assert (b"fit", "n1", 5) == world.table.decision
    assert before != world.table.digest.hex()
    assert "unchanged" == world.do(CalibrateDecision(b"fit", "n2", 6)).outcome.status
    world.table.revert(change)
    assert (b"", before) == (world.table.decision.payload, world.table.digest.hex())
    assert "invalid_request" == world.code(CalibrateDecision(b"fit", "no node"))
    assert "invalid_request" == world.code(CalibrateDecision(b"x" * (DECISION_BYTES_MAX + 1)))


LEVEL_3: tuple[Mutation, ...] = (
    WHOLE,
    replace(route("a", "1"), confidence_min=0.0),
    ImportChunk("i", 0, (WHOLE,)),
    PatchRoute("a", confidence_min=None),
    PatchRoute("a", description=None),
    PatchRoute("a", negatives=()),
    PutSettings(Settings(threshold=None)),
    PutSettings(Settings(aggregation="adaptive")),
    PutSettings(Settings(confidence_min=0.5)),
    PutSettings(Settings(expected_unmatched_share=0.2)),
    PutSettings(Settings(ignore=("x",))),
    PutSettings(Settings(repair_words=True)),
    CalibrateDecision(b""),
)


@pytest.mark.parametrize("mutation", LEVEL_3)
def test_new_fields_need_level_3(mutation: Mutation) -> None:
    """A release that knows level 2 stops before such a frame instead of misreading it."""
    sent = Proposal(b"o" * 16, mutation)
    frame = encode_proposal(sent)

    assert (3, 3) == (level_of(mutation), frame[4])
    assert sent == decode_proposal(frame)


@pytest.mark.parametrize("mutation", LEVEL_3)
def test_log_below_level_3_rejects_them(mutation: Mutation) -> None:
    """Its databases have no place for them."""
    replica = fresh()
    opened = Proposal(b"f" * 16, OpenEpoch("b", 0, ("n1",), dim=2, level=2))
    replay(replica, [make_entry(Position(), encode_proposal(opened), opened, 0)])
    entries = log_of([proposal(mutation, 1), proposal(Finalize(LEVEL), 2)], replica.position)
    rejected, finalized = replay(replica, entries)

    assert ("rejected", "not_finalized") == (
        rejected.change.outcome.status,
        rejected.change.outcome.code,
    )
    assert ("applied", LEVEL) == (finalized.change.outcome.status, replica.level)


def test_founding_entry_sets_the_settings_of_its_level() -> None:
    """A log that is founded at a lower level keeps the settings of its releases."""
    for level, expected in (
        (1, Settings()),
        (2, Settings()),
        (3, FOUNDING_SETTINGS),
        (4, FOUNDING_SETTINGS),
    ):
        table = RouteTable(dim=2)
        opened = OpenEpoch("b", 0, ("n1",), level=level)
        table.apply(proposal(opened, 0), World().at)
        assert expected == table.settings

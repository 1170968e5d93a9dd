"""The tensor against the route table: rows, owners and derived data."""

from __future__ import annotations

import numpy as np
import pytest

from naive_scoring import naive_centroid
from route_sets import DIM, START, Node, arrays, loaded, put, record, row, unit_rows
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    PatchRoute,
    Proposal,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
)
from synaptoroute.core.table import RouteTable
from synaptoroute.exact import to_bytes
from synaptoroute.tensor import Tensor
from synaptoroute.tensor.blocks import BLOCK_SLOTS, group_by_route, plan_folds
from synaptoroute.tensor.rows import ADVANCE_ROWS, ChunkedArray, QuantizedRows
from synaptoroute.tensor.tensor import DEFERRED_ROWS_MAX

pytestmark = pytest.mark.unit


def test_empty_tensor_has_no_blocks() -> None:
    tensor = Tensor(DIM)

    assert [] == tensor.view().blocks
    assert (0, 0) == (tensor.slots_used, tensor.high_water_slots)


def test_put_route_is_visible_with_rows_texts_and_revision() -> None:
    node = Node()
    node.put("a", range(3))

    assert node.at == node.tensor.revision
    assert node.table.routes == dict(node.tensor.routes)
    assert ["text 0", "text 1", "text 2"] == [node.tensor.utterance_of(s) for s in range(3)]
    np.testing.assert_array_equal(row(1), node.tensor.vectors_of(np.array([1]))[0])


def test_any_history_gives_the_bytes_of_a_boot() -> None:
    """Add, remove, replace, delete and reuse leave no trace in rows or centroids."""
    node = Node()
    for number in range(6):
        node.put(f"r{number}", range(number * 10, number * 10 + 7))
    node.apply(AddUtterances("r1", ("x", "y"), (row(900).tobytes(), row(901).tobytes())))
    node.apply(RemoveUtterances("r2", ("text 21", "text 23")))
    node.apply(DeleteRoute("r0"))
    node.put("r3", range(200, 204))
    node.put("fresh", range(300, 312))
    node.apply(RemoveUtterances("r1", ("x",)))

    node.assert_as_rebuilt()


def test_view_is_kept_until_the_next_change() -> None:
    """Rows that are staged for a later change do not invalidate it."""
    node = Node()
    node.put("a", range(3))
    view = node.tensor.view()
    change = node.plan(put("b", range(10, 15)))
    node.tensor.fill(*arrays(change), node.at)
    between = node.tensor.view()
    node.tensor.apply(change, node.at, filled=True)

    assert view is between
    assert (1, 2) == (view.live_count, node.tensor.view().live_count)


def test_large_write_is_prepared_in_several_steps() -> None:
    """A query waits for one of them at most."""
    node = Node()
    node.put("a", range(DEFERRED_ROWS_MAX))
    node.put("b", range(1_000, 1_000 + DEFERRED_ROWS_MAX))
    steps = 0
    while node.tensor.is_behind:
        node.tensor.prepare()
        steps += 1

    assert steps == 3
    node.assert_as_rebuilt()


def test_slots_and_route_ids_are_reused() -> None:
    """500 updates of one route need no more rows than two of them."""
    node = Node(Settings(capacity_slots=4))
    for number in range(500):
        node.put("only", range(number % 5, number % 5 + 2))

    assert 2 == node.tensor.slots_used
    assert node.tensor.high_water_slots <= 4
    node.assert_as_rebuilt()


def test_id_of_a_deleted_route_is_reused() -> None:
    """The new route has its own centroid, with nothing of the old one."""
    node = Node()
    node.put("old", range(3))
    node.apply(DeleteRoute("old"))
    node.put("new", range(10, 12))

    assert "new" == node.tensor.record_of(0).name
    assert [True] == node.tensor.view().is_live.tolist()
    node.assert_as_rebuilt()


def test_route_is_replaced_in_its_own_slots_at_full_capacity() -> None:
    """Rows with a visible owner are overwritten if no other slot is left."""
    node = Node(Settings(capacity_slots=3))
    node.put("a", range(3))
    node.put("a", range(7, 10))

    assert 3 == node.tensor.slots_used
    node.assert_as_rebuilt()


def test_centroid_is_that_of_the_rows() -> None:
    """Unit length, and equal to a sum of integers."""
    node = Node()
    node.put("a", range(5))
    unit, mean_length = naive_centroid([row(seed) for seed in range(5)])

    np.testing.assert_array_equal(unit, node.tensor.view().centroids.read(np.array([0]))[0])
    assert mean_length == node.tensor.view().mean_norms[0]


def test_opposite_rows_have_a_zero_centroid() -> None:
    """A centroid without direction is similar to nothing."""
    vector = row(1)
    tensor = loaded(np.stack([vector, -vector]), [0, 0])

    np.testing.assert_array_equal(np.zeros(DIM), tensor.view().centroids.read(np.array([0]))[0])
    assert 0.0 == tensor.view().mean_norms[0]


def test_patch_changes_the_threshold_only() -> None:
    """A threshold of its own replaces the default, and can be removed again."""
    node = Node(Settings(threshold=0.25))
    node.put("a", range(3))
    before = node.tensor.checksum()
    node.apply(PatchRoute("a", threshold=0.75))
    own = float(node.tensor.view().thresholds[0])
    node.apply(PatchRoute("a", threshold=None))

    assert 0.75 == own
    assert 0.25 == node.tensor.view().thresholds[0]
    assert before == node.tensor.checksum()


def test_new_default_threshold_applies_to_routes_without_their_own() -> None:
    node = Node(Settings(threshold=0.25))
    node.put("a", range(3))
    node.put("b", range(3, 5))
    node.apply(PatchRoute("a", threshold=0.75))
    node.apply(PutSettings(Settings(threshold=0.5)))

    assert [0.75, 0.5] == node.tensor.view().thresholds.tolist()


def test_raised_capacity_moves_no_row() -> None:
    node = Node(Settings(capacity_slots=2))
    node.put("a", range(2))
    address = node.tensor.view().blocks[0].rows.ctypes.data
    node.apply(PutSettings(Settings(capacity_slots=100_000)))
    node.put("b", range(5, 9))

    assert address == node.tensor.view().blocks[0].rows.ctypes.data
    node.assert_as_rebuilt()


def test_filled_rows_are_invisible_until_apply() -> None:
    node = Node()
    node.put("a", range(3))
    before = node.tensor.checksum()
    change = node.plan(put("b", range(10, 15)))
    slots, vectors = arrays(change)
    node.tensor.fill(slots[:2], vectors[:2], node.at)
    node.tensor.fill(slots[2:], vectors[2:], node.at)
    between = node.tensor.checksum()
    node.tensor.apply(change, node.at, filled=True)

    assert before == between
    node.assert_as_rebuilt()


def test_fill_does_not_touch_visible_rows() -> None:
    """A full tensor overwrites them when the change becomes visible."""
    node = Node(Settings(capacity_slots=4))
    node.put("a", range(3))
    before = node.tensor.checksum()
    change = node.plan(put("a", range(10, 14)))
    node.tensor.fill(*arrays(change), node.at)
    between = node.tensor.checksum()
    node.tensor.apply(change, node.at, filled=True)

    assert before == between
    node.assert_as_rebuilt()


def test_fill_of_a_later_change_does_not_affect_the_next() -> None:
    """Rows that were filled for another change are written again."""
    node = Node()
    first = node.plan(put("a", range(4)))
    first_at = node.at
    second = node.plan(put("a", range(10, 14)))
    third = node.plan(put("b", range(20, 23)))
    node.tensor.fill(*arrays(first), first_at)
    node.tensor.fill(*arrays(third), node.at)
    node.tensor.apply(first, first_at, filled=True)
    shown = node.tensor.vectors_of(np.arange(4))
    node.tensor.apply(second, Revision(1, first_at.seq + 1))
    node.tensor.apply(third, node.at, filled=True)

    np.testing.assert_array_equal(np.stack([row(seed) for seed in range(4)]), shown)
    node.assert_as_rebuilt()


def test_load_replaces_everything() -> None:
    node = Node()
    node.put("a", range(5))
    other = Node()
    other.put("z", range(50, 52))
    slots = np.arange(2)
    rows = np.stack([row(50), row(51)])
    node.tensor.load(slots, rows, other.table.routes.values(), Settings(), other.at)

    assert ["z"] == list(node.tensor.routes)
    assert other.tensor.checksum() == node.tensor.checksum()


def test_rows_in_several_chunks_are_read_and_written() -> None:
    """Slots on both sides of a chunk's border keep their own rows."""
    slots = np.array([65_534, 65_535, 65_536, 131_072], np.int64)
    rows = unit_rows(4, DIM)
    tensor = Tensor(DIM)
    tensor.load(slots, rows, [record(0, slots.tolist())], Settings(), START)

    np.testing.assert_array_equal(rows, tensor.vectors_of(slots))
    np.testing.assert_array_equal(rows[::-1], tensor.vectors_of(slots[::-1]))
    assert 131_073 == tensor.high_water_slots
    assert [61_440, 65_536, 131_072] == [block.base_slot for block in tensor.view().blocks]


def test_folds_read_owned_slots_only() -> None:
    node = Node()
    for number in range(4):
        node.put(f"r{number}", range(number * 10, number * 10 + 5))
    node.apply(RemoveUtterances("r1", ("text 11", "text 12")))
    after_removal = folded_slots(node.tensor)
    node.apply(DeleteRoute("r2"))

    assert [*range(6), *range(8, 20)] == after_removal
    assert [*range(6), *range(8, 10), *range(15, 20)] == folded_slots(node.tensor)
    assert [0, 1, 3] == node.tensor.view().blocks[0].route_ids.tolist()


def folded_slots(tensor: Tensor) -> list[int]:
    """Slots that the first level of the folds reads."""
    left, right = tensor.view().blocks[0].folds[0]
    return sorted({*left.tolist(), *right.tolist()})


def test_hot_add_builds_only_the_blocks_it_touches() -> None:
    """The other blocks are the same objects afterwards."""
    rows = unit_rows(3 * BLOCK_SLOTS, DIM)
    tensor = loaded(rows, [slot % 7 for slot in range(len(rows))])
    before = tensor.view().blocks
    table = RouteTable.restore(
        Settings(), DIM, tuple(tensor.routes.values()), hashes(len(rows)), ()
    )
    at = Revision(1, 2)
    tensor.apply(table.apply(Proposal(b"a" * 16, put("new", range(3))), at), at)
    after = tensor.view().blocks

    assert before[0] is after[0]
    assert before[2] is after[2]
    assert 4 == len(after)


def hashes(count: int) -> dict[int, bytes]:
    return {slot: bytes(16) for slot in range(count)}


@pytest.mark.parametrize("route_id_max", [9, 70_000])
def test_grouping_by_route_skips_free_slots(route_id_max: int) -> None:
    """Both sorts list owned slots by route, then by slot."""
    owners = np.array([3, -1, 0, 3, -1, 0, 9], np.int32)

    assert [2, 5, 0, 3, 6] == group_by_route(owners, route_id_max)[0].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_folds_leave_the_maximum_of_every_route(seed: int) -> None:
    random = np.random.default_rng(seed)
    owners = random.integers(-1, 6, 50).astype(np.int32)
    values = random.standard_normal((50, 3))
    order, starts, route_ids = group_by_route(owners, 6)
    folds = plan_folds(order, starts)
    part = values
    for left, right in folds:
        part = np.maximum(part[left], part[right])

    assert sorted(set(owners.tolist()) - {-1}) == route_ids.tolist()
    for route_id, found in zip(route_ids.tolist(), part, strict=True):
        np.testing.assert_array_equal(values[owners == route_id].max(axis=0), found)
    np.testing.assert_array_equal(np.maximum.reduceat(values[order], starts, axis=0), part)


def assert_quantized_rows_match_rows(tensor: Tensor) -> None:
    """Every row is rounded, and none lost more than ``lost_max``."""
    quantized = tensor.view().quantized
    spans = quantized.spans(tensor.view().slot_stop)
    assert spans is not None
    for block in tensor.view().blocks:
        owned = block.rows[block.order]
        rounded = np.empty(owned.shape, np.int8)
        lost, sums = to_bytes(owned, rounded)
        span = max(
            (each for each in spans if each.first_slot <= block.base_slot),
            key=lambda each: each.first_slot,
        )
        places = block.base_slot - span.first_slot + block.order

        assert lost.max() <= quantized.lost_max
        np.testing.assert_array_equal(rounded, span.rows()[places])
        np.testing.assert_array_equal(sums, span.sums.reshape(-1)[places])


def test_quantized_rows_follow_every_change() -> None:
    """Rows that are put, filled, replaced and freed."""
    node = Node()
    node.put("a", range(5))
    change = node.plan(put("b", range(10, 15)))
    node.tensor.fill(*arrays(change), node.at)
    node.tensor.apply(change, node.at, filled=True)
    node.put("a", range(20, 29))

    assert_quantized_rows_match_rows(node.tensor)


def test_bytes_of_scattered_rows_stand_in_their_blocks() -> None:
    """In any order, over several blocks, beside rows that were written before."""
    random = np.random.default_rng(3)
    rows = ChunkedArray(DIM, 1_024, np.float32)
    quantized = QuantizedRows(rows)
    for count in (700, 300, 40, 1):
        slots = random.permutation(2_000)[:count]
        vectors = unit_rows(count, DIM, count)
        rows.write(slots, vectors)
        quantized.write(slots, vectors)
    spans = quantized.spans(2_000)
    assert spans is not None
    rounded = np.empty((2_000, DIM), np.int8)
    _, sums = to_bytes(rows.read(np.arange(2_000)), rounded)

    assert [0, 1_024] == [span.first_slot for span in spans]
    np.testing.assert_array_equal(rounded, np.concatenate([each.rows() for each in spans])[:2_000])
    np.testing.assert_array_equal(
        sums, np.concatenate([each.sums.reshape(-1) for each in spans])[:2_000]
    )


def test_rows_of_a_boot_are_quantized_later_in_slices() -> None:
    """Until all are rounded there are no spans."""
    rows = unit_rows(2 * ADVANCE_ROWS + 100, DIM)
    tensor = loaded(rows, [slot % 7 for slot in range(len(rows))])
    tensor.view()
    steps = 0
    while not tensor.view().quantized.is_ready:
        tensor.prepare()
        steps += 1

    assert 3 == steps
    assert_quantized_rows_match_rows(tensor)


def test_second_boot_quantizes_again() -> None:
    """A resync during the rounding leaves no row of the state before."""
    tensor = loaded(unit_rows(ADVANCE_ROWS + 100, DIM), [0] * (ADVANCE_ROWS + 100))
    tensor.prepare()
    rows = unit_rows(ADVANCE_ROWS + 1, DIM, 5)
    tensor.load(np.arange(len(rows)), rows, [record(0, range(len(rows)))], Settings(), START)
    while not tensor.view().quantized.is_ready:
        tensor.prepare()

    assert_quantized_rows_match_rows(tensor)

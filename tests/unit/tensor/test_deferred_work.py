"""Deferred work, and derived data that a boot takes over: the bytes never differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from histories import DIM, put
from route_sets import keep_rows, loaded, rebuilt, unit_rows
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    Mutation,
    PatchRoute,
    Proposal,
    RemoveUtterances,
    Revision,
    Settings,
)
from synaptoroute.core.table import RouteTable
from synaptoroute.tensor import Tensor
from synaptoroute.tensor.centroids import DEFERRED_ROUTES_MAX
from synaptoroute.tensor.rows import ADVANCE_ROWS, ByteSpan

pytestmark = pytest.mark.unit

ROUTES = 6


class Rebooted:
    """A node that booted with derived data and goes on."""

    def __init__(self) -> None:
        self.table = RouteTable(Settings(), DIM)
        self.rows: dict[int, bytes] = {}
        self.at = Revision(1, 0)
        for seed in range(ROUTES):
            self.plan(put(f"r{seed}", 3, seed))
        derived = rebuilt(self.table, self.rows, DIM, self.at).derived()
        slots = sorted(self.rows)
        stored = b"".join(self.rows[slot] for slot in slots)
        vectors = np.frombuffer(stored, np.float32).reshape(-1, DIM)
        packed = np.frombuffer(derived, np.uint8)
        routes, settings = self.table.routes.values(), self.table.settings
        self.tensor = Tensor(DIM, settings)
        self.tensor.load(np.array(slots), vectors, routes, settings, self.at, packed)

    def plan(self, mutation: Mutation):  # type: ignore[no-untyped-def]
        """Enact in the table and the dictionary only."""
        self.at = Revision(1, self.at.seq + 1)
        change = self.table.apply(Proposal(self.at.seq.to_bytes(16, "big"), mutation), self.at)
        keep_rows(self.rows, change)
        return change

    def apply(self, mutation: Mutation) -> None:
        """Enact everywhere."""
        self.tensor.apply(self.plan(mutation), self.at)

    def checksum(self) -> str:
        """Return the tensor's checksum, equal to that of a boot from the rows alone."""
        computed = rebuilt(self.table, self.rows, DIM, self.at).checksum()
        assert computed == self.tensor.checksum()
        return computed


def test_unpacked_centroids_are_those_of_the_rows() -> None:
    node = Rebooted()

    assert node.checksum()


@pytest.mark.parametrize(
    "mutation",
    [
        put("new", 2, 50),
        put("r2", 4, 60),
        AddUtterances("r3", ("more",), put("x", 1, 70).vectors),
        RemoveUtterances("r4", ("r4 4 utterance 1",)),
        PatchRoute("r1", threshold=0.25),
        DeleteRoute("r0"),
    ],
)
def test_changed_route_has_the_centroid_of_its_rows(mutation: Mutation) -> None:
    """Its deferred sum is computed before its rows change."""
    node = Rebooted()
    node.apply(mutation)
    node.checksum()
    node.apply(put("r3", 3, 80))

    assert node.checksum()


def test_reused_route_id_has_no_deferred_sum() -> None:
    """It ends with the deleted route."""
    node = Rebooted()
    node.apply(DeleteRoute("r0"))
    node.apply(put("next", 2, 90))
    node.apply(put("next", 3, 91))

    assert node.checksum()


def test_deferred_sums_are_computed_by_prepare() -> None:
    """Bytes first, then sums; nothing is left afterwards, and no result changed."""
    node = Rebooted()
    before = node.checksum()
    steps = 0
    while node.tensor.is_behind:
        node.tensor.prepare()
        steps += 1

    assert 0 < steps <= 3
    assert before == node.checksum()
    node.apply(AddUtterances("r3", ("more",), put("x", 1, 70).vectors))
    assert node.checksum()


def test_many_deferred_sums_are_computed_in_slices() -> None:
    """A query waits for one of them at most."""
    count = 3 * ADVANCE_ROWS
    rows, owners = unit_rows(count, DIM), [slot // 8 for slot in range(count)]
    donor = loaded(rows, owners)
    tensor = Tensor(DIM)
    packed = np.frombuffer(donor.derived(), np.uint8)
    routes, at = donor.routes.values(), donor.revision
    tensor.load(np.arange(count), rows, routes, donor.settings, at, packed)
    while not tensor.view().quantized.is_ready:
        tensor.prepare()
    steps = 0
    while tensor.is_behind:
        tensor.prepare()
        steps += 1

    assert 3 == steps
    assert donor.checksum() == tensor.checksum()


def test_derived_data_of_another_route_set_is_rejected() -> None:
    """Its length differs; the centroids are then computed from the rows."""
    rows = unit_rows(12, DIM)
    donor, other = loaded(rows, [slot // 4 for slot in range(12)]), loaded(rows, [0] * 12)
    tensor = Tensor(DIM)
    packed = np.frombuffer(other.derived(), np.uint8)
    routes, at = donor.routes.values(), donor.revision
    tensor.load(np.arange(12), rows, routes, donor.settings, at, packed)

    assert donor.checksum() == tensor.checksum()


def test_derived_data_as_large_as_the_rows_is_not_kept() -> None:
    """Such as the centroids of routes with one utterance."""
    assert b"" == loaded(unit_rows(3, DIM), [0, 1, 2]).derived()


def test_deferred_work_gives_the_same_result_while_idle_or_by_a_query() -> None:
    idle, busy = Rebooted(), Rebooted()
    for node in (idle, busy):
        while node.tensor.is_behind:
            node.tensor.prepare()
        for mutation in (put("new", 2, 50), AddUtterances("r3", ("m",), put("x", 1, 70).vectors)):
            node.apply(mutation)
    steps = 0
    while idle.tensor.is_behind:
        idle.tensor.prepare()
        steps += 1
    planned = idle.tensor.view().blocks

    assert 1 == steps, "bytes, centroids and the block in one step"
    assert [id(each) for each in planned] == [id(each) for each in idle.tensor.view().blocks]
    for one, other in zip(quantized_spans(idle.tensor), quantized_spans(busy.tensor), strict=True):
        np.testing.assert_array_equal(one.rows()[: len(idle.rows)], other.rows()[: len(idle.rows)])
    np.testing.assert_array_equal(idle.tensor.view().mean_norms, busy.tensor.view().mean_norms)
    assert idle.checksum() == busy.checksum()


def quantized_spans(tensor: Tensor) -> Sequence[ByteSpan]:
    """All rows as bytes."""
    view = tensor.view()
    spans = view.quantized.spans(view.slot_stop)
    assert spans is not None
    return spans


def test_deferred_centroids_are_limited() -> None:
    """However many writes follow on each other."""
    node = Rebooted()
    for number in range(DEFERRED_ROUTES_MAX + 9):
        node.apply(put(f"n{number}", 1, 1_000 + number))

    assert len(node.tensor._centroids._deferred) <= DEFERRED_ROUTES_MAX
    assert node.checksum()


def test_folds_are_computed_for_the_first_batch() -> None:
    """A lone query does not need them."""
    block = Rebooted().tensor.view().blocks[0]

    assert () == block._folds
    assert 2 == len(block.folds)
    assert block.folds is block.folds

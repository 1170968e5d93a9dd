"""Rankings after any history equal those of the reference.

Random mutations go through the real table; a tensor applies its changes, at once or
filled in slices before.  Rows come from a small pool with duplicates and vectors that
differ in one last bit, so that ties and near-ties are common.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from naive_scoring import naive_rank
from route_sets import keep_rows, loaded, rebuilt, unit_rows
from synaptoroute.core.change import Change
from synaptoroute.core.mutation import (
    AGGREGATIONS,
    AddUtterances,
    Aggregation,
    CalibrateDecision,
    DeleteRoute,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PatchRoute,
    Proposal,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
)
from synaptoroute.core.table import RouteTable
from synaptoroute.decision import DecisionCalibration, Metric, ScoreWeights
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

DIM = 5
CAPACITY_SLOTS = 14


def vector_pool() -> NDArray[np.float32]:
    """Unit vectors: some plain, some changed by one bit, one reversed."""
    plain = unit_rows(5, DIM, 1)
    nudged = plain[:3].copy()
    nudged[:, 0] = np.nextafter(nudged[:, 0], np.float32(0))
    return np.concatenate([plain, nudged, -plain[:1]])


POOL = vector_pool()
TEXTS = tuple(f"text {number}" for number in range(6))
NAMES = st.sampled_from(("a", "b", "c", "d", "e"))
VECTORS = st.sampled_from([row.tobytes() for row in POOL])
CONFIDENCES = st.sampled_from((None, 0.0, 0.1, 0.5, 0.9))
THRESHOLDS = st.sampled_from((None, -1.0, 0.0, 0.3, 0.7, 0.999))


@st.composite
def more(draw: st.DrawFn) -> dict[str, Any]:
    """A description and negatives, often neither."""
    negatives = draw(st.lists(st.sampled_from(("not", "never")), max_size=2, unique=True))
    is_described = draw(st.booleans())
    return {
        "description": "about" if is_described else None,
        "description_vector": draw(VECTORS) if is_described else b"",
        "negatives": tuple(negatives),
        "negative_vectors": tuple(draw(VECTORS) for _ in negatives),
        "confidence_min": draw(CONFIDENCES),
    }


@st.composite
def fits(draw: st.DrawFn) -> CalibrateDecision:
    """Numbers of a fit that may belong to the aggregation in use, to another one, or to none."""
    kind: Aggregation = draw(st.sampled_from(AGGREGATIONS))
    number = st.floats(0.05, 1.0)
    weights, metric = None, b""
    if kind == "adaptive" and draw(st.booleans()):
        weights = ScoreWeights(draw(number), draw(number), -draw(number), draw(number), -0.5)
        rank = draw(st.integers(0, 3))
        gains = np.array([draw(st.floats(0.0, 0.9)) for _ in range(rank)])
        random = np.random.default_rng(draw(st.integers(0, 9)))
        directions = random.integers(-127, 128, (DIM, rank)).astype(np.int8)
        metric = Metric(draw(number), draw(number), gains, directions).dump()
    spread = (draw(number), draw(number), draw(number), draw(number))
    calibration = DecisionCalibration(
        "1.1", "", kind, 2, 4, draw(st.floats(1.0, 60.0)), *spread,
        cohesion_mean=0.5, cohesion_slope=draw(number), weights=weights, metric=metric,
    )  # fmt: skip
    return CalibrateDecision(draw(st.sampled_from((b"", b"junk", calibration.dump()))))


@st.composite
def puts(draw: st.DrawFn) -> PutRoute:
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5, unique=True))
    vectors = tuple(draw(VECTORS) for _ in texts)
    return PutRoute(draw(NAMES), tuple(texts), vectors, draw(THRESHOLDS), **draw(more()))


@st.composite
def adds(draw: st.DrawFn) -> AddUtterances:
    put = draw(puts())
    return AddUtterances(put.name, put.utterances, put.vectors)


@st.composite
def imports(draw: st.DrawFn) -> list[Mutation]:
    parts = draw(st.lists(puts(), min_size=1, max_size=3, unique_by=lambda put: put.name))
    begin = ImportBegin("import", replace=draw(st.booleans()))
    return [begin, ImportChunk("import", 0, tuple(parts)), ImportCommit("import", 1)]


SETTINGS = st.builds(
    Settings,
    aggregation=st.sampled_from(AGGREGATIONS),
    topk=st.integers(1, 4),
    threshold=st.sampled_from((-1.0, 0.2, 0.6, None)),
    confidence_min=CONFIDENCES,
    expected_unmatched_share=st.sampled_from((0.1, 0.5)),
    capacity_slots=st.just(CAPACITY_SLOTS),
)
SINGLE: st.SearchStrategy[Mutation] = st.one_of(
    puts(),
    adds(),
    st.builds(DeleteRoute, NAMES),
    st.builds(
        RemoveUtterances,
        NAMES,
        st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True).map(tuple),
    ),
    st.builds(PatchRoute, NAMES, threshold=THRESHOLDS),
    st.builds(lambda name, fields: PatchRoute(name, **fields), NAMES, more()),
    st.builds(PutSettings, SETTINGS),
    fits(),
)
STEPS = st.lists(st.one_of(SINGLE.map(lambda one: [one]), imports()), min_size=1, max_size=12)
SPECS = st.builds(
    QuerySpec,
    limit=st.integers(1, 6),
    routes=st.none() | st.frozensets(st.integers(-1, 7), max_size=5),
)


@st.composite
def query_vectors(draw: st.DrawFn) -> NDArray[np.float32]:
    """A vector of the pool, or the middle between two of them."""
    left, right = POOL[draw(st.integers(0, 8))], POOL[draw(st.integers(0, 7))]
    middle = left + right
    length = float(np.linalg.norm(middle))
    return left if length < 1e-3 else (middle / length).astype(np.float32)


QUERIES = st.lists(st.tuples(query_vectors(), SPECS), min_size=1, max_size=6)


@dataclass
class Node:
    """A table, a tensor that follows it, and the rows in a dictionary."""

    table: RouteTable
    tensor: Tensor
    rows: dict[int, bytes] = field(default_factory=dict)
    at: Revision = field(default_factory=lambda: Revision(1, 0))

    def apply(self, mutation: Mutation, fill_rows: int | None) -> None:
        """Apply to table and tensor, filled before in slices of ``fill_rows`` if given."""
        self.at = Revision(1, self.at.seq + 1)
        op_id = self.at.seq.to_bytes(16, "big")
        change = self.table.apply(Proposal(op_id, mutation), self.at)
        keep_rows(self.rows, change)
        if fill_rows is not None:
            before = self.tensor.checksum()
            self._fill(change, fill_rows)
            assert before == self.tensor.checksum()
        self.tensor.apply(change, self.at, filled=fill_rows is not None)

    def _fill(self, change: Change, fill_rows: int) -> None:
        for start in range(0, len(change.writes), fill_rows):
            part = change.writes[start : start + fill_rows]
            slots = np.array([write.slot for write in part], np.int64)
            vectors = np.frombuffer(b"".join(write.vector for write in part), np.float32)
            owners = np.array([write.owner for write in part], np.int64)
            self.tensor.fill(slots, vectors.reshape(len(part), DIM), self.at, owners)

    def vectors(self) -> dict[int, NDArray[np.float32]]:
        """The rows as arrays."""
        return {slot: np.frombuffer(row, np.float32) for slot, row in self.rows.items()}


def assert_rankings_equal_the_reference(
    node: Node, queries: list[tuple[NDArray[np.float32], QuerySpec]], scratch: Scratch
) -> None:
    """Every ranking of the batch equals the reference, bit for bit."""
    routes = list(node.table.routes.values())
    batch = np.stack([query for query, _ in queries])
    calibration = node.tensor.view().calibration
    found = rank(node.tensor, batch, [spec for _, spec in queries], scratch)
    for (query, spec), ranking in zip(queries, found, strict=True):
        expected = naive_rank(node.vectors(), routes, node.table.settings, query, spec, calibration)
        assert expected == ranking


SCRATCHES = st.booleans().map(
    lambda in_bytes: Scratch(integer_product() if in_bytes else None, bytes_rows_min=0),
)


@settings(max_examples=150)
@given(SETTINGS, STEPS, QUERIES, st.sampled_from((None, 1, 3)), SCRATCHES)
def test_rankings_equal_the_reference_after_any_history(
    start: Settings,
    steps: list[list[Mutation]],
    queries: list[tuple[NDArray[np.float32], QuerySpec]],
    fill_rows: int | None,
    scratch: Scratch,
) -> None:
    """After every mutation: the rankings of the reference, and the bytes of a fresh boot."""
    node = Node(RouteTable(start, DIM), Tensor(DIM, start))
    for step in steps:
        for mutation in step:
            node.apply(mutation, fill_rows)
        assert_rankings_equal_the_reference(node, queries, scratch)
        booted = rebuilt(node.table, node.rows, DIM, node.at)

        assert booted.checksum() == node.tensor.checksum()
        assert dict(node.table.routes) == dict(node.tensor.routes)
        assert len(node.rows) == node.tensor.slots_used


@given(
    SETTINGS,
    st.lists(st.integers(-1, 30), min_size=1, max_size=80),
    st.lists(st.tuples(query_vectors(), SPECS), min_size=1, max_size=9),
    st.integers(0, 2**31),
    SCRATCHES,
)
def test_rankings_of_ties_equal_the_reference(
    route_set: Settings,
    owners: list[int],
    queries: list[tuple[NDArray[np.float32], QuerySpec]],
    seed: int,
    scratch: Scratch,
) -> None:
    """Eighty rows of nine kinds in up to thirty-one routes."""
    chosen = np.random.default_rng(seed).integers(0, len(POOL), len(owners))
    tensor = loaded(POOL[chosen], owners, route_set)
    routes = list(tensor.routes.values())
    vectors = dict(enumerate(POOL[chosen]))
    batch = np.stack([q for q, _ in queries])
    found = rank(tensor, batch, [spec for _, spec in queries], scratch)

    for (query, spec), ranking in zip(queries, found, strict=True):
        assert naive_rank(vectors, routes, route_set, query, spec) == ranking

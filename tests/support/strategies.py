"""Values of the core for hypothesis: small pools, so that they collide often."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from synaptoroute.core.feedback import FeedbackSettings, write_feedback_settings
from synaptoroute.core.mutation import (
    AGGREGATIONS,
    KEEP,
    AddUtterances,
    Calibrate,
    CalibrateDecision,
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Proposal,
    PutFeedback,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    ReviseRoutes,
    Revision,
    RouteRevision,
    Settings,
)

DIM = 2
CAPACITY_SLOTS = 12
"""Small, so that logs run into it."""

NAMES = st.sampled_from(["billing", "refund", "cancel order", "a.b:c-d_e", "z"])
TEXTS = st.sampled_from(
    ["where is my bill", "Rechnung für März", "请退款", "🙂", "line\nbreak", 'a "quote"', "\\u0000"]
)
ANY_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20
)
NEGATIVES = st.sampled_from(["not this", "keine Rechnung", "where is my bill", "🙂 no"])
VECTORS = st.sampled_from([struct.pack("<2f", *row) for row in ((1, 0), (0, 1), (0.6, 0.8))])
THRESHOLDS = st.none() | st.sampled_from([-1.0, -0.0, 0.0, 0.25, 1.0, 1])
CONFIDENCES = st.none() | st.sampled_from([-0.0, 0.0, 0.5, 1.0, 1])
METADATA = st.sampled_from(["{}", '{"a":1}', '{"b":[{"ü":null}]}'])
PAYLOADS = st.sampled_from(["null", "[]", '"text"', "1.5"])
IMPORT_IDS = st.sampled_from(["spring", "summer"])
REQUEST_HASHES = st.sampled_from([b"", b"a" * 16, b"b" * 16])


@st.composite
def rows(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """Distinct utterances with one vector each."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=5, unique=True))
    vectors = draw(st.lists(VECTORS, min_size=len(texts), max_size=len(texts)))
    return tuple(texts), tuple(vectors)


@st.composite
def more_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A description and negatives, each with its vector; often neither."""
    description = draw(st.none() | TEXTS)
    negatives = draw(st.lists(NEGATIVES, max_size=3, unique=True))
    return {
        "description": description,
        "description_vector": b"" if description is None else draw(VECTORS),
        "negatives": tuple(negatives),
        "negative_vectors": tuple(draw(VECTORS) for _ in negatives),
    }


@st.composite
def put_routes(draw: st.DrawFn) -> PutRoute:
    """A whole route."""
    texts, vectors = draw(rows())
    more = draw(st.just({}) | more_rows())
    return PutRoute(
        draw(NAMES),
        texts,
        vectors,
        draw(THRESHOLDS),
        draw(METADATA),
        draw(PAYLOADS),
        draw(CONFIDENCES),
        **more,
    )


@st.composite
def patches(draw: st.DrawFn) -> PatchRoute:
    """A change of some fields of a route that may not exist."""
    more = draw(more_rows())
    if draw(st.booleans()):
        more |= {"description": KEEP, "description_vector": b""}
    if draw(st.booleans()):
        more |= {"negatives": KEEP, "negative_vectors": ()}
    return PatchRoute(
        draw(NAMES),
        draw(st.just(KEEP) | THRESHOLDS),
        draw(st.just(KEEP) | METADATA),
        draw(st.just(KEEP) | PAYLOADS),
        draw(st.just(KEEP) | CONFIDENCES),
        **more,
    )


@st.composite
def additions(draw: st.DrawFn) -> AddUtterances:
    """Utterances for a route that may not exist."""
    texts, vectors = draw(rows())
    return AddUtterances(draw(NAMES), texts, vectors)


QUEUES = st.sampled_from(
    [
        "",
        *(
            write_feedback_settings(each)
            for each in (FeedbackSettings(), FeedbackSettings(2, 0.5, True, ("email", "ü")))
        ),
    ]
)
SETTINGS = st.builds(
    Settings,
    aggregation=st.sampled_from(AGGREGATIONS),
    topk=st.integers(1, 100),
    threshold=st.sampled_from([-1.0, -0.0, 0.0, 0.5, None]),
    capacity_slots=st.integers(1, 2 * CAPACITY_SLOTS),
    cascade=st.sampled_from([True, False, "auto"]),
    feedback=QUEUES,
    confidence_min=st.sampled_from([None, None, -0.0, 0.5, 1]),
    expected_unmatched_share=st.sampled_from([0.1, 0.1, 0.001, 0.5]),
    ignore=st.sampled_from([(), (), ("^\\[system\\]", "ü+")]),
    repair_words=st.booleans(),
)
CALIBRATIONS = st.sampled_from(['{"at":"1.1"}', "{}"])
IMPORTS = st.one_of(
    st.builds(ImportBegin, IMPORT_IDS, st.booleans()),
    st.builds(
        ImportChunk,
        IMPORT_IDS,
        st.integers(0, 3),
        st.lists(put_routes(), max_size=3).map(tuple),
    ),
    st.builds(ImportCommit, IMPORT_IDS, st.integers(0, 3)),
    st.builds(ImportAbort, IMPORT_IDS),
)
ROUTE_MUTATIONS = st.one_of(
    put_routes(),
    st.builds(DeleteRoute, NAMES),
    additions(),
    st.builds(RemoveUtterances, NAMES, st.lists(TEXTS, max_size=3).map(tuple)),
    patches(),
)
ITEM_IDS = st.sampled_from(["0" * 16, "1" * 16, "a" * 16])
FEEDBACK = st.builds(
    PutFeedback,
    ITEM_IDS,
    st.just("") | TEXTS,
    st.none() | NAMES,
    st.none() | NAMES,
    st.integers(0, 2**53 - 1),
)


@st.composite
def revisions(draw: st.DrawFn) -> ReviseRoutes:
    """Changes of several routes, some of which may not exist."""
    routes = []
    for name in sorted(draw(st.sets(NAMES, max_size=3))):
        texts, vectors = draw(rows() | st.just(((), ())))
        threshold = draw(st.just(KEEP) | THRESHOLDS)
        negatives, negative_vectors = draw(rows() | st.just(((), ())))
        revised = RouteRevision(
            name,
            texts,
            vectors,
            is_new=draw(st.booleans()),
            threshold=threshold,
            confidence_min=draw(st.just(KEEP) | st.none() | st.sampled_from([0.0, 0.5, 1.0])),
            negatives=negatives,
            negative_vectors=negative_vectors,
        )
        routes.append(revised)
    resolved = tuple(sorted(draw(st.sets(ITEM_IDS, max_size=2))))
    return ReviseRoutes(tuple(routes), resolved, draw(st.none() | st.none() | SETTINGS))


MUTATIONS = st.one_of(
    ROUTE_MUTATIONS,
    ROUTE_MUTATIONS,
    IMPORTS,
    st.builds(PutSettings, SETTINGS)
    | st.builds(Calibrate, CALIBRATIONS)
    | st.builds(
        CalibrateDecision,
        st.sampled_from([b"", b"fit", bytes(range(256))]),
        st.sampled_from(["", "n1"]),
        st.integers(0, 3),
    ),
    FEEDBACK | revisions(),
)
EPOCH_OPENINGS = st.builds(
    OpenEpoch,
    epoch_id=ANY_TEXT,
    base_seq=st.integers(0, 2**53 - 1),
    voters=st.lists(ANY_TEXT, max_size=3).map(tuple),
    fingerprint=ANY_TEXT,
    dim=st.integers(0, 65_536),
)


OP_COUNT = 60


def op_ids(op_count: int) -> st.SearchStrategy[bytes]:
    """Identities of writes; the fewer there are, the more writes are repeated."""
    return st.integers(0, op_count - 1).map(lambda n: n.to_bytes(16, "big"))


def proposals(
    mutations: st.SearchStrategy[Mutation] = MUTATIONS, op_count: int = OP_COUNT
) -> st.SearchStrategy[Proposal]:
    """Proposals, some repeated, some with conditions, some of them impossible."""
    return st.builds(
        Proposal,
        op_id=op_ids(op_count),
        mutation=mutations,
        request_hash=REQUEST_HASHES,
        if_match=st.sampled_from([None] * 9 + [Revision(1, 2), Revision(1, 4), Revision(1, 7)]),
        if_none_match=st.sampled_from([False] * 9 + [True]),
    )


@st.composite
def whole_imports(draw: st.DrawFn, op_count: int = OP_COUNT) -> list[Proposal]:
    """An import from its opening to its commit, its chunks in any order."""
    import_id = draw(IMPORT_IDS)
    numbers = draw(st.integers(0, 3).flatmap(lambda n: st.permutations(range(n))))
    parts = st.lists(put_routes(), max_size=2).map(tuple)
    mutations: list[Mutation] = [
        ImportBegin(import_id, draw(st.booleans())),
        *(ImportChunk(import_id, number, draw(parts)) for number in numbers),
        ImportCommit(import_id, len(numbers)),
    ]
    return [Proposal(draw(op_ids(op_count)), mutation) for mutation in mutations]


@st.composite
def logs(draw: st.DrawFn, pieces_max: int = 15, op_count: int = OP_COUNT) -> list[Proposal]:
    """Proposals of clients, in log order."""
    single = proposals(op_count=op_count).map(lambda each: [each])
    piece = st.one_of(single, single, single, whole_imports(op_count))
    count = draw(st.integers(0, pieces_max))
    pieces = draw(st.lists(piece, min_size=count, max_size=count))
    return [proposal for piece in pieces for proposal in piece]

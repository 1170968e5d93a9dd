"""Logs over several route sets for hypothesis."""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import strategies as st

from replicas import proposal
from strategies import DIM, ITEM_IDS, TEXTS, logs
from synaptoroute.core.erasure import text_hash
from synaptoroute.core.feedback import FeedbackSettings, write_feedback_settings
from synaptoroute.core.imports import generation_id
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import (
    CalibrateDecision,
    DeleteAlias,
    DeleteRoute,
    DeleteSet,
    EraseTexts,
    Finalize,
    ForkSet,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    Proposal,
    PutAlias,
    PutFeedback,
    PutRoute,
    PutSet,
    PutSettings,
    PutTests,
    SetLimits,
    SetTest,
    Settings,
    SwitchEncoder,
)

SETS = st.sampled_from(["support", "support@2", "sales"])
NAMES = SETS | st.sampled_from(["live", "default", "ghost"])
LIMITS = st.builds(SetLimits, utterances_max=st.sampled_from([0, 3]), routes_max=st.just(0))
SHARES = st.sampled_from([0.0, 0.25, 1.0])
SET_MUTATIONS = st.one_of(
    st.builds(PutSet, SETS, LIMITS),
    st.builds(
        PutSet,
        SETS,
        st.builds(SetLimits, routes_max=st.integers(0, 3)),
        st.just(frozenset(SetLimits.__dataclass_fields__) - {"routes_max"}),
    ),
    st.builds(ForkSet, NAMES, SETS),
    st.builds(DeleteSet, NAMES),
    st.builds(PutAlias, st.just("live"), NAMES, st.just("") | NAMES, SHARES),
    st.builds(DeleteAlias, st.just("live")),
    st.builds(EraseTexts, TEXTS.map(lambda text: (text_hash(text),))),
)
TESTS = st.lists(st.builds(SetTest, TEXTS, st.none() | st.just("billing")), max_size=3,
                 unique_by=lambda test: test.text)  # fmt: skip
OF_SETS = SET_MUTATIONS | st.builds(PutTests, TESTS.map(tuple), st.just(("gone",)), st.booleans())
"""Every mutation that level 5 brings."""
RAISED = proposal(Finalize(SETS_LEVEL), 999_999)


@st.composite
def set_logs(draw: st.DrawFn) -> list[Proposal]:
    """A log at the level of route sets, with changes of sets between those of routes."""
    found = [RAISED]
    for index, each in enumerate(draw(logs())):
        if isinstance(each.mutation, OpenEpoch | SwitchEncoder):
            found.append(each)
            continue
        if draw(st.integers(0, 2)) == 0:
            found.append(proposal(draw(SET_MUTATIONS), 10_000 + index, note=draw(st.sampled_from(
                ["", "why"]))))  # fmt: skip
        if draw(st.integers(0, 4)) == 0:
            put = PutTests(tuple(draw(TESTS)), replace=draw(st.booleans()))
            found.append(proposal(put, 20_000 + index, route_set=draw(NAMES)))
        found.append(replace(each, route_set=draw(st.just("") | NAMES)))
    return found


# --- logs in which most entries are applied -----------------------------------------------------

NEXT_ENCODER = generation_id("b" * 64, DIM)
QUEUE = write_feedback_settings(FeedbackSettings())
FULL_SETS = st.sampled_from(["", "support", "sales"])
ANY_SET = FULL_SETS | st.sampled_from(["copy", "copy@2"])
POOL = ("where is my bill", "Rechnung für März", "请退款", "🙂", "not this", "keine Rechnung")
ONES = struct.pack(f"<{DIM}f", *[1.0] * DIM)


def _whole_route() -> st.SearchStrategy[PutRoute]:
    return st.builds(
        lambda name, texts, more, confidence: PutRoute(
            name,
            tuple(texts),
            tuple(struct.pack(f"<{DIM}f", *[len(text)] * DIM) for text in texts),
            confidence_min=confidence,
            **more,
        ),
        st.sampled_from(["billing", "refund", "z"]),
        st.lists(st.sampled_from(POOL[:4]), min_size=1, max_size=3, unique=True),
        st.sampled_from(
            [
                {},
                {"description": POOL[0], "description_vector": ONES},
                {"negatives": POOL[4:], "negative_vectors": (ONES, ONES)},
            ]
        ),
        st.none() | st.just(0.5),
    )


STEPS = st.one_of(
    st.tuples(ANY_SET, _whole_route()),
    st.tuples(ANY_SET, _whole_route()),
    st.tuples(ANY_SET, st.builds(DeleteRoute, st.just("billing"))),
    st.tuples(ANY_SET, st.builds(PutFeedback, ITEM_IDS, TEXTS, st.none(), st.none(), st.just(7))),
    st.tuples(ANY_SET, st.builds(CalibrateDecision, st.sampled_from([b"fit", b""]))),
    st.tuples(ANY_SET, st.builds(PutTests, st.lists(
        st.builds(SetTest, st.sampled_from(POOL), st.none() | st.just("z")),
        min_size=1, max_size=3, unique_by=lambda test: test.text).map(tuple))),
    st.tuples(ANY_SET, st.builds(ImportBegin, st.just("i"))),
    st.tuples(ANY_SET, st.builds(
        ImportChunk, st.just("i"), st.integers(0, 1), st.tuples(_whole_route()))),
    st.tuples(ANY_SET, st.builds(ImportCommit, st.just("i"), st.just(1))),
    st.tuples(ANY_SET, st.builds(ImportAbort, st.just("i"))),
    st.tuples(st.just(""), st.builds(
        ForkSet, st.sampled_from(["default", "support", "sales", "copy"]),
        st.sampled_from(["copy", "copy@2"]))),
    st.tuples(st.just(""), st.builds(
        DeleteSet, st.sampled_from(["copy", "copy", "copy@2", "sales"]))),
    st.tuples(st.just(""), st.builds(PutSet, st.sampled_from(["sales", "support"]), LIMITS)),
    st.tuples(st.just(""), st.builds(
        PutAlias, st.sampled_from(["live", "next"]), st.sampled_from(["support", "copy"]),
        st.just("") | st.just("default"), SHARES)),
    st.tuples(st.just(""), st.builds(DeleteAlias, st.just("live"))),
    st.tuples(st.just(""), st.builds(
        EraseTexts, st.sampled_from(POOL).map(lambda text: (text_hash(text),)))),
    st.tuples(st.just(""), st.just(SwitchEncoder(NEXT_ENCODER))),
)  # fmt: skip


@st.composite
def busy_set_logs(draw: st.DrawFn) -> list[Proposal]:
    """A log over sets that all have content, with forks, removals and a change of the encoder."""
    part = PutRoute("z", POOL, (ONES,) * len(POOL))
    founding: list[tuple[str, Mutation]] = [
        ("", Finalize(SETS_LEVEL)),
        ("", PutSet("support")),
        ("", PutSet("sales")),
        *((name, PutSettings(Settings(feedback=QUEUE))) for name in ("", "support")),
        *((name, draw(_whole_route())) for name in ("", "support", "sales")),
    ]
    if draw(st.booleans()):  # an open generation keeps its texts from being erased
        founding += [
            ("", ImportBegin(NEXT_ENCODER)),
            ("", ImportChunk(NEXT_ENCODER, 0, (part,))),
        ]
    count = draw(st.integers(0, 25))
    steps = draw(st.lists(STEPS, min_size=count, max_size=count))
    return [
        proposal(mutation, index, route_set=name)
        for index, (name, mutation) in enumerate([*founding, *steps])
    ]

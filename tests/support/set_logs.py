"""Logs over several route sets for hypothesis."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from replicas import proposal
from strategies import TEXTS, logs
from synaptoroute.core.erasure import text_hash
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import (
    DeleteAlias,
    DeleteSet,
    EraseTexts,
    Finalize,
    ForkSet,
    OpenEpoch,
    Proposal,
    PutAlias,
    PutSet,
    PutTests,
    SetLimits,
    SetTest,
    SwitchEncoder,
)

SETS = st.sampled_from(["support", "support@2", "sales"])
NAMES = SETS | st.sampled_from(["live", "default", "ghost"])
LIMITS = st.builds(SetLimits, utterances_max=st.sampled_from([0, 3]), routes_max=st.just(0))
SHARES = st.sampled_from([0.0, 0.25, 1.0])
SET_MUTATIONS = st.one_of(
    st.builds(PutSet, SETS, LIMITS),
    st.builds(PutSet, SETS, LIMITS),
    st.builds(ForkSet, NAMES, SETS),
    st.builds(DeleteSet, NAMES),
    st.builds(PutAlias, st.just("live"), NAMES, st.just("") | NAMES, SHARES),
    st.builds(DeleteAlias, st.just("live")),
    st.builds(EraseTexts, TEXTS.map(lambda text: (text_hash(text),))),
)
TESTS = st.lists(st.builds(SetTest, TEXTS, st.none() | st.just("billing")), max_size=3,
                 unique_by=lambda test: test.text)  # fmt: skip
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

"""The content root: equal states have equal roots, different states have different ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicas import EMPTY, fresh, log_of, replay
from set_logs import busy_set_logs, set_logs
from strategies import DIM, logs
from synaptoroute.core import content as content_module
from synaptoroute.core import replica as replica_module
from synaptoroute.core.change import Commit, EpochRecord, FittedDecision, Snapshot
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.content import ContentRoot, root_of
from synaptoroute.core.mutation import (
    Finalize,
    ForkSet,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    Position,
    Proposal,
    PutAlias,
    PutRoute,
    PutSet,
    PutTests,
    Revision,
    SetLimits,
    SetTest,
    Settings,
    VoterAdd,
)

pytestmark = pytest.mark.property

over_logs = settings(max_examples=40)


@over_logs
@given(logs(), logs())
def test_updated_root_equals_that_of_the_snapshot(
    head: list[Proposal], tail: list[Proposal]
) -> None:
    """The root after each entry is that of the state, also when it began at a snapshot."""
    replica = fresh()
    root = ContentRoot(EMPTY, "f", DIM)
    entries = log_of(head)
    for entry in entries:
        for commit in replay(replica, [entry]):
            root.apply(commit)
        assert root.hex() == root_of(replica.snapshot(), "f", replica.table.dim)
    restored = ContentRoot(replica.snapshot(), "f", DIM, replica.table.hash_of_chunk)
    for commit in replay(replica, log_of(tail, after=replica.position)):
        root.apply(commit)
        restored.apply(commit)
    assert root.hex() == restored.hex() == root_of(replica.snapshot(), "f", replica.table.dim)


@settings(max_examples=30, deadline=None)
@given(busy_set_logs(), set_logs())
def test_updated_root_of_many_sets_equals_that_of_the_snapshot(
    head: list[Proposal], tail: list[Proposal]
) -> None:
    """Sets are created, copied, changed and removed, tests and aliases too, encoders switched."""
    replica = fresh()
    root, encoder = ContentRoot(EMPTY, "f", DIM), ("f", DIM)
    for entry in log_of(head):
        for commit in replay(replica, [entry]):
            root.apply(commit)
            encoder = _encoder_after(commit, encoder)
        assert root.hex() == root_of(replica.snapshot(), *encoder)
    restored = ContentRoot(replica.snapshot(), *encoder)
    for commit in replay(replica, log_of(tail, after=replica.position)):
        root.apply(commit)
        restored.apply(commit)
        encoder = _encoder_after(commit, encoder)
    assert root.hex() == restored.hex() == root_of(replica.snapshot(), *encoder)


def _encoder_after(commit: Commit, encoder: tuple[str, int]) -> tuple[str, int]:
    changed = commit.change.encoder
    return encoder if changed is None else (changed.fingerprint, changed.dim)


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 60))
def test_root_forgets_outcomes_with_the_window(window: int, count: int) -> None:
    """An outcome outside the idempotency window has no influence on the root."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (content_module, replica_module):
            patch.setattr(module, "IDEMPOTENCY_WINDOW_ENTRIES", window)
        replica, root = fresh(), ContentRoot(EMPTY, "f", DIM)
        proposals = [
            Proposal((n % 50).to_bytes(16, "big"), VoterAdd(f"n{n % 3}")) for n in range(count)
        ]
        for commit in replay(replica, log_of(proposals)):
            root.apply(commit)
        assert root.hex() == root_of(replica.snapshot(), "f", DIM)


def test_root_changes_with_the_level() -> None:
    """Finalizing is part of the content, in memory as in a snapshot."""
    replica, root = fresh(), ContentRoot(EMPTY, "f", DIM)
    finalize = Proposal(bytes([1] * 16), Finalize(LEVEL + 1, (("n1", "a" * 64),)))
    for commit in replay(replica, log_of([finalize])):
        root.apply(commit)
    assert replica.level == LEVEL + 1
    assert root.hex() == root_of(replica.snapshot(), "f", DIM)


def _state() -> Snapshot:
    replica = fresh()
    mutations = (
        PutRoute("a", ("x", "y"), (bytes(4 * DIM), bytes(4 * DIM))),
        PutRoute("b", ("z",), (bytes(4 * DIM),), 0.5, '{"a":1}', "2"),
        ImportBegin("i"),
        ImportChunk("i", 0, (PutRoute("c", ("w",), (bytes(4 * DIM),)),)),
        PutTests((SetTest("x", "a"),)),
        PutSet("support"),
        ForkSet("default", "support@2"),
        PutAlias("live", "support", "support@2", 0.5),
    )
    proposals = [Proposal(bytes([n] * 16), each) for n, each in enumerate(mutations, 1)]
    replay(replica, log_of(proposals))
    return replica.snapshot()


def _altered(state: Snapshot) -> dict[str, Snapshot]:
    route, outcome, staged = state.routes[0], state.remembered[-1], state.imports[0]
    epoch = state.epochs[0]

    def with_epoch(**fields: Any) -> Snapshot:
        opened = replace(epoch.opened, **fields)
        return replace(state, epochs=(EpochRecord(epoch.epoch, opened),))

    def with_set(**fields: Any) -> Snapshot:
        first, second = state.sets
        return replace(state, sets=(first, replace(second, **fields)))

    copy, alias = state.sets[1], state.aliases[0]
    assert state.record is not None
    at = state.position
    hashes = dict(state.row_hashes)
    return {
        "row": replace(state, row_hashes=hashes | {0: bytes(15) + b"x"}),
        "row added": replace(state, row_hashes=hashes | {9: bytes(15) + b"x"}),
        "row removed": replace(state, row_hashes={k: v for k, v in hashes.items() if k}),
        "route": replace(state, routes=(route._replace(payload="1"), *state.routes[1:])),
        "route removed": replace(state, routes=state.routes[1:]),
        "setting": replace(state, settings=Settings(threshold=0.1)),
        "position": replace(state, position=Position(at.epoch, at.seq, "0" * 40)),
        "epoch number": replace(state, position=Position(2, at.seq, at.chain)),
        "outcome removed": replace(state, remembered=state.remembered[:-1]),
        "outcome": replace(
            state, remembered=(*state.remembered[:-1], outcome._replace(request_hash=b"x"))
        ),
        "import removed": replace(state, imports=()),
        "import": replace(state, imports=(replace(staged, touched_seq=1),)),
        "chunk removed": replace(state, imports=(replace(staged, chunks=()),)),
        "voters": with_epoch(voters=("n1", "n2")),
        "ballot": with_epoch(epoch_id="other"),
        "level": replace(state, level=2),
        "confidence": replace(
            state, routes=(route._replace(confidence_min=0.5), *state.routes[1:])
        ),
        "decision": replace(state, decision=FittedDecision(b"fit")),
        "voter keys": replace(state, voter_keys=(("n1", "a" * 64),)),
        "fingerprint": with_epoch(fingerprint="g"),
        "set removed": replace(state, sets=state.sets[:1]),
        "set renumbered": with_set(record=copy.record._replace(number=3)),
        "set renamed": with_set(record=copy.record._replace(name="x")),
        "set limited": with_set(record=copy.record._replace(limits=SetLimits(routes_max=1))),
        "revision of a set": with_set(record=copy.record._replace(revision=Revision(1, 1))),
        "row of a set": with_set(row_hashes={**copy.row_hashes, 0: bytes(15) + b"x"}),
        "route of a set": with_set(routes=copy.routes[1:]),
        "setting of a set": with_set(settings=Settings(threshold=0.1)),
        "decision of a set": with_set(decision=FittedDecision(b"fit")),
        "tests of a set": with_set(tests=()),
        "import of a set": with_set(imports=state.imports),
        "test": replace(state, tests=(SetTest("x", "b"),)),
        "record": replace(state, record=state.record._replace(revision=Revision(1, 1))),
        "alias removed": replace(state, aliases=()),
        "alias": replace(state, aliases=(alias._replace(shadow_share=0.25),)),
        "history of an alias": replace(state, aliases=(alias._replace(history=()),)),
        "epoch removed": replace(state, epochs=()),
        "epoch added": replace(state, epochs=(epoch, EpochRecord(2, OpenEpoch("x", 1)))),
    }


@pytest.mark.parametrize("what", list(_altered(_state())))
def test_altered_state_has_another_root(what: str) -> None:
    """Whatever of a state is changed, the root changes."""
    state = _state()
    assert root_of(state, "f", DIM) == root_of(_state(), "f", DIM)
    assert root_of(_altered(state)[what], "f", DIM) != root_of(state, "f", DIM)


def test_other_encoder_has_another_root() -> None:
    """The encoder of the rows is part of the content."""
    state = _state()
    assert len({root_of(state, "f", DIM), root_of(state, "g", DIM), root_of(state, "f", 5)}) == 3

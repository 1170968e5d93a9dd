"""Storage equals memory after random histories with random restarts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histories import (
    DIM,
    FINGERPRINT,
    History,
    as_stored,
    assert_holds,
    follow,
    held_vectors,
    put,
    vector,
)
from replicas import log_of
from set_logs import busy_set_logs
from strategies import DIM as SMALL_DIM
from synaptoroute.core.change import Commit
from synaptoroute.core.content import root_of
from synaptoroute.core.mutation import (
    AddUtterances,
    Aggregation,
    DeleteRoute,
    Entry,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PatchRoute,
    Proposal,
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.core.replica import Replica
from synaptoroute.snapshot_file import read_content
from synaptoroute.storage import SQLiteStorage, Stored

pytestmark = pytest.mark.property

NAMES = st.sampled_from(["a", "b", "c", "d"])
SEEDS = st.integers(0, 5)
COUNTS = st.integers(1, 4)
IMPORTS = st.sampled_from(["i1", "i2"])
AGGREGATIONS: st.SearchStrategy[Aggregation] = st.sampled_from(["blend", "topk"])
TEXTS = st.text(min_size=1, max_size=8).filter(lambda text: "\x00" not in text and _is_utf8(text))


def _is_utf8(text: str) -> bool:
    return text.encode("utf-8", "ignore").decode() == text


MUTATIONS: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(put, NAMES, COUNTS, SEEDS),
    st.builds(DeleteRoute, NAMES),
    st.builds(
        lambda name, texts: AddUtterances(
            name, tuple(texts), tuple(vector(len(text)) for text in texts)
        ),
        NAMES,
        st.lists(TEXTS, min_size=1, max_size=3, unique=True),
    ),
    st.builds(
        lambda name, seed: RemoveUtterances(name, (f"{name} {seed} utterance 0",)), NAMES, SEEDS
    ),
    st.builds(
        PatchRoute,
        NAMES,
        threshold=st.none() | st.floats(-1, 1),
        payload=st.sampled_from(["null", '{"k":1}']),
    ),
    st.builds(
        lambda how, least, capacity: PutSettings(Settings(how, 3, least, capacity)),
        AGGREGATIONS,
        st.floats(-1, 1),
        st.integers(1, 40),
    ),
    st.builds(ImportBegin, IMPORTS, st.booleans()),
    st.builds(
        lambda import_id, chunk, part: ImportChunk(import_id, chunk, (part,)),
        IMPORTS,
        st.integers(0, 2),
        st.builds(put, NAMES, COUNTS, SEEDS),
    ),
    st.builds(ImportCommit, IMPORTS, st.integers(0, 3)),
    st.builds(ImportAbort, IMPORTS),
)
GROUPS = st.lists(st.lists(MUTATIONS, min_size=1, max_size=6), min_size=1, max_size=8)


@settings(max_examples=60)
@given(groups=GROUPS, restarts=st.sets(st.integers(0, 7)), oplog_max=st.integers(1, 20))
def test_reopened_storage_equals_memory(
    groups: list[list[Mutation]], restarts: set[int], oplog_max: int
) -> None:
    """After any history with any restarts, file and memory hold the same state."""
    with tempfile.TemporaryDirectory() as folder:
        history = History()
        storage = SQLiteStorage(
            Path(folder) / "node.sqlite", oplog_entries_max=oplog_max, synchronous="normal"
        )
        storage.open(fingerprint=FINGERPRINT, dim=DIM)
        try:
            for number, group in enumerate(groups):
                storage.commit(history.write(*group))
                if number in restarts:
                    storage.close()
                    assert_holds(storage.open(fingerprint=FINGERPRINT, dim=DIM), history)
            storage.close()
            stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
            log = storage.read_log(
                max(0, history.replica.position.seq - oplog_max),
                entries_max=100,
                bytes_max=1 << 20,
            )
        finally:
            storage.close()

    assert_holds(stored, history)
    assert min(oplog_max, history.replica.position.seq) == len(log)
    assert history.replica.position.chain == log[-1].chain


@settings(max_examples=30, deadline=None)
@given(
    log=busy_set_logs(), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), data=st.data()
)
def test_reopened_storage_of_many_sets_equals_memory(
    log: list[Proposal], sizes: list[int], data: st.DataObject
) -> None:
    """Whatever happens to sets, in whatever groups, file, memory and snapshot are the same."""
    replica, vectors = Replica(dim=SMALL_DIM), dict[int, bytes]()
    entries = log_of(log)
    with tempfile.TemporaryDirectory() as folder:
        storage = SQLiteStorage(Path(folder) / "node.sqlite", synchronous="off")
        storage.open(fingerprint=FINGERPRINT, dim=SMALL_DIM)
        try:
            for size in sizes:
                group, entries = entries[:size], entries[size:]
                _commit(storage, replica, group, vectors)
                if data.draw(st.booleans()):
                    if data.draw(st.booleans()):
                        storage.checkpoint()
                    _assert_same(_reopened(storage), replica, vectors)
            copy, other = Path(folder) / "snapshot", SQLiteStorage(Path(folder) / "other.sqlite")
            position = storage.snapshot_to(copy)
            root = root_of(replica.snapshot(), *storage.encoder)
            assert (position, root) == (replica.position, read_content(copy).root)
            encoders = {storage.encoder[0]: storage.encoder[1]}
            other.open(fingerprint=FINGERPRINT, dim=SMALL_DIM, standby_encoders=encoders)
            _assert_same(other.install(copy, root=root), replica, vectors)
            other.replace_all(_reopened(storage))
            _assert_same(_reopened(other), replica, vectors)
            other.close()
        finally:
            storage.close()


def _commit(
    storage: SQLiteStorage, replica: Replica, entries: list[Entry], vectors: dict[int, bytes]
) -> None:
    commits: list[Commit] = []
    for entry in entries:
        for commit in replica.receive(entry).commits:
            commits.append(commit)
            follow(commit.change, vectors)
            if commit.change.encoder is not None:
                storage.commit(commits)
                commits = []
    storage.commit(commits)
    replica.advance()


def _reopened(storage: SQLiteStorage) -> Stored:
    storage.close()
    return storage.open_stored()


def _assert_same(stored: Stored, replica: Replica, vectors: dict[int, bytes]) -> None:
    assert stored.snapshot == as_stored(replica.snapshot())
    assert stored.digest == replica.digest
    assert held_vectors(stored) == vectors
    assert {number: each.hex() for number, each in stored.sums.items()} == {
        number: table.digest.hex() for number, table in replica.sets.tables.items()
    }

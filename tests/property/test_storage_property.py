"""Storage equals memory after random histories with random restarts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histories import DIM, FINGERPRINT, History, assert_holds, put, vector
from synaptoroute.core.mutation import (
    AddUtterances,
    Aggregation,
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    PatchRoute,
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.storage import SQLiteStorage

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

"""Replacing all vectors of a database by those of another encoder, all or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from histories import (
    DIM,
    FINGERPRINT,
    NEXT,
    NEXT_DIM,
    History,
    assert_holds,
    held_vectors,
    opened,
    put,
    rich_history,
    vector,
)
from synaptoroute.core.mutation import DeleteRoute
from synaptoroute.errors import ConfigError, InvalidVector, StorageUnavailable
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with closing(opened(tmp_path / "node.sqlite")) as storage:
        yield storage


def encode_some(storage: SQLiteStorage, rows_max: int) -> int:
    """Re-embed rows as a migration does; the vector follows from the text."""
    rows = [
        (slot, vector(len(text) * 1_000 + slot, NEXT_DIM))
        for slot, text in storage.re_embedding.missing(rows_max)
    ]
    storage.re_embedding.put(rows)
    return len(rows)


def test_re_embedding_continues_after_every_restart(storage: SQLiteStorage) -> None:
    """Closed after each chunk, it loses nothing and swaps everything at once."""
    history = rich_history(storage)
    assert 38 == storage.re_embedding.begin(NEXT, NEXT_DIM).total_slots
    done = []
    while encode_some(storage, 10):
        storage.close()
        storage.open(fingerprint=FINGERPRINT, dim=DIM)
        pending = storage.re_embedding.begin(NEXT, NEXT_DIM)
        done.append(pending.done_slots)
    swapped = storage.re_embedding.finish()
    storage.close()
    stored = storage.open(fingerprint=NEXT, dim=NEXT_DIM)
    texts = {slot: text for route in stored.snapshot.routes for slot, _, text in route.rows()}

    assert [10, 20, 30, 38] == done
    assert history.replica.table.routes == {r.name: r for r in stored.snapshot.routes}
    assert {s: vector(len(t) * 1_000 + s, NEXT_DIM) for s, t in texts.items()} == held_vectors(
        stored
    )
    assert swapped.digest == stored.digest
    assert np.array_equal(swapped.vectors, stored.vectors)
    assert history.replica.position == stored.snapshot.position
    assert () == stored.snapshot.imports
    assert storage.re_embedding.pending() is None
    assert [] == storage.read_log(0, entries_max=10, bytes_max=1 << 20)


def test_row_that_changed_during_re_embedding_is_encoded_again(storage: SQLiteStorage) -> None:
    """The vector of a former text is never swapped in."""
    history = History()
    storage.commit(history.write(put("a", 4), put("b", 4, 1)))
    storage.re_embedding.begin(NEXT, NEXT_DIM)
    encode_some(storage, 100)
    storage.commit(history.write(DeleteRoute("a"), put("c", 2, 2)))
    with pytest.raises(ConfigError, match="not re-encoded"):
        storage.re_embedding.finish()
    again = [slot for slot, _ in storage.re_embedding.missing(100)]
    encode_some(storage, 100)
    swapped = storage.re_embedding.finish()

    assert sorted(history.replica.table.routes["c"].slots) == again
    assert {"b", "c"} == {route.name for route in swapped.snapshot.routes}


def test_re_embedding_for_a_third_encoder_starts_over(storage: SQLiteStorage) -> None:
    """The vectors of the second encoder are dropped."""
    rich_history(storage)
    storage.re_embedding.begin(NEXT, NEXT_DIM)
    encode_some(storage, 10)
    other = storage.re_embedding.begin("c" * 64, NEXT_DIM)

    assert ("c" * 64, 0) == (other.fingerprint, other.done_slots)


def test_corrupt_new_vector_is_not_swapped_in(storage: SQLiteStorage) -> None:
    """New vectors are verified before the swap; the old ones stay in place."""
    history = rich_history(storage)
    storage.re_embedding.begin(NEXT, NEXT_DIM)
    encode_some(storage, 100)
    storage._opened().writer.execute("UPDATE slot_next SET vector = zeroblob(48) WHERE slot = 4")
    with pytest.raises(StorageUnavailable) as caught:
        storage.re_embedding.finish()
    pending = storage.re_embedding.pending()
    storage.close()

    assert "corrupt" == caught.value.fields["reason"]
    assert pending is not None
    assert 0 == pending.done_slots
    assert_holds(storage.open(fingerprint=FINGERPRINT, dim=DIM), history)


def test_invalid_calls_are_refused(storage: SQLiteStorage) -> None:
    """Wrong dimensions, unknown slots and the same encoder are errors."""
    storage.commit(History().write(put("a")))
    with pytest.raises(ConfigError, match="already"):
        storage.re_embedding.begin(FINGERPRINT, DIM)
    with pytest.raises(ConfigError, match="begun"):
        storage.re_embedding.finish()
    storage.re_embedding.begin(NEXT, NEXT_DIM)
    with pytest.raises(InvalidVector):
        storage.re_embedding.put([(0, vector(1, DIM))])
    with pytest.raises(ConfigError, match="no owner"):
        storage.re_embedding.put([(0, vector(1, NEXT_DIM)), (99, vector(1, NEXT_DIM))])
    pending = storage.re_embedding.pending()

    assert pending is not None
    assert 0 == pending.done_slots

"""The embedding cache, the inbox, pending writes and version waiters."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from synaptoroute.errors import NotReady, StorageUnavailable
from synaptoroute.replication.applier import PendingWrites
from synaptoroute.serving.embedding_cache import EmbeddingCache
from synaptoroute.serving.version_waiters import VersionWaiters
from synaptoroute.threads import Inbox, refuse

pytestmark = pytest.mark.unit

OP = b"o" * 16


def row(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full(4, value, dtype=np.float32)


def test_full_cache_replaces_the_least_recently_used_row() -> None:
    """A full cache gives up the row that was unused the longest."""
    cache = EmbeddingCache(2, 4)
    cache.put(b"a", row(1))
    cache.put(b"b", row(2))
    assert cache.get(b"a") is not None
    cache.put(b"c", row(3))
    found = {key: cache.get(key) for key in (b"a", b"b", b"c")}

    assert found[b"b"] is None
    assert [1.0, 3.0] == [each[0] for each in (found[b"a"], found[b"c"]) if each is not None]
    assert (2, 3, 1) == (len(cache), cache.hits, cache.misses)


def test_cached_row_is_a_copy() -> None:
    """A row that a worker holds does not change when it is given to another text."""
    cache = EmbeddingCache(1, 4)
    cache.put(b"a", row(1))
    held = cache.get(b"a")
    cache.put(b"b", row(2))
    assert held is not None

    assert [1.0] * 4 == held.tolist()


def test_cache_without_rows_is_off() -> None:
    """Zero rows switch the cache off."""
    cache = EmbeddingCache(0, 4)
    cache.put(b"a", row(1))

    assert cache.get(b"a") is None


def test_repeated_key_takes_no_second_row() -> None:
    """Two workers that encode one text use one row."""
    cache = EmbeddingCache(2, 4)
    for value in (1, 2, 3):
        cache.put(b"a", row(value))
    cache.put(b"b", row(9))
    found = cache.get(b"a")
    assert found is not None

    assert (2, 3.0) == (len(cache), found[0])


def test_cache_is_correct_with_many_threads() -> None:
    """A key never returns the row of another key."""
    cache = EmbeddingCache(8, 4)
    wrong: list[int] = []

    def use(seed: int) -> None:
        for number in range(2_000):
            value = (number * seed) % 23
            found = cache.get(bytes([value]))
            if found is not None and found.tolist() != [float(value)] * 4:
                wrong.append(value)
            cache.put(bytes([value]), row(value))

    threads = [threading.Thread(target=use, args=(seed,)) for seed in (1, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == wrong
    assert 8 == len(cache)


def test_inbox_returns_its_items_and_then_none() -> None:
    """Items put before the close are returned; later ones are refused."""
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    inbox.put_all([2, 3])
    inbox.close()
    inbox.close()
    with pytest.raises(NotReady):
        inbox.put(4)
    taken = [inbox.get() for _ in range(4)]
    with pytest.raises(queue.Empty):
        inbox.get_nowait()

    assert [1, 2, 3, None] == taken


def test_closed_inbox_returns_the_items_that_are_left() -> None:
    """Items that no thread will take can be refused."""
    inbox: Inbox[int] = Inbox()
    inbox.put_all([1, 2])

    assert [1, 2] == inbox.close_and_drop()
    assert [] == inbox.close_and_drop()


def test_item_put_during_the_close_is_taken_or_refused() -> None:
    """No item is lost when puts race with the close."""
    for _ in range(200):
        inbox: Inbox[int] = Inbox()
        accepted: list[int] = []

        def put(inbox: Inbox[int] = inbox, accepted: list[int] = accepted) -> None:
            for number in range(50):
                try:
                    inbox.put(number)
                except NotReady:
                    return
                accepted.append(number)

        thread = threading.Thread(target=put)
        thread.start()
        left = inbox.close_and_drop()
        thread.join()

        assert accepted == left


def test_refused_call_raises_unless_it_was_cancelled() -> None:
    """The error is raised where the call is awaited."""
    waiting: Future[int] = Future()
    left: Future[int] = Future()
    left.cancel()
    refuse(waiting)
    refuse(left)
    with pytest.raises(NotReady):
        waiting.result(0)

    assert left.cancelled()


def test_each_waiter_gets_its_own_error() -> None:
    """Two callers that wait for one write get equal errors, but not the same object."""
    waiters = PendingWrites()
    futures = [waiters.expect(OP), waiters.expect(OP)]
    waiters.fail(OP, StorageUnavailable("full", reason="disk_full", retry_after_seconds=5.0))
    errors = [future.exception(0) for future in futures]

    assert errors[0] is not errors[1]
    assert {("full", "disk_full", 5.0)} == {
        (each.message, each.fields["reason"], each.retry_after_seconds)
        for each in errors
        if isinstance(each, StorageUnavailable)
    }
    assert 0 == len(waiters)


def test_forgotten_waiter_leaves_nothing_behind() -> None:
    """Only the waiter that gave up is forgotten; a late outcome does no harm."""
    waiters = PendingWrites()
    futures = [waiters.expect(OP), waiters.expect(OP)]
    waiters.forget(OP, futures[0])
    waiters.fail(OP, NotReady("stopped"))
    waiters.forget(OP, futures[1])
    waiters.fail(OP, NotReady("stopped"))

    assert [False, True] == [future.done() for future in futures]
    assert 0 == len(waiters)


def test_waiter_cannot_be_cancelled_from_outside() -> None:
    """Only the engine ends a wait."""
    waiters = PendingWrites()
    future = waiters.expect(OP)

    assert not future.cancel()
    waiters.fail_all(NotReady("stopped"))
    assert isinstance(future.exception(0), NotReady)


def test_version_waiters_are_resolved_once_and_in_order() -> None:
    """A waiter is resolved when its version or a later one is visible."""
    versions = VersionWaiters()
    futures = [versions.expect(seq) for seq in (5, 3, 9, 3)]
    versions.forget(futures[3])
    versions.reach(4)
    at_four = [future.done() for future in futures]
    versions.reach(9)

    assert [False, True, False, False] == at_four
    assert [True, True, True, False] == [future.done() for future in futures]
    assert 0 == len(versions)


def test_version_waiters_are_correct_with_many_threads() -> None:
    """Waits that are given up while others are resolved disturb neither."""
    versions = VersionWaiters()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            for seq in range(3_000):
                versions.forget(versions.expect(seq))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        versions.reach(10_000)
    for thread in threads:
        thread.join()

    assert [] == errors
    assert 0 == len(versions)


def test_inbox_get_times_out() -> None:
    """The thread can do other work then."""
    inbox: Inbox[int] = Inbox()
    with pytest.raises(queue.Empty):
        inbox.get(0.001)
    inbox.put(1)

    assert 1 == inbox.get(0.001)

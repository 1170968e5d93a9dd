"""The small parts of the engine: inbox, waiters, cache."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from synaptoroute.errors import NotReady, StorageUnavailable
from synaptoroute.replication.pending_writes import PendingWrites
from synaptoroute.serving.embedding_cache import EmbeddingCache
from synaptoroute.serving.scorer import VersionWaiters
from synaptoroute.threads import Inbox, refuse

pytestmark = pytest.mark.unit

OP = b"o" * 16


def row(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full(4, value, dtype=np.float32)


def test_cache_keeps_what_was_used_last() -> None:
    """A full cache gives up the row that was not asked for the longest."""
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
    """What a lane holds does not change when its row is given to another text."""
    cache = EmbeddingCache(1, 4)
    cache.put(b"a", row(1))
    held = cache.get(b"a")
    cache.put(b"b", row(2))
    assert held is not None

    assert [1.0] * 4 == held.tolist()


def test_cache_of_no_rows_keeps_nothing() -> None:
    """Zero rows switch the cache off."""
    cache = EmbeddingCache(0, 4)
    cache.put(b"a", row(1))

    assert cache.get(b"a") is None


def test_repeated_key_takes_no_second_row() -> None:
    """Two lanes that encode one text leave one row behind."""
    cache = EmbeddingCache(2, 4)
    for value in (1, 2, 3):
        cache.put(b"a", row(value))
    cache.put(b"b", row(9))
    found = cache.get(b"a")
    assert found is not None

    assert (2, 3.0) == (len(cache), found[0])


def test_cache_holds_under_many_threads() -> None:
    """Whatever threads do, a key never gives another key's row."""
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


def test_inbox_gives_what_it_took_and_then_its_end() -> None:
    """What was put before the close is taken out; nothing enters after it."""
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


def test_inbox_that_lost_its_thread_gives_back_what_is_left() -> None:
    """What nobody will take any more is handed out to be refused."""
    inbox: Inbox[int] = Inbox()
    inbox.put_all([1, 2])

    assert [1, 2] == inbox.close_and_drop()
    assert [] == inbox.close_and_drop()


def test_nothing_slips_in_behind_the_end() -> None:
    """However puts race with the close, each is either taken or refused."""
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


def test_refused_call_tells_who_waits_and_spares_who_left() -> None:
    """A call that will not be made raises where it is waited for."""
    waiting: Future[int] = Future()
    left: Future[int] = Future()
    left.cancel()
    refuse(waiting)
    refuse(left)
    with pytest.raises(NotReady):
        waiting.result(0)

    assert left.cancelled()


def test_waiters_get_errors_of_their_own() -> None:
    """Two who wait for one write get equal errors that are not the same object."""
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
    """Who gives up is forgotten alone; a late answer finds nobody and harms nothing."""
    waiters = PendingWrites()
    futures = [waiters.expect(OP), waiters.expect(OP)]
    waiters.forget(OP, futures[0])
    waiters.fail(OP, NotReady("stopped"))
    waiters.forget(OP, futures[1])
    waiters.fail(OP, NotReady("stopped"))

    assert [False, True] == [future.done() for future in futures]
    assert 0 == len(waiters)


def test_cancelled_waiter_does_not_stop_the_answering_thread() -> None:
    """Cancelling from outside changes nothing: only the engine ends a wait."""
    waiters = PendingWrites()
    future = waiters.expect(OP)

    assert not future.cancel()
    waiters.fail_all(NotReady("stopped"))
    assert isinstance(future.exception(0), NotReady)


def test_versions_are_announced_once_and_in_order() -> None:
    """Who waits for a version hears of it when it or a later one is visible."""
    versions = VersionWaiters()
    futures = [versions.expect(seq) for seq in (5, 3, 9, 3)]
    versions.forget(futures[3])
    versions.reach(4)
    at_four = [future.done() for future in futures]
    versions.reach(9)

    assert [False, True, False, False] == at_four
    assert [True, True, True, False] == [future.done() for future in futures]
    assert 0 == len(versions)


def test_versions_hold_under_forgetting_threads() -> None:
    """Waits that are given up while others are announced disturb neither side."""
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


def test_inbox_that_stays_empty_is_waited_for_as_long_as_asked() -> None:
    """Then there is time for something else."""
    inbox: Inbox[int] = Inbox()
    with pytest.raises(queue.Empty):
        inbox.get(0.001)
    inbox.put(1)

    assert 1 == inbox.get(0.001)

"""Lifecycle: starting, stopping and failing leave nothing open, locked or waiting."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from routers import WAIT_SECONDS, route, running
from synaptoroute.core.mutation import Revision
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import ConfigError, EncoderMismatch, NotReady, StorageUnavailable
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage, Stored
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit


class SlowStorage(SQLiteStorage):
    """Real storage whose opening waits for an event."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_open = threading.Event()
        self.is_opening = threading.Event()

    def open(
        self, *, fingerprint: str, dim: int, standby_encoders: Mapping[str, int] | None = None
    ) -> Stored:
        self.is_opening.set()
        assert self.may_open.wait(WAIT_SECONDS)
        return super().open(fingerprint=fingerprint, dim=dim, standby_encoders=standby_encoders)


async def assert_not_locked(path: Path) -> None:
    """Another router can open the file."""
    async with running(path) as router:
        await router.aput_route(route("unlocked"))


def test_library_works_without_an_event_loop(tmp_path: Path) -> None:
    """Before start everything runs on the caller's thread, and no thread is started."""
    before = set(threading.enumerate())
    router = AdaptiveRouter(HashEncoder(), SQLiteStorage(tmp_path / "node.sqlite"))
    router.add_route(route("alpha", "one"))
    router.add_utterances("alpha", ["two"])
    found = router.query("two")
    router.delete_route("alpha")
    unmatched = router.query("two")
    threads = set(threading.enumerate()) - before
    router.close()

    assert ("alpha", None) == (found.route, unmatched.route)
    assert set() == threads


@pytest.mark.may_block
async def test_coroutines_work_before_start(tmp_path: Path) -> None:
    """Writes before start are visible after it, and after a restart."""
    path = tmp_path / "node.sqlite"
    router = AdaptiveRouter(HashEncoder(), SQLiteStorage(path))
    await router.aput_route(route("alpha"))
    inline = [await router.aquery("alpha"), *await router.aquery_batch(["alpha"])]
    await router.start()
    started = await router.aquery("alpha")
    await router.stop()
    async with running(path) as again:
        reread = await again.aquery("alpha")

    assert ["alpha"] * 4 == [each.route for each in [*inline, started, reread]]


async def test_query_during_the_start_is_refused(tmp_path: Path) -> None:
    """Queries get NotReady while the database is read, and it is opened only once."""
    storage = SlowStorage(tmp_path / "node.sqlite")
    router = AdaptiveRouter(HashEncoder(), storage)
    starting = asyncio.create_task(router.start())
    await asyncio.to_thread(storage.is_opening.wait, WAIT_SECONDS)
    with pytest.raises(NotReady):
        await router.aquery("anything")
    with pytest.raises(NotReady):
        await router.start()
    with pytest.raises(ConfigError):
        router.close()
    state = router.status().state
    storage.may_open.set()
    await starting
    answer = await router.aquery("anything")
    await router.stop()

    assert "starting" == state
    assert "no_routes" == answer.reason


async def test_stop_during_the_start_wins(tmp_path: Path) -> None:
    """A router that is stopped while it starts ends stopped, and the file is unlocked."""
    storage = SlowStorage(tmp_path / "node.sqlite")
    router = AdaptiveRouter(HashEncoder(), storage)
    starting = asyncio.create_task(router.start())
    await asyncio.to_thread(storage.is_opening.wait, WAIT_SECONDS)
    stopping = asyncio.create_task(router.stop())
    await asyncio.sleep(0)
    storage.may_open.set()
    await stopping
    with pytest.raises(NotReady):
        await starting
    state = router.status().state
    await assert_not_locked(storage.path)

    assert "stopped" == state


async def test_cancelled_start_leaves_nothing_locked(tmp_path: Path) -> None:
    """A cancelled start closes the database that its thread opens afterwards."""
    storage = SlowStorage(tmp_path / "node.sqlite")
    router = AdaptiveRouter(HashEncoder(), storage)
    starting = asyncio.create_task(router.start())
    await asyncio.to_thread(storage.is_opening.wait, WAIT_SECONDS)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    state = router.status().state
    storage.may_open.set()
    await router.stop()
    await assert_not_locked(storage.path)

    assert "failed" == state


async def test_cancelled_stop_still_stops(tmp_path: Path) -> None:
    """A cancelled stop continues, and the next one waits for its end."""
    path = tmp_path / "node.sqlite"
    router = AdaptiveRouter(HashEncoder(), SQLiteStorage(path))
    await router.start()
    stopping = asyncio.create_task(router.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await router.stop()
    await assert_not_locked(path)

    assert "stopped" == router.status().state


async def test_failed_start_reports_the_reason_and_unlocks(tmp_path: Path) -> None:
    """A database of another encoder is refused, and its own encoder can open it then."""
    path = tmp_path / "node.sqlite"
    async with running(path) as router:
        await router.aput_route(route("alpha"))
    wrong = AdaptiveRouter(HashEncoder(32), SQLiteStorage(path))
    with pytest.raises(EncoderMismatch):
        await wrong.start()
    state = wrong.status().state
    with pytest.raises(NotReady):
        await wrong.aquery("alpha")
    await wrong.stop()
    async with running(path) as right:
        answer = await right.aquery("alpha")

    assert "failed" == state
    assert "alpha" == answer.route


async def test_boot_that_fails_after_opening_unlocks_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of memory while the tensor is filled does not keep the file locked."""
    path = tmp_path / "node.sqlite"

    def explode(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "load", explode)
        router = AdaptiveRouter(HashEncoder(), SQLiteStorage(path))
        with pytest.raises(MemoryError):
            await router.start()

    await assert_not_locked(path)


async def test_second_router_on_one_file_is_refused(tmp_path: Path) -> None:
    """Only one process may use a file; the second gets an error and changes nothing."""
    path = tmp_path / "node.sqlite"
    async with running(path) as first:
        second = AdaptiveRouter(HashEncoder(), SQLiteStorage(path))
        with pytest.raises(StorageUnavailable):
            await second.start()
        await second.stop()
        written = await first.aput_route(route("alpha"))

    assert "applied" == written.status


async def test_close_of_a_started_router_is_refused(tmp_path: Path) -> None:
    """``close`` is for routers without threads; it raises and changes nothing."""
    path = tmp_path / "node.sqlite"
    async with running(path) as router:
        with pytest.raises(ConfigError):
            router.close()
        answer = await router.aquery("anything")
    router.close()

    assert "no_routes" == answer.reason


async def test_dead_scorer_makes_the_node_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and stop do not wait for the dead thread."""
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())
    async with running() as router:
        await router.aput_route(route("alpha"))

        def explode(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(Tensor, "apply", explode)
        writing = asyncio.create_task(router.aput_route(route("beta")))
        assert await asyncio.to_thread(ended.wait, WAIT_SECONDS)
        looking = await asyncio.gather(router.aget_route("alpha"), return_exceptions=True)
        status = router.status()
        await router.stop()
        written = await asyncio.gather(writing, return_exceptions=True)

    assert isinstance(looking[0], NotReady)
    assert not status.is_ready
    assert status.reasons
    assert isinstance(written[0], NotReady)


async def test_status_never_blocks(tmp_path: Path) -> None:
    """Before the start, while the router runs, and after the stop."""
    path = tmp_path / "node.sqlite"
    router = AdaptiveRouter(HashEncoder(), SQLiteStorage(path))
    new = router.status()
    await router.start()
    written = await router.aput_route(route("alpha", "one", "two"))
    ready = router.status()
    await router.stop()
    stopped = router.status()

    assert ("new", False) == (new.state, new.is_ready)
    assert ("ready", True, (), 1, 2) == (
        ready.state,
        ready.is_ready,
        ready.reasons,
        ready.routes,
        ready.slots_used,
    )
    assert (written.version, str(path)) == (ready.version, ready.database)
    assert Revision(1, 2) == Revision(*map(int, ready.version.split(".")))
    assert ("stopped", False) == (stopped.state, stopped.is_ready)


async def test_threads_end_with_the_router() -> None:
    """No thread of the router is left after the stop."""
    before = set(threading.enumerate())
    async with running(lanes=4) as router:
        await router.aput_route(route("alpha"))
        during = {t.name for t in set(threading.enumerate()) - before}
    left = {
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("synaptoroute") and thread.is_alive()
    }

    assert {f"synaptoroute-encoder-{n}" for n in range(4)} <= during
    assert {"synaptoroute-applier", "synaptoroute-scorer"} <= during
    assert left <= {"synaptoroute-close"}


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a nice value on Linux only")
@pytest.mark.parametrize("nice", [0, 3])
async def test_lanes_and_applier_have_a_lower_priority(nice: int) -> None:
    """Lower than the scorer and the caller's thread, each as its setting says."""
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    behind, last = min(own + nice, 19), min(own + 2 * nice, 19)
    wanted = dict.fromkeys(("encoder-0", "encoder-1"), behind) | {"applier": last, "scorer": own}
    found: dict[str, int] = {}
    async with running(lanes=2, lanes_nice=nice, writes_nice=2 * nice):
        give_up_at = time.monotonic() + WAIT_SECONDS
        while not wanted.items() <= found.items() and time.monotonic() < give_up_at:
            await asyncio.sleep(0.005)  # each thread does it when it begins
            found = {
                thread.name.removeprefix("synaptoroute-"): os.getpriority(
                    os.PRIO_PROCESS, thread.native_id or 0
                )
                for thread in threading.enumerate()
                if thread.name.startswith("synaptoroute-")
            }

    assert wanted == {name: found[name] for name in wanted}

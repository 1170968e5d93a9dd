"""Faults below the router: failing storage, poison entries, a stop under load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from routers import HeldEncoder, route, running
from synaptoroute.core import codec
from synaptoroute.core.mutation import DeleteRoute, Proposal
from synaptoroute.errors import NotReady, StorageUnavailable, SynaptoRouteError
from synaptoroute.models import WriteResult
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


async def assert_memory_is_disk(router: AdaptiveRouter, storage: SQLiteStorage) -> None:
    """What is visible is what is durable, at one position."""
    checked = await router.achecksum()
    position = storage.position

    assert checked["digest"] == storage.digest
    assert checked["version"] == str(position.revision)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> DeleteRoute:
    """A mutation that passes validation but that the applier cannot encode."""
    mutation = DeleteRoute("poison")

    def encode(proposal: Proposal) -> bytes:
        if proposal.mutation == mutation:
            raise RuntimeError("a bug in the codec")
        return codec.encode_proposal(proposal)

    monkeypatch.setattr("synaptoroute.replication.applier.encode_proposal", encode)
    return mutation


async def test_poison_in_a_group_fails_alone(tmp_path: Path, poison: DeleteRoute) -> None:
    """Only the poison proposal fails; the others of its group become durable."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    async with running(storage=storage) as router:
        for _ in range(5):
            results = await asyncio.gather(
                *(router.adelete_route(f"r{number}") for number in range(3)),
                router.adelete_route(poison.name),
                *(router.aput_route(route(f"r{number}")) for number in range(3)),
                return_exceptions=True,
            )
            assert isinstance(results[3], RuntimeError)
            assert all(isinstance(each, WriteResult) for each in results[4:])
        state = router.status().storage_state
        await assert_memory_is_disk(router, storage)

    assert "ok" == state


async def test_failed_first_write_does_not_create_the_log(tmp_path: Path) -> None:
    """If the first write cannot be made durable, the next one starts from an empty log."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    async with running(storage=storage) as router:
        storage._opened().writer.execute("PRAGMA query_only = ON")
        with pytest.raises(StorageUnavailable):
            await router.aput_route(route("a"))
        failed = await router.achecksum()
        storage._opened().writer.execute("PRAGMA query_only = OFF")
        await router.aput_route(route("a"))
        await assert_memory_is_disk(router, storage)

    assert "0.0" == failed["version"]


async def test_poison_first_write_does_not_create_the_log(
    tmp_path: Path, poison: DeleteRoute
) -> None:
    """If the very first write cannot be encoded, the founding entry is taken back with it."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    async with running(storage=storage) as router:
        with pytest.raises(RuntimeError):
            await router.adelete_route(poison.name)
        written = await router.aput_route(route("a"))
        await assert_memory_is_disk(router, storage)

    assert "1.2" == written.version


@pytest.mark.parametrize("fault", ["disk_full", "read_only"])
async def test_storage_fault_fails_writes_only(tmp_path: Path, fault: str) -> None:
    """Writes report the reason, queries are answered, and later writes work."""
    path = tmp_path / "node.sqlite"
    storage = SQLiteStorage(path)
    async with running(storage=storage) as router:
        await router.aput_route(route("a"))
        before = await router.achecksum()
        (pages,) = storage._opened().writer.execute("PRAGMA page_count").fetchone()
        if fault == "disk_full":
            storage._opened().writer.execute(f"PRAGMA max_page_count = {pages}")
        else:
            storage._opened().writer.execute("PRAGMA query_only = ON")
        large = [route(f"r{n}", *(f"words {n} {u}" for u in range(500))) for n in range(4)]
        errors = await asyncio.gather(
            *(router.aput_route(each) for each in large), return_exceptions=True
        )
        during = await router.achecksum()
        answers = await asyncio.gather(*(router.aquery("a") for _ in range(20)))
        status = router.status()
        storage._opened().writer.execute("PRAGMA query_only = OFF")
        storage._opened().writer.execute(f"PRAGMA max_page_count = {1 << 30}")
        await asyncio.gather(*(router.aput_route(each) for each in large))
        healed = router.status()
        await assert_memory_is_disk(router, storage)
        digest = (await router.achecksum())["digest"]
    async with running(path) as again:
        reread = await again.achecksum()

    assert all(isinstance(each, StorageUnavailable) for each in errors)
    assert len({id(each) for each in errors}) == len(errors)
    assert before == during
    assert ["a"] * 20 == [answer.route for answer in answers]
    assert (fault, True) == (status.storage_state, status.is_ready)
    assert ("ok", 5) == (healed.storage_state, healed.routes)
    assert digest == reread["digest"]


async def test_stop_answers_all_accepted_requests(tmp_path: Path) -> None:
    """Every caller gets an answer, and every acknowledged write is durable."""
    path = tmp_path / "node.sqlite"
    router = AdaptiveRouter(HeldEncoder(), SQLiteStorage(path))
    await router.start()
    acknowledged: list[str] = []

    async def write(number: int) -> None:
        result = await router.aput_route(route(f"r{number}", f"words {number}"))
        assert "applied" == result.status
        acknowledged.append(f"r{number}")

    writes = [asyncio.create_task(write(number)) for number in range(100)]
    queries = [asyncio.create_task(router.aquery(f"q{number}")) for number in range(100)]
    looks = [asyncio.create_task(router.alist_routes()) for _ in range(50)]
    await asyncio.sleep(0.02)
    await asyncio.gather(router.stop(), router.stop())
    async with asyncio.timeout(10):
        done = await asyncio.gather(*writes, *queries, *looks, return_exceptions=True)
    failed = [each for each in done if isinstance(each, BaseException)]
    async with running(path) as again:
        kept = {each.name for each in (await again.alist_routes()).routes}

    assert all(isinstance(each, NotReady) for each in failed)
    assert not any(isinstance(each, BaseException) for each in done[100:200])
    assert set(acknowledged) <= kept
    assert "stopped" == router.status().state


async def test_each_writer_gets_its_own_exception(tmp_path: Path) -> None:
    """Raising a shared exception in two tasks would mix their tracebacks."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    async with running(storage=storage) as router:
        await router.aput_route(route("a"))
        storage._opened().writer.execute("PRAGMA query_only = ON")
        errors = await asyncio.gather(
            *(router.adelete_route("a") for _ in range(5)), return_exceptions=True
        )

    assert 5 == len({id(each) for each in errors})
    assert all(isinstance(each, SynaptoRouteError) for each in errors)
    assert {"read_only"} == {
        e.fields["reason"] for e in errors if isinstance(e, StorageUnavailable)
    }

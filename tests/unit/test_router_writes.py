"""Writes through the whole engine: at once visible, durable, refused or taken back."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from routers import HeldEncoder, revision, route, running, until
from synaptoroute.core.mutation import DeleteRoute
from synaptoroute.engine import applier
from synaptoroute.errors import (
    EncoderError,
    IdempotencyConflict,
    InvalidRoute,
    InvalidVector,
    NotReady,
    Overloaded,
    PreconditionFailed,
    RouteNotFound,
    StorageUnavailable,
    SynaptoRouteError,
    UtteranceNotFound,
)
from synaptoroute.models import Route, WriteResult
from synaptoroute.router import AdaptiveRouter, Guard
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


async def assert_memory_is_disk(router: AdaptiveRouter, storage: SQLiteStorage) -> None:
    """What is visible is what is durable, at one position."""
    checked = await router.achecksum()
    position = storage.position

    assert checked["digest"] == storage.digest
    assert checked["version"] == str(position.revision)


async def test_writer_reads_its_own_write_under_load() -> None:
    """Right after a put or a delete the answer follows it, two hundred times, under load."""
    async with running() as router:
        await router.aput_route(route("rest", "something else", threshold=-1.0))
        stop = asyncio.Event()

        async def load(number: int) -> None:
            while not stop.is_set():
                await router.aquery(f"load {number}", use_cache=False)

        loading = [asyncio.create_task(load(number)) for number in range(4)]
        wrong = []
        for turn in range(200):
            written = await router.aput_route(route("mine", "my own words"))
            seen = await router.aquery("my own words")
            deleted = await router.adelete_route("mine")
            after = await router.aquery("my own words")
            if ("mine", "rest") != (seen.route, after.route) or (
                revision(seen.version) < revision(written.version)
                or revision(after.version) < revision(deleted.version)
            ):
                wrong.append(turn)
        stop.set()
        await asyncio.gather(*loading)

    assert [] == wrong


async def test_queries_and_writes_do_not_starve_each_other() -> None:
    """Under a steady stream of either, the other goes on."""
    async with running(lanes=1) as router:
        stop = asyncio.Event()

        async def ask(number: int) -> int:
            count = 0
            while not stop.is_set():
                await router.aquery(f"q{number} {count}", use_cache=False)
                count += 1
            return count

        async def write(number: int) -> int:
            count = 0
            while not stop.is_set():
                await router.aput_route(route(f"r{number}", f"words {count}"))
                count += 1
            return count

        asking = [asyncio.create_task(ask(number)) for number in range(32)]
        writing = [asyncio.create_task(write(number)) for number in range(8)]
        await asyncio.sleep(1.5)
        stop.set()
        queries, writes = await asyncio.gather(asyncio.gather(*asking), asyncio.gather(*writing))

    assert min(queries) > 0
    assert min(writes) > 0


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda r: r.adelete_route("no\ud800name"), InvalidRoute),
        (lambda r: r.adelete_route("x" * 200), InvalidRoute),
        (lambda r: r.adelete_route("nobody"), RouteNotFound),
        (lambda r: r.aadd_utterances("nobody", ["x"]), RouteNotFound),
        (lambda r: r.aadd_utterances("a", "a string"), InvalidRoute),
        (lambda r: r.aadd_utterances("a", []), InvalidRoute),
        (lambda r: r.aadd_utterances("a", [""]), InvalidRoute),
        (lambda r: r.aadd_utterances("a", [5]), InvalidRoute),
        (lambda r: r.aadd_utterances("a", ["x"], [[0.0] * 64]), InvalidVector),
        (lambda r: r.aadd_utterances("a", ["x"], [[float("nan")] * 64]), InvalidVector),
        (lambda r: r.aadd_utterances("a", ["x"], [[1e308] * 64]), InvalidVector),
        (lambda r: r.aadd_utterances("a", ["x"], [5]), InvalidVector),
        (lambda r: r.aadd_utterances("a", ["x"], [["y"] * 64]), InvalidVector),
        (lambda r: r.aadd_utterances("a", ["x"], [[1.0]]), InvalidVector),
        (lambda r: r.aadd_utterances("a", ["x"], [[1.0], [1.0]]), InvalidRoute),
        (lambda r: r.aremove_utterances("a", ["unknown"]), UtteranceNotFound),
        (lambda r: r.aremove_utterances("a", ["a"]), InvalidRoute),
        (lambda r: r.apatch_route("a", threshold=float("nan")), InvalidRoute),
        (lambda r: r.apatch_route("a", threshold=2), InvalidRoute),
        (lambda r: r.apatch_route("a", threshold="0.5"), InvalidRoute),
        (lambda r: r.apatch_route("a", metadata=[1]), InvalidRoute),
        (lambda r: r.apatch_route("a", metadata={"x": float("inf")}), InvalidRoute),
        (lambda r: r.apatch_route("a", payload={1, 2}), InvalidRoute),
        (lambda r: r.apatch_route("a", payload="x" * 20_000), InvalidRoute),
        (lambda r: r.apatch_route("a", payload="\ud800"), InvalidRoute),
        (lambda r: r.apatch_route("nobody", threshold=0.5), RouteNotFound),
    ],
)
async def test_malformed_write_changes_nothing(spoil: object, error: type[Exception]) -> None:
    """Each malformed write is refused by its type, and the state is what it was."""
    async with running() as router:
        await router.aput_route(route("a"))
        before = (await router.achecksum())["digest"]
        with pytest.raises(error):
            await spoil(router)  # type: ignore[operator]
        after = (await router.achecksum())["digest"]
        listed = await router.alist_routes()

    assert before == after
    assert ["a"] == [each.name for each in listed.routes]


async def test_route_that_was_spoilt_after_it_was_made_is_refused(encoder: HeldEncoder) -> None:
    """Fields that were changed behind the model's back are checked again."""
    async with running(encoder=encoder) as router:
        for spoil in ("", " padded ", "good"):
            made = route("a", "good")
            made.utterances.append(spoil)
            if spoil == "":
                with pytest.raises(InvalidRoute):
                    await router.aput_route(made)
            else:
                await router.aput_route(made)
        stored = await router.aget_route("a")
        made = Route(name="b", utterances=["x"], vectors=[[1.0] + [0.0] * 63])
        made.utterances.append("y")
        with pytest.raises(InvalidRoute):
            router.add_route(made)
        with pytest.raises(InvalidRoute):
            await router.aput_route(made)

    assert ["good"] == stored.utterances


async def test_route_is_a_copy_in_and_out() -> None:
    """Changing what was given or what was returned changes nothing inside."""
    async with running() as router:
        given = Route(name="a", utterances=["x"], metadata={"k": [1]}, payload={"p": [1]})
        await router.aput_route(given)
        given.metadata["k"].append(2)
        first = await router.aquery("x")
        first.payload["p"].append(2)
        first.metadata["k"].append(3)
        stored = await router.aget_route("a")
        stored.utterances.append("y")
        second = await router.aquery("x")
        again = await router.aget_route("a")

    assert {"p": [1]} == second.payload
    assert {"k": [1]} == second.metadata == again.metadata
    assert ["x"] == again.utterances


async def test_conditions_are_judged_at_the_writes_place() -> None:
    """Of many writers with one If-Match, exactly one succeeds."""
    async with running() as router:
        first = await router.aput_route(route("a"))
        assert first.revision is not None
        guard = Guard(if_match=revision(first.revision))
        results = await asyncio.gather(
            *(router.aput_route(route("a", f"words {n}"), guard) for n in range(20)),
            return_exceptions=True,
        )
        created = await asyncio.gather(
            *(router.aput_route(route("b"), Guard(if_none_match=True)) for _ in range(20)),
            return_exceptions=True,
        )
        current = (await router.aget_route("a")).revision
    refused = [each for each in results if isinstance(each, PreconditionFailed)]

    assert 19 == len(refused)
    assert {current} == {each.fields["current"] for each in refused}
    assert 1 == sum(isinstance(each, WriteResult) for each in created)


async def test_repeated_write_has_one_effect() -> None:
    """An op_id that comes again, even at the same moment, gets the first answer."""
    guard = Guard(op_id=b"o" * 16, request_hash=b"h" * 16)
    async with running() as router:
        answers = await asyncio.gather(*(router.aput_route(route("a"), guard) for _ in range(5)))
        await router.adelete_route("a")
        again = await router.aput_route(route("a"), guard)
        known = await router.aoutcome(b"o" * 16)
        unknown = await router.aoutcome(b"u" * 16)
        with pytest.raises(IdempotencyConflict):
            await router.aput_route(route("b"), Guard(op_id=b"o" * 16, request_hash=b"x" * 16))
        with pytest.raises(RouteNotFound):
            await router.aget_route("a")

    assert {answers[0].version} == {each.version for each in [*answers, again]}
    assert known is not None
    assert answers[0].version == known.version
    assert unknown is None


def test_malformed_identity_is_a_programmers_error() -> None:
    """An op_id of another length can be neither sent nor remembered."""
    for wrong in ({"op_id": b"short"}, {"request_hash": b"short"}):
        with pytest.raises(ValueError, match="16 bytes"):
            Guard(**wrong)  # type: ignore[arg-type]


async def test_large_write_is_admitted_whole_or_not_at_all(encoder: HeldEncoder) -> None:
    """A refused write leaves nothing in the queue of the lanes."""
    async with running(encoder=encoder, lanes=1, write_texts_max=40) as router:
        large = route("large", *(f"words {number}" for number in range(100)))
        written = await router.aput_route(large)
        encoder.write_gate.clear()
        waiting = asyncio.create_task(router.aput_route(route("first", "one", "two")))
        await until(lambda: encoder.utterances[-1] == ["one", "two"])
        queued = asyncio.create_task(router.aput_route(large.model_copy(update={"name": "b"})))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded):
            await router.aput_route(route("c", "refused"))
        encoder.write_gate.set()
        await asyncio.gather(waiting, queued)

    assert "applied" == written.status
    assert ["refused"] not in encoder.utterances


async def test_writer_that_has_gone_costs_no_encoding(encoder: HeldEncoder) -> None:
    """The utterances of a cancelled write are dropped from the queue of the lanes."""
    async with running(encoder=encoder, lanes=1) as router:
        encoder.write_gate.clear()
        large = route("large", *(f"words {number}" for number in range(200)))
        gone = asyncio.create_task(router.aput_route(large))
        await until(lambda: encoder.utterances)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        encoder.write_gate.set()
        await router.aput_route(route("next"))

    assert 2 == len(encoder.utterances)


async def test_encoder_that_breaks_fails_the_write_only(encoder: HeldEncoder) -> None:
    """A write whose utterances cannot be encoded changes nothing, and the lane lives on."""
    async with running(encoder=encoder, lanes=1) as router:
        encoder.fails_on = "poison"
        with pytest.raises((EncoderError, RuntimeError), match="the model broke"):
            await router.aput_route(route("a", "poison"))
        written = await router.aput_route(route("b"))

    assert "applied" == written.status


async def test_cancelled_looks_leave_the_threads_alive(tmp_path: Path) -> None:
    """Whoever hangs up while it waits for a look kills neither applier nor scorer."""
    async with running(tmp_path / "node.sqlite") as router:
        await router.aput_route(route("a"))
        for _ in range(50):
            looks = [
                asyncio.create_task(each)
                for each in (router.aget_route("a"), router.aoutcome(b"x" * 16))
            ]
            await asyncio.sleep(0)
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)
        stored = await router.aget_route("a")
        is_ready = router.status().is_ready

    assert "a" == stored.name
    assert is_ready


async def test_poison_in_a_group_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal that no storage can take fails itself; its neighbours are durable."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    real = applier.encode_proposal

    def encode(proposal: object) -> bytes:
        if getattr(proposal, "mutation", None) == DeleteRoute("poison"):
            raise RuntimeError("a bug in the codec")
        return real(proposal)  # type: ignore[arg-type]

    monkeypatch.setattr(applier, "encode_proposal", encode)
    async with running(storage=storage) as router:
        for _ in range(5):
            results = await asyncio.gather(
                *(router.adelete_route(f"r{number}") for number in range(3)),
                router.adelete_route("poison"),
                *(router.aput_route(route(f"r{number}")) for number in range(3)),
                return_exceptions=True,
            )
            assert isinstance(results[3], RuntimeError)
            assert all(isinstance(each, WriteResult) for each in results[4:])
        state = router.status().storage_state
        await assert_memory_is_disk(router, storage)

    assert "ok" == state


async def test_first_write_that_fails_does_not_found_the_log(tmp_path: Path) -> None:
    """If the very first write cannot be durable, the next one starts from nothing."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    async with running(storage=storage) as router:
        assert storage._writer is not None
        storage._writer.execute("PRAGMA query_only = ON")
        with pytest.raises(StorageUnavailable):
            await router.aput_route(route("a"))
        failed = await router.achecksum()
        storage._writer.execute("PRAGMA query_only = OFF")
        await router.aput_route(route("a"))
        await assert_memory_is_disk(router, storage)

    assert "0.0" == failed["version"]


async def test_poison_as_the_first_write_does_not_found_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the very first write cannot be encoded, the founding entry is taken back with it."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    real = applier.encode_proposal

    def encode(proposal: object) -> bytes:
        if getattr(proposal, "mutation", None) == DeleteRoute("poison"):
            raise RuntimeError("a bug in the codec")
        return real(proposal)  # type: ignore[arg-type]

    monkeypatch.setattr(applier, "encode_proposal", encode)
    async with running(storage=storage) as router:
        with pytest.raises(RuntimeError):
            await router.adelete_route("poison")
        written = await router.aput_route(route("a"))
        await assert_memory_is_disk(router, storage)

    assert "1.2" == written.version


@pytest.mark.parametrize("fault", ["disk_full", "read_only"])
async def test_storage_fault_costs_writes_and_nothing_else(tmp_path: Path, fault: str) -> None:
    """While the disk fails, writes say why, queries go on, and later writes work."""
    path = tmp_path / "node.sqlite"
    storage = SQLiteStorage(path)
    async with running(storage=storage) as router:
        await router.aput_route(route("a"))
        before = await router.achecksum()
        assert storage._writer is not None
        (pages,) = storage._writer.execute("PRAGMA page_count").fetchone()
        if fault == "disk_full":
            storage._writer.execute(f"PRAGMA max_page_count = {pages}")
        else:
            storage._writer.execute("PRAGMA query_only = ON")
        large = [route(f"r{n}", *(f"words {n} {u}" for u in range(500))) for n in range(4)]
        errors = await asyncio.gather(
            *(router.aput_route(each) for each in large), return_exceptions=True
        )
        during = await router.achecksum()
        answers = await asyncio.gather(*(router.aquery("a") for _ in range(20)))
        status = router.status()
        storage._writer.execute("PRAGMA query_only = OFF")
        storage._writer.execute(f"PRAGMA max_page_count = {1 << 30}")
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


async def test_stop_answers_everything_that_was_accepted(tmp_path: Path) -> None:
    """A stop under load leaves no caller without an answer, and nothing acknowledged behind."""
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


async def test_stopped_router_refuses_everything() -> None:
    """After the stop every call says so, and none answers from what is left in memory."""
    async with running() as router:
        await router.aput_route(route("a"))
    calls = [
        router.aquery("a"),
        router.aquery_batch(["a"]),
        router.aput_route(route("a")),
        router.adelete_route("a"),
        router.aget_route("a"),
        router.alist_routes(),
        router.aoutcome(b"x" * 16),
        router.start(),
    ]
    for call in calls:
        with pytest.raises(NotReady):
            await call
    for sync in (lambda: router.add_route(route("b")), lambda: router.query("a")):
        with pytest.raises(NotReady):
            sync()


async def test_waiting_writers_are_forgotten_when_they_give_up() -> None:
    """A writer that does not wait gets ``pending``, and leaves nothing behind."""
    async with running() as router:
        results = await asyncio.gather(
            *(router.aput_route(route(f"r{n}"), Guard(ack_timeout_seconds=0.0)) for n in range(50))
        )
        await router.adelete_route("r0")
        outcomes = [await router.aoutcome(bytes.fromhex(each.op_id)) for each in results]
        waiting = len(router._engine.waiters)

    assert {"pending"} >= {each.status for each in results} - {"applied"}
    assert all(outcome is not None for outcome in outcomes)
    assert 0 == waiting


async def test_errors_reach_each_writer_as_their_own(tmp_path: Path) -> None:
    """Two writers never share one exception, whose traceback both would write to."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    async with running(storage=storage) as router:
        await router.aput_route(route("a"))
        assert storage._writer is not None
        storage._writer.execute("PRAGMA query_only = ON")
        errors = await asyncio.gather(
            *(router.adelete_route("a") for _ in range(5)), return_exceptions=True
        )
    gc.collect()

    assert 5 == len({id(each) for each in errors})
    assert all(isinstance(each, SynaptoRouteError) for each in errors)
    assert {"read_only"} == {
        e.fields["reason"] for e in errors if isinstance(e, StorageUnavailable)
    }

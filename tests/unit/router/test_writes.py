"""Writes through the whole engine: visible, durable, refused or reverted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from routers import HeldEncoder, revision, route, running, until
from synaptoroute.errors import (
    EncoderError,
    IdempotencyConflict,
    InvalidRoute,
    InvalidVector,
    NotReady,
    Overloaded,
    PreconditionFailed,
    RouteNotFound,
    UtteranceNotFound,
)
from synaptoroute.models import Route, WriteResult
from synaptoroute.router import WriteOptions, writes

pytestmark = pytest.mark.unit


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


async def test_one_of_two_concurrent_puts_creates_the_route() -> None:
    """The order of the log decides which one."""
    async with running() as router:
        for number in range(20):
            name = f"new{number}"
            results = await asyncio.gather(
                *(router.aput_route(route(name, f"{name} {each}")) for each in range(2))
            )
            assert [False, True] == sorted(result.created for result in results)
            assert not (await router.aput_route(route(name, f"{name} again"))).created


async def test_writer_reads_its_own_write_under_load() -> None:
    """A query right after a put or a delete sees it, two hundred times, under load."""
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
    """Under a steady stream of one, the other still makes progress."""
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
    """Each malformed write raises its error, and the state is unchanged."""
    async with running() as router:
        await router.aput_route(route("a"))
        before = (await router.achecksum())["digest"]
        with pytest.raises(error):
            await spoil(router)  # type: ignore[operator]
        after = (await router.achecksum())["digest"]
        listed = await router.alist_routes()

    assert before == after
    assert ["a"] == [each.name for each in listed.routes]


async def test_route_that_was_changed_to_be_invalid_is_refused(encoder: HeldEncoder) -> None:
    """Fields that were changed after validation are checked again."""
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


async def test_checked_route_is_not_validated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP server has validated it just before; the library validates by default."""

    def refuse(_: Route) -> Route:
        raise InvalidRoute("validated")

    monkeypatch.setattr(writes, "checked_route", refuse)
    async with running() as router:
        with pytest.raises(InvalidRoute):
            await router.aput_route(route("a"))
        written = await router.aput_route(route("a"), is_checked=True)

    assert written.created


async def test_routes_are_copied() -> None:
    """Changing a given or a returned route changes nothing in the router."""
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


async def test_preconditions_are_checked_in_log_order() -> None:
    """Of many writers with the same If-Match, exactly one succeeds."""
    async with running() as router:
        first = await router.aput_route(route("a"))
        assert first.revision is not None
        options = WriteOptions(if_match=revision(first.revision))
        results = await asyncio.gather(
            *(router.aput_route(route("a", f"words {n}"), options) for n in range(20)),
            return_exceptions=True,
        )
        created = await asyncio.gather(
            *(router.aput_route(route("b"), WriteOptions(if_none_match=True)) for _ in range(20)),
            return_exceptions=True,
        )
        current = (await router.aget_route("a")).revision
    refused = [each for each in results if isinstance(each, PreconditionFailed)]

    assert 19 == len(refused)
    assert {current} == {each.fields["current"] for each in refused}
    assert 1 == sum(isinstance(each, WriteResult) for each in created)


async def test_repeated_write_has_one_effect() -> None:
    """A repeated op_id, even a concurrent one, gets the first outcome."""
    options = WriteOptions(op_id=b"o" * 16, request_hash=b"h" * 16)
    async with running() as router:
        answers = await asyncio.gather(*(router.aput_route(route("a"), options) for _ in range(5)))
        await router.adelete_route("a")
        again = await router.aput_route(route("a"), options)
        known = await router.aoutcome(b"o" * 16)
        unknown = await router.aoutcome(b"u" * 16)
        with pytest.raises(IdempotencyConflict):
            await router.aput_route(
                route("b"), WriteOptions(op_id=b"o" * 16, request_hash=b"x" * 16)
            )
        with pytest.raises(RouteNotFound):
            await router.aget_route("a")

    assert {answers[0].version} == {each.version for each in [*answers, again]}
    assert known is not None
    assert answers[0].version == known.version
    assert unknown is None


def test_malformed_write_options_are_refused() -> None:
    """An op_id and a request hash have 16 bytes."""
    for wrong in ({"op_id": b"short"}, {"request_hash": b"short"}):
        with pytest.raises(ValueError, match="16 bytes"):
            WriteOptions(**wrong)  # type: ignore[arg-type]


async def test_large_write_is_admitted_completely_or_not_at_all(encoder: HeldEncoder) -> None:
    """A refused write leaves nothing in the encoding queue."""
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


async def test_cancelled_write_is_not_encoded(encoder: HeldEncoder) -> None:
    """Its utterances are dropped from the encoding queue."""
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


async def test_encoder_error_fails_only_its_write(encoder: HeldEncoder) -> None:
    """A write whose utterances cannot be encoded changes nothing, and the lane continues."""
    async with running(encoder=encoder, lanes=1) as router:
        encoder.fails_on = "poison"
        with pytest.raises((EncoderError, RuntimeError), match="the model broke"):
            await router.aput_route(route("a", "poison"))
        written = await router.aput_route(route("b"))

    assert "applied" == written.status


async def test_cancelled_reads_leave_the_threads_alive(tmp_path: Path) -> None:
    """Cancelling a read that waits ends neither the applier nor the scorer."""
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


async def test_stopped_router_refuses_everything() -> None:
    """Every call raises NotReady; none answers from memory."""
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


async def test_pending_writes_are_forgotten_after_a_timeout() -> None:
    """A writer that does not wait gets ``pending``, and its entry is removed."""
    vectors = [[1.0] + [0.0] * 63]  # given, so that nothing has to be encoded in that time
    async with running() as router:
        results = await asyncio.gather(
            *(
                router.aput_route(
                    Route(name=f"r{n}", utterances=[f"r{n}"], vectors=vectors),
                    WriteOptions(ack_timeout_seconds=0.0),
                )
                for n in range(50)
            )
        )
        await router.adelete_route("r0")
        outcomes = [await router.aoutcome(bytes.fromhex(each.op_id)) for each in results]
        waiting = len(router._engine()._pending_writes)

    assert {"pending"} >= {each.status for each in results} - {"applied"}
    assert all(outcome is not None for outcome in outcomes)
    assert 0 == waiting

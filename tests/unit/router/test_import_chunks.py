"""Chunks of an import: how routes are split, batched and sent."""

from __future__ import annotations

import asyncio
from math import ceil
from typing import Any

import pytest

from routers import many, route, running, stream, until
from synaptoroute.core.change import StagedImport
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.imports import join_chunks
from synaptoroute.core.mutation import ImportBegin, ImportChunk, Proposal, PutRoute
from synaptoroute.errors import ImportRejected
from synaptoroute.models import Route
from synaptoroute.router.chunks import pieces_of
from synaptoroute.router.imports import CHUNK_UTTERANCES_MAX, STAGES_MAX, Importer

pytestmark = pytest.mark.unit


async def test_long_route_spans_chunks() -> None:
    """A route with more utterances than a chunk arrives complete and in order."""
    count = CHUNK_UTTERANCES_MAX * 3 + 7
    texts = [f"words {number}" for number in range(count)]
    long = Route(name="long", utterances=texts, threshold=0.25, payload={"tool": "x"})
    async with running() as router:
        result = await router.aimport(stream([*many(5, 3), long, *many(3, 3, "more")]))
        stored = await router.aget_route("long")
        joined = await router.aget_route("r0001")

    assert sorted(texts) == sorted(stored.utterances)
    assert (0.25, {"tool": "x"}) == (stored.threshold, stored.payload)
    assert count + 15 + 9 == result.utterances
    assert 6 == len(joined.utterances)


async def test_chunks_are_filled_with_routes_of_any_size() -> None:
    """The rest of one chunk begins the next, so the log contains as few as possible."""
    async with running() as router:
        await router.aput_route(route("first", "opens the log"))
        before = router._engine().applier.commit_count
        await router.aimport(stream(many(40, 50)))
        entries = router._engine().applier.commit_count - before
        stored = await router.aget_route("r0039")

    begin_and_commit = 2
    assert ceil(40 * 50 / CHUNK_UTTERANCES_MAX) + begin_and_commit == entries
    assert [f"words n39 u{u}" for u in range(50)] == list(stored.utterances)


async def test_several_chunks_are_in_flight_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import does not wait for each chunk, and never exceeds ``STAGES_MAX``."""
    under_way = most = 0
    stage = Importer._stage

    async def counted(self: Importer, mutation: Any, options: Any) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            if isinstance(mutation, ImportChunk):  # the first wait for company
                await until(lambda: most >= STAGES_MAX)
            await stage(self, mutation, options)
        finally:
            under_way -= 1

    monkeypatch.setattr(Importer, "_stage", counted)
    async with running() as router:
        result = await router.aimport(stream(many(40, CHUNK_UTTERANCES_MAX)))

    assert 40 == result.routes
    assert STAGES_MAX == most


async def test_failed_chunk_cancels_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task of the import runs on after one of its chunks failed."""
    begun: list[int] = []
    ended: list[int] = []

    async def held(self: Importer, mutation: Any, options: Any) -> None:
        if not isinstance(mutation, ImportChunk):
            return
        begun.append(mutation.number)
        try:
            if mutation.number == 1:
                raise ImportRejected("a chunk that fails")
            await asyncio.sleep(0 if mutation.number == 0 else 3_600)
        finally:
            ended.append(mutation.number)

    monkeypatch.setattr(Importer, "_stage", held)
    async with running() as router:
        with pytest.raises(ImportRejected, match="a chunk that fails"):
            await router.aimport(stream(many(40, CHUNK_UTTERANCES_MAX)))

    assert len(begun) > 2
    assert sorted(begun) == sorted(ended)


async def test_large_payloads_are_split_into_frames() -> None:
    """Routes with metadata and payloads as large as a chunk are imported."""
    routes = [
        Route(
            name=f"r{n}", utterances=[f"w {n}"], payload="p" * 15_000, metadata={"m": "m" * 15_000}
        )
        for n in range(150)
    ]
    async with running() as router:
        result = await router.aimport(stream(routes))
        stored = await router.aget_route("r149")

    assert 150 == result.routes
    assert "p" * 15_000 == stored.payload


def test_negatives_are_cut_like_utterances_and_join_again() -> None:
    """Parts without utterances of their own repeat one; the description is in the first."""
    part = PutRoute(
        "a",
        ("1", "2", "3"),
        tuple(bytes([n] * 4096) for n in range(3)),
        confidence_min=0.5,
        description="about a",
        description_vector=bytes([9] * 4096),
        negatives=tuple(f"not {n}" for n in range(128)),
        negative_vectors=tuple(bytes([n] * 4096) for n in range(128)),
    )
    pieces = pieces_of([part])
    chunks = tuple(ImportChunk("i", n, tuple(piece)) for n, piece in enumerate(pieces))

    assert len(chunks) > 1
    assert all(len(encode_proposal(Proposal(b"o" * 16, chunk))) <= 262_144 for chunk in chunks)
    assert [part] == join_chunks(StagedImport(ImportBegin("i"), chunks), len(chunks))

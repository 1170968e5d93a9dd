"""Writes that are larger than an entry of the log are staged in pieces and committed at once."""

from __future__ import annotations

import asyncio
import json

import pytest

from routers import HeldEncoder, route, running
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.imports import StagedKind, staged_kind, staged_write_id
from synaptoroute.core.mutation import ImportChunk, ImportCommit, Proposal, PutRoute, Revision
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import (
    CapacityExceeded,
    IdempotencyConflict,
    PreconditionFailed,
    RouteNotFound,
    StorageUnavailable,
    TooLarge,
    UtteranceNotFound,
)
from synaptoroute.models import (
    METADATA_BYTES_MAX,
    UTTERANCE_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
    Route,
    RouteSetSettings,
)
from synaptoroute.router import AdaptiveRouter, WriteOptions
from synaptoroute.router.chunks import CHUNK_BYTES_MAX, pieces_of
from synaptoroute.router.writes import Writer
from synaptoroute.sequencer.appender import WriteLimits

pytestmark = [pytest.mark.unit, pytest.mark.timeout(120)]

ENTRY_BYTES_MAX = WriteLimits().entry_bytes_max


def texts(count: int = UTTERANCES_PER_ROUTE_CALL_MAX, word: str = "x") -> list[str]:
    """Distinct utterances of the largest size."""
    return [f"{n:06} {word}".ljust(UTTERANCE_BYTES_MAX, word[0]) for n in range(count)]


def large(name: str = "large", count: int = 400, word: str = "x") -> Route:
    """A route that does not fit into an entry of a standalone node."""
    return Route(name=name, utterances=texts(count, word), payload={"tool": name})


async def staged(router: AdaptiveRouter) -> int:
    """Count the open imports."""
    return len(await asyncio.wrap_future(router._engine().staged_imports()))


async def is_clean(router: AdaptiveRouter) -> bool:
    """Wait until nothing is staged."""
    async with asyncio.timeout(10):
        while await staged(router):
            await asyncio.sleep(0.01)
    return True


async def test_documented_maximum_is_written_and_read() -> None:
    """1,000 utterances of 8 KiB, with 16 KiB of metadata and of payload."""
    filler = METADATA_BYTES_MAX - len('{"a":""}')
    most = Route(
        name="most", utterances=texts(), metadata={"a": "m" * filler}, payload={"a": "p" * filler}
    )
    async with running() as router:
        written = await router.aput_route(most)
        unchanged = await router.aput_route(most)
        stored = await router.aget_route("most")
        clean = await is_clean(router)

    assert ("applied", True, 1_000) == (written.status, written.created, written.count)
    assert written.revision == written.version == stored.revision
    assert ("unchanged", written.revision) == (unchanged.status, unchanged.revision)
    assert sorted(most.utterances) == sorted(stored.utterances)
    assert (most.metadata, most.payload) == (stored.metadata, stored.payload)
    assert clean


async def test_large_additions_and_removals() -> None:
    """They count, refuse and revise like small ones."""
    async with running() as router:
        await router.aput_route(route("a", "first"))
        added = await router.aadd_utterances("a", [*texts(400), "first"])
        removed = await router.aremove_utterances("a", texts(400))
        with pytest.raises(UtteranceNotFound):
            await router.aremove_utterances("a", texts(400))
        with pytest.raises(RouteNotFound):
            await router.aadd_utterances("nobody", texts(400))
        stored = await router.aget_route("a")
        clean = await is_clean(router)

    assert (400, 400) == (added.count, removed.count)
    assert (["first"], removed.version) == (stored.utterances, stored.revision)
    assert clean


async def test_preconditions_are_decided_at_the_commit() -> None:
    """A route that changed while the parts were staged fails the condition."""
    encoder = HeldEncoder()
    async with running(encoder=encoder) as router:
        first = await router.aput_route(large())
        assert first.revision is not None
        epoch, seq = map(int, first.revision.split("."))
        at = Revision(epoch, seq)
        second = await router.aput_route(large(word="y"), WriteOptions(if_match=at))
        with pytest.raises(PreconditionFailed) as stale:
            await router.aput_route(large(word="z"), WriteOptions(if_match=at))
        with pytest.raises(PreconditionFailed):
            await router.aput_route(large(word="z"), WriteOptions(if_none_match=True))
        await router.aput_route(large("other"), WriteOptions(if_none_match=True))
        clean = await is_clean(router)

    assert second.revision == stale.value.fields["current"]
    assert clean


async def test_race_of_large_and_small_requests_has_one_winner() -> None:
    """The key decides between pieces and entries; the losers leave nothing staged."""
    key = b"k" * 16
    async with running() as router:

        async def write(body: int) -> object:
            made = large(word="xyz"[body]) if body else route("large", "small")
            try:
                return await router.aput_route(made, WriteOptions(key, bytes([body + 1]) * 16))
            except IdempotencyConflict as error:
                return error.code

        answers = await asyncio.gather(*(write(n % 3) for n in range(9)))
        again = [await write(body) for body in range(3)]
        clean = await is_clean(router)

    winners = [each for each in answers if not isinstance(each, str)]
    assert 3 == len(winners)
    assert all(winners[0] == each for each in winners)
    assert [each for each in again if not isinstance(each, str)] == winners[:1]
    assert clean


async def test_write_without_room_leaves_nothing_staged() -> None:
    async with running() as router:
        settings = await router.aget_settings()
        few = RouteSetSettings(**{**settings.model_dump(), "capacity_slots": 100})
        await router.aput_settings(few)
        with pytest.raises(CapacityExceeded):
            await router.aput_route(large())
        clean = await is_clean(router)

    assert clean


async def test_disk_that_fails_between_the_parts_leaves_nothing_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write was not taken, and it can be repeated."""
    async with running() as router:
        await router.aput_route(route("before"))
        storage = router._engine().storage  # type: ignore[attr-defined]
        commit, count = storage.commit, 0

        def fail(commits: object) -> None:
            nonlocal count
            count += 1
            if count == 3:
                raise StorageUnavailable("the disk fails", reason="io")
            commit(commits)

        monkeypatch.setattr(storage, "commit", fail)
        with pytest.raises(StorageUnavailable) as failed:
            await router.aput_route(large(), WriteOptions(b"k" * 16, b"h" * 16))
        names = [each.name for each in (await router.alist_routes()).routes]
        again = await router.aput_route(large(), WriteOptions(b"k" * 16, b"h" * 16))
        clean = await is_clean(router)

    assert "not_taken" == failed.value.fields["outcome"]
    assert ["before"] == names
    assert again.created
    assert clean


async def test_many_large_writes_at_once_all_succeed() -> None:
    """More than imports may be open: they wait for each other."""
    async with running() as router:
        results = await asyncio.gather(*(router.aput_route(large(f"r{n}", 300)) for n in range(12)))
        clean = await is_clean(router)

    assert ["applied"] * 12 == [each.status for each in results]
    assert clean


async def test_level_1_log_takes_a_large_put_without_conditions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an import of one route, which every release commits; all others are too large."""
    monkeypatch.setattr(Writer, "_has_staged_writes", False)
    async with running() as router:
        key = WriteOptions(b"k" * 16, b"h" * 16)
        written = await router.aput_route(large(), key)
        again = await router.aput_route(large(), key)
        stored = await router.aget_route("large")
        refused = []
        for write in (
            router.aput_route(large(), WriteOptions(if_none_match=True)),
            router.aadd_utterances("large", texts(400, "y")),
            router.aremove_utterances("large", texts(400)),
        ):
            with pytest.raises(TooLarge) as error:
                await write
            refused.append(error.value.fields["limit"])
        clean = await is_clean(router)

    assert ("applied", written.version) == (written.status, stored.revision)
    assert written == again
    assert [router._log.entry_bytes_max] * 3 == refused
    assert clean


def test_large_write_without_an_event_loop() -> None:
    """The synchronous methods split a write, too."""
    router = AdaptiveRouter(HashEncoder(64))
    written = router.add_route(large())
    added = router.add_utterances("large", texts(400, "y"))
    with pytest.raises(RouteNotFound):
        router.add_utterances("nobody", texts(400, "y"))
    open_imports = router._engine().staged_imports().result()
    router.close()

    assert (400, 400) == (written.count, added.count)
    assert () == open_imports


@pytest.mark.parametrize("character", ['"', "\\", "\n", "\x01", "x", "é", "😀"])
def test_chunk_of_any_characters_fits_into_an_entry(character: str) -> None:
    """Escapes count as the entry holds them."""
    repeat = (UTTERANCE_BYTES_MAX - 10) // len(character.encode())
    utterances = tuple(f"{n:04}{character * repeat}." for n in range(60))
    fields = json.dumps({"a": character * 2_000}, ensure_ascii=False, separators=(",", ":"))
    put = PutRoute("a", utterances, (b"v" * 1_536,) * 60, 0.5, fields, fields)
    chunks = [
        ImportChunk(staged_write_id(StagedKind.PUT, "0" * 32), number, tuple(piece))
        for number, piece in enumerate(pieces_of([put]))
    ]
    frames = [encode_proposal(Proposal(b"o" * 16, chunk)) for chunk in chunks]

    assert max(map(len, frames)) < ENTRY_BYTES_MAX
    assert max(map(len, frames)) > CHUNK_BYTES_MAX // 2
    assert utterances == tuple(text for chunk in chunks for text in chunk.parts[0].utterances)


@pytest.mark.parametrize("kind", list(StagedKind))
def test_identity_of_a_staged_write_tells_its_kind(kind: StagedKind) -> None:
    assert kind is staged_kind(staged_write_id(kind, "0" * 32))


@pytest.mark.parametrize("name", ["put", "put/" + "0" * 32, "/put/0", "/patch/" + "0" * 32, ""])
def test_other_identities_are_imports(name: str) -> None:
    assert staged_kind(name) is None


def test_commit_of_a_staged_write_has_level_2() -> None:
    """A release that knows level 1 would commit it without its preconditions."""
    commit = ImportCommit(staged_write_id(StagedKind.PUT, "0" * 32), 1)
    plain = ImportCommit("a/" + "0" * 32, 1)
    levels = [encode_proposal(Proposal(b"o" * 16, each))[4] for each in (commit, plain)]

    assert [2, 1] == levels

"""Goal: entries are appended all or none, with the chain that the core computes.

Method: real servers.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from redis_logs import FINGERPRINT, Author, opened, put
from servers import Server
from synaptoroute.core.codec import digest_of
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import CHAIN_START, OpenEpoch, Position, Revision
from synaptoroute.core.replica import Replica, Source, make_entry
from synaptoroute.errors import Overloaded, TooLarge
from synaptoroute.sequencer.appender import WriteLimits
from synaptoroute.sequencer.log_reads import Coverage
from synaptoroute.sequencer.scripts import Head

pytestmark = pytest.mark.integration


async def test_first_entry_opens_the_epoch(server: Server) -> None:
    """A founded log begins with an entry that the core accepts as the opening of epoch 1."""
    async with opened(server.url) as log:
        result = await log.read(Position())
        opening = result.entries[0].proposal.mutation

    assert isinstance(opening, OpenEpoch)
    assert opening.voters == ("a", "b", "c")
    assert Revision(1, 1) == result.entries[0].position.revision
    assert result.is_end


async def test_appended_entries_are_what_a_replica_applies(server: Server) -> None:
    """A replica that reads the appended entries reaches the same position."""
    async with opened(server.url) as log:
        first = await log.append([put("weather")])
        second = await log.append([put("music"), put("news")])
        result = await log.read(Position())
    replica = Replica(dim=4)
    for entry in result.entries:
        replica.receive(entry, Source.LOG, result.epoch)

    assert first.at == Revision(1, 2)
    assert second.at == Revision(1, 4)
    assert replica.position == result.head
    assert sorted(replica.table.routes) == ["music", "news", "weather"]


async def test_lua_and_core_compute_the_same_chain(server: Server) -> None:
    """Random batches get the chain that the core computes, entry by entry."""
    draw = random.Random(20)
    async with opened(server.url) as log:
        for batch in range(40):
            names = [f"r{batch}-{number}" for number in range(draw.randint(1, 9))]
            await log.append([put(name, utterances=draw.randint(1, 3)) for name in names])
        result = await log.read(Position())
    at = Position()
    for entry in result.entries:
        digest = digest_of(entry.frame)
        assert next_chain(at.chain, 1, at.seq + 1, digest) == entry.chain
        assert make_entry(at, entry.frame, entry.proposal, entry.time_us) == entry
        at = entry.position

    assert at == result.head
    assert len(result.entries) > 100


async def test_concurrent_writes_share_a_call(server: Server) -> None:
    """Sixty-four concurrent writes share a few calls, and each gets its own place."""
    async with opened(server.url) as log:
        placed = await asyncio.gather(*(log.append([put(f"r{n}")]) for n in range(64)))
        calls = log.append_counts.calls

    assert {Revision(1, seq) for seq in range(2, 66)} == {each.at for each in placed}
    assert calls <= 3


async def test_entries_of_one_caller_are_consecutive(server: Server) -> None:
    """Proposals of one call stay consecutive while others write."""
    async with opened(server.url) as log:
        groups = [[put(f"g{group}-{n}") for n in range(5)] for group in range(10)]
        placed = await asyncio.gather(*(log.append(group) for group in groups))
        entries = (await log.read(Position())).entries
    seq_of = {entry.proposal.op_id: entry.seq for entry in entries}

    for group, each in zip(groups, placed, strict=True):
        assert each.at is not None
        expected = list(range(each.at.seq - 4, each.at.seq + 1))
        assert expected == [seq_of[proposal.op_id] for proposal in group]


async def test_caller_cancelled_in_the_queue_writes_nothing(valkey_server: Server) -> None:
    """A cancelled write that was not sent yet leaves no entry."""
    async with opened(valkey_server.url, limits=WriteLimits(window_ms=2.0)) as log:
        gone = asyncio.create_task(log.append([put("gone")]))
        stays = asyncio.create_task(log.append([put("stays")]))
        await asyncio.sleep(0)
        gone.cancel()
        await stays
        entries = (await log.read(Position())).entries

    assert [put("stays")] == [entry.proposal for entry in entries[1:]]


async def test_full_queue_refuses_a_write_at_once(valkey_server: Server) -> None:
    """Waiting entries and bytes have limits; a refused write can be sent again."""
    limits = WriteLimits(queue_entries_max=4)
    async with opened(valkey_server.url, limits=limits) as log:
        results = await asyncio.gather(
            *(log.append([put(f"r{n}")]) for n in range(6)), return_exceptions=True
        )
        again = await log.append([put("again")])

    assert 2 == sum(isinstance(each, Overloaded) for each in results)
    assert again.at == Revision(1, 6)


async def test_oversized_entry_is_refused_by_the_node(valkey_server: Server) -> None:
    """An entry over the limit is never sent."""
    async with opened(valkey_server.url, limits=WriteLimits(entry_bytes_max=1_000)) as log:
        with pytest.raises(TooLarge):
            await log.append([put("large", text="x" * 2_000)])
        calls = log.append_counts.calls

    assert calls == 0


async def test_script_is_loaded_again_after_a_flush(server: Server) -> None:
    """After SCRIPT FLUSH the script is loaded again, and the write happens once."""
    async with opened(server.url) as log:
        await log.append([put("before")])
        server.call("SCRIPT", "FLUSH")
        placed = await log.append([put("after")])

    assert placed.at == Revision(1, 3)


async def test_numbers_stay_exact_near_their_limit(server: Server) -> None:
    """Places of sixteen digits are written digit by digit, not as 9.0e15."""
    start = (1 << 53) - 1_000
    async with opened(server.url) as log:
        meta = "sr:{default}:meta"
        for field in ("seq", "bytes"):
            server.call("HSET", meta, field, str(start))
        server.call("HSET", meta, "floor", str(start + 1), "floor_bytes", str(start))
        server.call("HSET", meta, "floor_chain", CHAIN_START, "chain", CHAIN_START)
        server.call("DEL", "sr:{default}:log:1")
        at = Position(1, start, CHAIN_START)
        log.attach(position=lambda: at, fingerprint=lambda: FINGERPRINT)
        placed = await log.append([put(f"r{n}") for n in range(3)])
        result = await log.read(at)
        head = await log.head()

    assert placed.at == Revision(1, start + 3)
    assert [start + 1, start + 2, start + 3] == [entry.seq for entry in result.entries]
    assert isinstance(head, Head)
    assert head.position == result.entries[-1].position
    assert 0 < head.kept_bytes < 2_000


async def test_large_reads_are_split(server: Server) -> None:
    """No read exceeds its limits, and the parts are complete."""
    async with opened(server.url) as log:
        for batch in range(4):
            await log.append([put(f"r{batch}-{n}", text="x" * 3_000) for n in range(50)])
        at, pieces, entries = Position(), 0, []
        while True:
            result = await log.read(at, bytes_max=100_000)
            size_bytes = sum(len(entry.frame) for entry in result.entries)
            assert size_bytes <= 100_000
            entries += result.entries
            pieces += 1
            at = entries[-1].position
            if result.is_end:
                break

    assert list(range(1, 202)) == [entry.seq for entry in entries]
    assert 7 <= pieces <= 12


async def test_deleted_entry_is_reported_as_a_hole(server: Server) -> None:
    """Reading stops before a deleted entry."""
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(5)])
        server.call("XDEL", "sr:{default}:log:1", "1-4")
        through = await log.read(Position())
        after = await log.read(through.entries[-1].position)

    assert [1, 2, 3] == [entry.seq for entry in through.entries]
    assert through.error is not None
    assert not through.is_end
    assert after.coverage is Coverage.HOLE


async def test_altered_entry_stops_the_read(server: Server) -> None:
    """An entry whose frame does not match its chain is not returned."""
    async with opened(server.url) as log:
        await log.append([put("sound")])
        server.call(
            "XADD",
            "sr:{default}:log:1",
            "1-3",
            "t",
            "1",
            "p",
            "0" * 40,
            "c",
            "1" * 40,
            "b",
            "1",
            "f",
            "nonsense",
        )
        server.call("HSET", "sr:{default}:meta", "seq", "3")
        result = await log.read(Position())

    assert [1, 2] == [entry.seq for entry in result.entries]
    assert result.error is not None
    assert not result.is_end


async def test_embedded_author_sees_its_own_writes(server: Server) -> None:
    """A position that the author moves along lets it write on."""
    async with opened(server.url) as log:
        author = Author(log)
        for number_of in range(3):
            await author.join()
            await log.append([put(f"r{number_of}")])
        at = await author.join()

    assert at.seq == 4


async def test_search_for_a_lost_answer_wants_all_writes_of_the_call(server: Server) -> None:
    """An equal op_id that another node wrote alone is not the call that is searched for."""
    first, second, third = put("a"), put("b"), put("c")
    async with opened(server.url) as log:
        begun = await log.read(Position())
        since = begun.entries[-1].position
        await log.append([first])
        twin_alone = await log._reader.find(since, [first.op_id, second.op_id])
        await log.append([third])
        await log.append([first, second])
        call = await log._reader.find(since, [first.op_id, second.op_id])
        alone = await log._reader.find(since, [third.op_id])

    assert twin_alone is None
    assert call is not None
    assert alone is not None
    assert (since.seq + 3, since.seq + 2) == (call.seq, alone.seq)

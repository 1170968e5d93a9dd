"""Goal: entries get their places all or none, as the core reckons them.  Method: real servers."""

from __future__ import annotations

import asyncio
import random

import pytest

from cluster_room import FINGERPRINT, Author, join, opened, put
from servers import Server
from synaptoroute.cluster.reader import Coverage
from synaptoroute.cluster.redis_log import RedisLog
from synaptoroute.cluster.refusals import Reason
from synaptoroute.cluster.scripts import Head, NoLog
from synaptoroute.cluster.writer import WriteLimits
from synaptoroute.core.codec import digest_of
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import CHAIN_START, OpenEpoch, Position, Revision
from synaptoroute.core.replica import Replica, Source, number
from synaptoroute.errors import (
    EncoderMismatch,
    Overloaded,
    SequencerUnavailable,
    TooLarge,
)

pytestmark = pytest.mark.integration


async def refused(log: RedisLog, name: str = "refused") -> SequencerUnavailable:
    """Append, and return the refusal that must come."""
    with pytest.raises(SequencerUnavailable) as caught:
        await log.append([put(name)])
    return caught.value


async def test_first_entry_opens_the_epoch(server: Server) -> None:
    """A founded log begins with what the core takes for the opening of epoch 1."""
    async with opened(server.url) as log:
        result = await log.read(Position())
        opening = result.entries[0].proposal.mutation

    assert isinstance(opening, OpenEpoch)
    assert opening.voters == ("a", "b", "c")
    assert Revision(1, 1) == result.entries[0].position.revision
    assert result.is_end


async def test_appended_entries_are_what_a_replica_applies(server: Server) -> None:
    """What one node appends, another node's replica follows to the same position."""
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


async def test_lua_and_core_reckon_the_same_chain(server: Server) -> None:
    """Random batches get the chain that the core gives them, entry by entry."""
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
        assert number(at, entry.frame, entry.proposal, entry.time_us) == entry
        at = entry.position

    assert at == result.head
    assert len(result.entries) > 100


async def test_writes_that_come_together_share_a_call(server: Server) -> None:
    """Sixty-four concurrent writes need a handful of calls, and each its own place."""
    async with opened(server.url) as log:
        placed = await asyncio.gather(*(log.append([put(f"r{n}")]) for n in range(64)))
        calls = log.write_counts.calls

    assert {Revision(1, seq) for seq in range(2, 66)} == {each.at for each in placed}
    assert calls <= 3


async def test_one_caller_keeps_consecutive_places(server: Server) -> None:
    """Proposals of one call stay together, whoever writes at the same time."""
    async with opened(server.url) as log:
        groups = [[put(f"g{group}-{n}") for n in range(5)] for group in range(10)]
        placed = await asyncio.gather(*(log.append(group) for group in groups))
        entries = (await log.read(Position())).entries
    seq_of = {entry.proposal.op_id: entry.seq for entry in entries}

    for group, each in zip(groups, placed, strict=True):
        assert each.at is not None
        expected = list(range(each.at.seq - 4, each.at.seq + 1))
        assert expected == [seq_of[proposal.op_id] for proposal in group]


async def test_caller_who_gives_up_in_the_queue_writes_nothing(valkey_server: Server) -> None:
    """A cancelled write that was not sent yet leaves no entry."""
    async with opened(valkey_server.url, limits=WriteLimits(window_ms=2.0)) as log:
        gone = asyncio.create_task(log.append([put("gone")]))
        stays = asyncio.create_task(log.append([put("stays")]))
        await asyncio.sleep(0)
        gone.cancel()
        await stays
        entries = (await log.read(Position())).entries

    assert [put("stays")] == [entry.proposal for entry in entries[1:]]


async def test_full_queue_refuses_at_the_door(valkey_server: Server) -> None:
    """Entries and bytes that wait have limits; what is refused can be sent again."""
    limits = WriteLimits(queue_entries_max=4)
    async with opened(valkey_server.url, limits=limits) as log:
        results = await asyncio.gather(
            *(log.append([put(f"r{n}")]) for n in range(6)), return_exceptions=True
        )
        again = await log.append([put("again")])

    assert 2 == sum(isinstance(each, Overloaded) for each in results)
    assert again.at == Revision(1, 6)


async def test_entry_over_the_limit_is_refused_here(valkey_server: Server) -> None:
    """An entry that no node would take is never sent."""
    async with opened(valkey_server.url, limits=WriteLimits(entry_bytes_max=1_000)) as log:
        with pytest.raises(TooLarge):
            await log.append([put("large", text="x" * 2_000)])
        calls = log.write_counts.calls

    assert calls == 0


async def test_script_is_loaded_again_after_a_flush(server: Server) -> None:
    """A server that forgot its scripts gets them again, and the write happens once."""
    async with opened(server.url) as log:
        await log.append([put("before")])
        server.call("SCRIPT", "FLUSH")
        placed = await log.append([put("after")])

    assert placed.at == Revision(1, 3)


async def test_writer_of_another_epoch_is_told_the_epoch(server: Server) -> None:
    """A writer that has not joined learns which epoch to join."""
    async with opened(server.url) as log:
        server.call("HSET", "sr:{default}:meta", "epoch", "7")
        error = await refused(log)

    assert error.fields["reason"] is Reason.STALE
    assert error.fields["detail"] == "7"
    assert error.fields["outcome"] == "not_taken"


async def test_writer_of_an_epoch_that_another_ballot_opened_is_refused(server: Server) -> None:
    """The number of an epoch alone does not make two logs one."""
    async with opened(server.url) as log:
        at = await join(log)
        head = await log.head()
        assert isinstance(head, Head)
        log.attach(position=lambda: at, fingerprint=lambda: FINGERPRINT, epoch_id=lambda: "another")
        error = await refused(log)
        log.attach(
            position=lambda: at, fingerprint=lambda: FINGERPRINT, epoch_id=lambda: head.epoch_id
        )
        taken = await log.append([put("taken")])
        result = await log.read(Position())

    assert error.fields["reason"] is Reason.STALE
    assert Revision(1, 2) == taken.at
    assert head.epoch_id == result.epoch_id != ""


async def test_writer_with_another_encoder_is_refused(server: Server) -> None:
    """Vectors of another encoder never enter the log."""
    async with opened(server.url) as log:
        at = await join(log)
        log.attach(position=lambda: at, fingerprint=lambda: "0" * 64)
        with pytest.raises(EncoderMismatch) as caught:
            await log.append([put("foreign")])

    assert caught.value.fields["expected"] == FINGERPRINT


@pytest.mark.parametrize("lead", [0, 1], ids=["other chain", "further"])
async def test_log_behind_its_writer_is_closed_to_it(server: Server, lead: int) -> None:
    """A writer that holds more than the log, or other entries, proves a loss."""
    async with opened(server.url) as log:
        head = (await log.read(Position())).head
        beyond = Position(1, head.seq + lead, "9" * 40)
        log.attach(position=lambda: beyond, fingerprint=lambda: FINGERPRINT)
        error = await refused(log)

    assert error.fields["reason"] is Reason.REGRESSED


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("state", "frozen", Reason.CLOSED),
        ("level", "0", Reason.LEVEL),
        ("replid", "0" * 40, Reason.NEW_HISTORY),
    ],
)
async def test_header_closes_the_log(
    server: Server, field: str, value: str, reason: Reason
) -> None:
    """Each field of the header that forbids writes has a name of its own."""
    async with opened(server.url) as log:
        server.call("HSET", "sr:{default}:meta", field, value)
        error = await refused(log)
        head = await log.head()

    assert error.fields["reason"] is reason
    assert error.retry_after_seconds == 2.0
    assert isinstance(head, Head)
    assert head.seq == 1


async def test_lost_log_is_named(server: Server) -> None:
    """A flushed server has no log, for writes and for reads."""
    async with opened(server.url) as log:
        server.call("FLUSHALL")
        error = await refused(log)
        head = await log.head()
        with pytest.raises(SequencerUnavailable) as unread:
            await log.read(Position())

    assert error.fields["reason"] is Reason.LOST
    assert isinstance(head, NoLog)
    assert unread.value.fields["reason"] is Reason.LOST


async def test_full_log_refuses_and_keeps_what_it_has(server: Server) -> None:
    """A log at its limit takes no entry and loses none."""
    async with opened(server.url, limits=WriteLimits(log_bytes_max=2_000)) as log:
        taken = 0
        for taken in range(100):
            try:
                await log.append([put(f"r{taken}")])
            except SequencerUnavailable as error:
                reason = error.fields["reason"]
                break
        result = await log.read(Position())

    assert reason is Reason.FULL
    assert taken + 1 == len(result.entries)


async def test_out_of_memory_is_all_or_nothing(start_server, server: Server) -> None:
    """Over maxmemory no entry is written and none escapes on the bus."""
    async with opened(server.url) as log:
        bus = log.bus()
        listener = await asyncio.open_connection("127.0.0.1", server.port)
        listener[1].write(b"SUBSCRIBE sr:{default}:bus\r\n")
        await listener[0].readuntil(b":1\r\n")
        server.call("CONFIG", "SET", "maxmemory", "1")
        error = await refused(log)
        head = await log.head()
        server.call("CONFIG", "SET", "maxmemory", "0")
        await log.append([put("after")])
        said = await listener[0].read(65_536)
        entries = (await log.read(Position())).entries
        listener[1].close()
        await bus.close()

    assert error.fields["reason"] is Reason.REFUSED
    assert error.fields["outcome"] == "not_taken"
    assert isinstance(head, Head)
    assert head.seq == 1
    assert b"SR1 E 1 2 " in said
    assert b"SR1 E 1 3 " not in said
    assert [put("after")] == [entry.proposal for entry in entries[1:]]


async def test_replica_takes_no_write(start_server, server: Server) -> None:
    """A demoted server refuses before it does anything, and still answers reads."""
    async with opened(server.url) as log:
        other = start_server(server.kind)
        server.call("REPLICAOF", "127.0.0.1", str(other.port))
        error = await refused(log)
        facts = await log.check()

    assert error.fields["reason"] is Reason.REFUSED
    assert "replica" in {finding.code for finding in facts.findings}
    assert not facts.is_usable


async def test_foreign_key_in_the_logs_place_leaves_nothing_behind(server: Server) -> None:
    """If the stream cannot be written, the header stays as it was."""
    async with opened(server.url) as log:
        server.call("DEL", "sr:{default}:log:1")
        server.call("SET", "sr:{default}:log:1", "foreign")
        error = await refused(log)
        head = await log.head()

    assert error.fields["reason"] is Reason.REFUSED
    assert "WRONGTYPE" in str(error.fields["detail"])
    assert isinstance(head, Head)
    assert head.seq == 1


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


async def test_large_reads_come_in_pieces(server: Server) -> None:
    """No read is larger than asked, and the pieces make the whole."""
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


async def test_deleted_entry_is_a_hole_not_a_success(server: Server) -> None:
    """An entry that somebody deleted stops the reading where it was."""
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(5)])
        server.call("XDEL", "sr:{default}:log:1", "1-4")
        through = await log.read(Position())
        after = await log.read(through.entries[-1].position)

    assert [1, 2, 3] == [entry.seq for entry in through.entries]
    assert through.error is not None
    assert not through.is_end
    assert after.coverage is Coverage.HOLE


async def test_altered_entry_stops_the_reading(server: Server) -> None:
    """An entry whose frame does not fit its chain is not handed over."""
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


async def test_closed_log_refuses(valkey_server: Server) -> None:
    """After close nothing is taken, and what waits is answered."""
    async with opened(valkey_server.url) as log:
        await log.close()
        error = await refused(log)

    assert error.fields["reason"] is Reason.STOPPED


async def test_embedded_author_sees_its_own_writes(server: Server) -> None:
    """A position that the author moves along lets it write on."""
    async with opened(server.url) as log:
        author = Author(log)
        for number_of in range(3):
            await author.join()
            await log.append([put(f"r{number_of}")])
        at = await author.join()

    assert at.seq == 4

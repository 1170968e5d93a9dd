"""Goal: a log refuses writers that do not match it, with a reason.

Method: real servers.
"""

from __future__ import annotations

import asyncio

import pytest

from redis_logs import FINGERPRINT, join, opened, put
from servers import Server
from synaptoroute.core.mutation import Position, Revision
from synaptoroute.errors import EncoderMismatch, SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.appender import WriteLimits
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.scripts import Head, NoLog

pytestmark = pytest.mark.integration


async def refused(log: RedisLog, name: str = "refused") -> SequencerUnavailable:
    """Append, and return the expected refusal."""
    with pytest.raises(SequencerUnavailable) as caught:
        await log.append([put(name)])
    return caught.value


async def test_writer_of_another_epoch_is_told_the_epoch(server: Server) -> None:
    """A writer that has not joined learns which epoch to join."""
    async with opened(server.url) as log:
        server.call("HSET", "sr:{default}:meta", "epoch", "7")
        error = await refused(log)

    assert error.fields["reason"] is Reason.STALE
    assert error.fields["detail"] == "7"
    assert error.fields["outcome"] == "not_taken"


async def test_writer_of_an_epoch_that_another_ballot_opened_is_refused(server: Server) -> None:
    """Two logs may have epochs of the same number."""
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
    """A writer with more entries than the log, or other ones, proves a loss."""
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
    """Each field of the header that prevents writes has its own reason."""
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
    """A log at its limit accepts no entry and loses none."""
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
    """Over maxmemory no entry is written and none is published."""
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

    assert error.fields["reason"] is Reason.DAMAGED
    assert error.fields["detail"] == "sr:{default}:log:1"
    assert isinstance(head, Head)
    assert head.seq == 1


async def test_closed_log_refuses(valkey_server: Server) -> None:
    """After ``close`` nothing is accepted, and waiting callers are answered."""
    async with opened(valkey_server.url) as log:
        await log.close()
        error = await refused(log)

    assert error.fields["reason"] is Reason.STOPPED

"""Goal: a write has one outcome, whatever happens on the network.

Method: a proxy that breaks it.
"""

from __future__ import annotations

import asyncio

import pytest

from fault_proxy import Fault, FaultProxy
from redis_logs import FINGERPRINT, opened, put, restart
from servers import Server
from synaptoroute.core.mutation import Entry, Position, Revision
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.appender import WriteLimits
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.scripts import Head

pytestmark = pytest.mark.integration

PATIENT = WriteLimits(resolve_seconds=15.0)


async def entries_of(server: Server) -> tuple[Entry, ...]:
    """Every entry but the opening, read past the proxy."""
    log = RedisLog(server.url)
    try:
        return (await log.read(Position())).entries[1:]
    finally:
        await log.close()


async def test_lost_reply_leaves_one_entry(server: Server) -> None:
    """A write that happened is found by its op_id and not sent again."""
    async with (
        FaultProxy(server.port) as proxy,
        opened(proxy.url, limits=PATIENT, socket_timeout_seconds=0.3) as log,
    ):
        await log.append([put("before")])
        proxy.set_fault(Fault.TO_SERVER_ONLY)
        write = asyncio.create_task(log.append([put("one"), put("two")]))
        await asyncio.wait_for(proxy.answers_held.wait(), 10)
        proxy.reset()
        proxy.set_fault(Fault.NONE)
        placed = await write
        counts = log.append_counts
    names = [entry.proposal for entry in await entries_of(server)]

    assert [put("before"), put("one"), put("two")] == names
    assert placed.at == Revision(1, 4)
    assert counts.unknown == 1
    assert counts.found == 1


async def test_request_that_never_arrived_is_sent_again(server: Server) -> None:
    """A write that did not happen is not in the log, so it is sent again."""
    async with (
        FaultProxy(server.port) as proxy,
        opened(proxy.url, limits=PATIENT, socket_timeout_seconds=0.3) as log,
    ):
        await log.append([put("before")])
        proxy.set_fault(Fault.BLACK_HOLE)
        write = asyncio.create_task(log.append([put("late")]))
        while not log.append_counts.unknown:
            await asyncio.sleep(0.02)
        proxy.reset()
        proxy.set_fault(Fault.NONE)
        placed = await write
        found = log.append_counts.found

    assert [put("before"), put("late")] == [each.proposal for each in await entries_of(server)]
    assert placed.at == Revision(1, 3)
    assert found == 0


async def test_writes_after_a_lost_reply_follow_it(server: Server) -> None:
    """Writes that waited are sent once the outcome is known."""
    async with (
        FaultProxy(server.port) as proxy,
        opened(proxy.url, limits=PATIENT, socket_timeout_seconds=0.3) as log,
    ):
        await log.append([put("before")])
        proxy.set_fault(Fault.TO_SERVER_ONLY)
        first = asyncio.create_task(log.append([put("first")]))
        await asyncio.wait_for(proxy.answers_held.wait(), 10)
        later = [asyncio.create_task(log.append([put(f"later {n}")])) for n in range(8)]
        proxy.reset()
        proxy.set_fault(Fault.NONE)
        placed = await asyncio.gather(first, *later)
    entries = await entries_of(server)

    assert {Revision(1, seq) for seq in range(3, 12)} == {each.at for each in placed}
    assert 10 == len({entry.proposal.op_id for entry in entries}) == len(entries)


async def test_unknown_outcome_is_reported_as_unknown(server: Server) -> None:
    """After a bounded time the caller gets the op_id for another try."""
    limits = WriteLimits(resolve_seconds=0.5)
    async with (
        FaultProxy(server.port) as proxy,
        opened(proxy.url, limits=limits, socket_timeout_seconds=0.2) as log,
    ):
        await log.append([put("before")])
        proxy.set_fault(Fault.TO_SERVER_ONLY)
        with pytest.raises(SequencerUnavailable) as caught:
            await log.append([put("unknown")])
        proxy.reset()
        proxy.set_fault(Fault.NONE)

    assert caught.value.fields["outcome"] == "unknown"
    assert caught.value.fields["op_id"] == put("unknown").op_id.hex()
    assert put("unknown") in [entry.proposal for entry in await entries_of(server)]


async def test_server_that_cannot_be_reached_took_nothing(server: Server) -> None:
    """A refused connection is reported at once as not taken."""
    async with FaultProxy(server.port) as proxy, opened(proxy.url) as log:
        await log.append([put("before")])
        proxy.set_fault(Fault.REFUSE)
        proxy.reset()
        await asyncio.sleep(0)
        errors = []
        for _ in range(2):
            with pytest.raises(SequencerUnavailable) as caught:
                await log.append([put("refused")])
            errors.append(caught.value)
        proxy.set_fault(Fault.NONE)
        await log.append([put("after")])

    assert errors[-1].fields["reason"] is Reason.UNREACHABLE
    assert errors[-1].fields["outcome"] == "not_taken"
    assert errors[-1].retry_after_seconds == 2.0
    assert put("after") == (await entries_of(server))[-1].proposal


async def test_slow_answers_are_accepted(server: Server) -> None:
    """A delay below the deadline has no effect."""
    async with FaultProxy(server.port, delay_seconds=0.05) as proxy, opened(proxy.url) as log:
        await asyncio.gather(*(log.append([put(f"r{n}")]) for n in range(20)))
        counts = log.append_counts

    assert 20 == len(await entries_of(server))
    assert counts.unknown == 0


async def test_restart_without_loss_refuses_writes_with_a_reason(start_server) -> None:
    """After a restart with its data, the server refuses writes until it is verified."""
    for kind in ("redis", "valkey"):
        server = start_server(kind, appendonly="yes", appendfsync="always")
        async with opened(server.url) as log:
            await log.append([put("before")])
            await restart(server)
            with pytest.raises(SequencerUnavailable) as caught:
                await log.append([put("after")])
            head = await log.head()

        assert caught.value.fields["reason"] is Reason.NEW_HISTORY
        assert isinstance(head, Head)
        assert head.seq == 2
        assert not head.is_open


async def test_epoch_that_changes_meanwhile_is_not_forgotten(server: Server) -> None:
    """A lost answer followed by a closed log stays an unknown outcome."""
    limits = WriteLimits(resolve_seconds=15.0)
    async with (
        FaultProxy(server.port) as proxy,
        opened(proxy.url, limits=limits, socket_timeout_seconds=0.3) as log,
    ):
        await log.append([put("before")])
        proxy.set_fault(Fault.BLACK_HOLE)
        write = asyncio.create_task(log.append([put("late")]))
        while not log.append_counts.unknown:
            await asyncio.sleep(0.02)
        server.call("HSET", "sr:{default}:meta", "state", "recovering")
        proxy.reset()
        proxy.set_fault(Fault.NONE)
        with pytest.raises(SequencerUnavailable) as caught:
            await write

    assert caught.value.fields["reason"] is Reason.CLOSED
    assert caught.value.fields["outcome"] == "unknown"


async def test_close_answers_waiting_callers(server: Server) -> None:
    """``close`` with a frozen server leaves no caller waiting."""
    async with opened(server.url, socket_timeout_seconds=5.0) as log:
        await log.append([put("before")])
        log.attach(position=lambda: Position(1, 2, "0" * 40), fingerprint=lambda: FINGERPRINT)
        server.pause()
        writes = [asyncio.create_task(log.append([put(f"r{n}")])) for n in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with asyncio.timeout(3):
            await log.close()
            errors = await asyncio.gather(*writes, return_exceptions=True)
        server.resume()

    assert all(isinstance(error, SequencerUnavailable) for error in errors)

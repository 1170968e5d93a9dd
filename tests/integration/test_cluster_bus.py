"""Goal: a broken bus is always noticed.  Method: kills, black holes, floods."""

from __future__ import annotations

import asyncio

import pytest

from fault_proxy import Fault, FaultProxy
from redis_logs import WAIT_SECONDS, opened, put, until
from servers import Server
from synaptoroute.core.mutation import Entry, Position
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.sequencer.pubsub import (
    Bus,
    BusEvent,
    KeepaliveResult,
    MessageReceived,
    Missed,
    Reconnecting,
    Subscribed,
)
from synaptoroute.sequencer.wire import MESSAGE_BYTES_MAX, Announced, Keepalive

pytestmark = pytest.mark.integration


def is_entry(event: BusEvent) -> bool:
    """Whether an event carries an entry."""
    return isinstance(event, MessageReceived) and isinstance(event.message, Entry)


def is_subscribed(event: BusEvent) -> bool:
    """Whether an event requires reading the log."""
    return isinstance(event, Subscribed)


def is_reconnecting(event: BusEvent) -> bool:
    """Whether an event reports a lost connection."""
    return isinstance(event, Reconnecting)


async def test_bus_entries_equal_the_log_entries(server: Server) -> None:
    """Entries of the bus equal those of the log, byte by byte."""
    async with opened(server.url) as log:
        bus = log.bus()
        bus.start()
        await until(bus, is_subscribed)
        await asyncio.gather(*(log.append([put(f"r{n}", utterances=2)]) for n in range(30)))
        heard = await until(bus, lambda e: is_entry(e) and e.message.seq == 31)
        entries = (await log.read(Position())).entries[1:]

    assert [event.message for event in heard if is_entry(event)] == list(entries)


async def test_large_entry_is_only_announced(server: Server) -> None:
    """An entry over the limit of the bus is announced, and read from the log."""
    async with opened(server.url) as log:
        bus = log.bus()
        bus.start()
        await until(bus, is_subscribed)
        large = put("large", text="x" * 20_000)
        await log.append([put("small"), large, put("tiny")])
        heard = await until(bus, lambda e: is_entry(e) and e.message.seq == 4)
        messages = [event.message for event in heard]
        entry = (await log.read(Position())).entries[2]

    assert [Entry, Announced, Entry] == [type(message) for message in messages]
    assert Announced(1, 3, entry.chain, large.op_id) == messages[1]
    assert entry.proposal == large


async def test_keepalive_carries_the_head(server: Server) -> None:
    """A keepalive carries the head; only the holder of the lease sends without a takeover."""
    async with opened(server.url) as log:
        await log.append([put("one")])
        bus = log.bus()
        bus.start()
        await until(bus, is_subscribed)
        first, second = log.keepalive("first"), log.keepalive("second")
        outcomes = [await first.send(), await second.send(), await second.send(is_takeover=True)]
        heard = await until(bus, lambda e: isinstance(e, MessageReceived))
        beat = heard[-1].message
        head = (await log.read(Position())).head

    assert [KeepaliveResult.OWN, KeepaliveResult.HELD, KeepaliveResult.FOREIGN] == outcomes
    assert isinstance(beat, Keepalive)
    assert (beat.epoch, beat.seq, beat.chain) == (head.epoch, head.seq, head.chain)
    assert (beat.state, beat.source) == ("open", "first")


async def test_keepalives_continue_while_the_server_takes_no_writes(server: Server) -> None:
    """A master without its replicas still sends keepalives; a replica does not."""
    async with opened(server.url) as log:
        bus = log.bus()
        bus.start()
        await until(bus, is_subscribed)
        server.call("CONFIG", "SET", "min-replicas-to-write", "1")
        outcome = await log.keepalive("me").send(is_takeover=True)
        beat = (await until(bus, lambda e: isinstance(e, MessageReceived)))[-1].message
        server.call("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(SequencerUnavailable):
            await log.keepalive("me").send(is_takeover=True)

    assert outcome is KeepaliveResult.FOREIGN
    assert (beat.seq, beat.source) == (1, "me")


async def test_another_node_sends_keepalives_when_one_is_silent(valkey_server: Server) -> None:
    """When the sending node ends, another one sends before any bus reaches its deadline."""
    async with opened(valkey_server.url) as log:
        bus = log.bus()
        bus.start()
        first, second = log.keepalive("first"), log.keepalive("second")

        running = asyncio.create_task(first.run())
        await until(
            bus, lambda e: isinstance(e, MessageReceived) and isinstance(e.message, Keepalive)
        )
        standby = asyncio.create_task(second.run())
        await asyncio.sleep(0.01)
        second.note_received()  # The last one that it receives
        running.cancel()
        heard = await until(
            bus,
            lambda e: (
                isinstance(e, MessageReceived)
                and isinstance(e.message, Keepalive)
                and e.message.source == "second"
            ),
        )
        standby.cancel()
        await asyncio.gather(running, standby, return_exceptions=True)

    assert not any(map(is_reconnecting, heard))


async def test_one_of_many_nodes_sends_keepalives(valkey_server: Server) -> None:
    """Nodes that receive a keepalive do not send one."""
    async with opened(valkey_server.url) as log:
        bus = log.bus()
        bus.start()
        nodes = [log.keepalive(f"n{n}") for n in range(8)]
        tasks = [asyncio.create_task(node.run()) for node in nodes]
        beats = 0

        def third_beat(event: BusEvent) -> bool:
            nonlocal beats
            if isinstance(event, MessageReceived) and isinstance(event.message, Keepalive):
                beats += 1
                for node in nodes:
                    node.note_received()
            return beats == 4

        await until(bus, third_beat)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert 1 == sum(node.sent >= 3 for node in nodes)
    assert sum(node.sent for node in nodes) <= 6


async def test_killed_server_causes_a_new_subscription(start_server) -> None:
    """A kill is an event, and so is the new subscription, which requires a catch-up."""
    for kind in ("redis", "valkey"):
        server = start_server(kind, appendonly="yes", appendfsync="always")
        async with opened(server.url) as log:
            bus = log.bus()
            bus.start()
            await until(bus, is_subscribed)
            server.kill()
            gone = await until(bus, is_reconnecting)
            server.start()
            back = await until(bus, is_subscribed)

        assert isinstance(gone[-1], Reconnecting)
        assert isinstance(back[-1], Subscribed)
        assert bus.counts.subscriptions == 2


async def test_half_open_connection_is_noticed_by_the_deadline(server: Server) -> None:
    """A connection that delivers nothing ends at the deadline and is replaced."""
    async with FaultProxy(server.port) as proxy, opened(proxy.url) as log:
        bus = log.bus()
        bus.silence_seconds_max = 0.5
        bus.start()
        await until(bus, is_subscribed)
        proxy.set_fault(Fault.BLACK_HOLE)
        gone = await until(bus, is_reconnecting)
        proxy.set_fault(Fault.NONE)
        proxy.reset()
        back = await until(bus, is_subscribed)

    assert "nothing was received for 0.5 s" in gone[-1].reason
    assert isinstance(back[-1], Subscribed)


async def test_subscriber_cut_for_its_output_buffer_subscribes_again(server: Server) -> None:
    """A slow subscriber that the server disconnects subscribes again and reads the log."""
    server.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0")
    async with FaultProxy(server.port) as proxy, opened(server.url) as log:
        through = type(log)(proxy.url)
        bus = through.bus()
        bus.start()
        await until(bus, is_subscribed)
        proxy.set_fault(Fault.TO_SERVER_ONLY)
        for batch in range(200):
            await log.append([put(f"r{batch}-{n}", text="x" * 3_000) for n in range(40)])
            if b"name=" and "sub=1" not in server.call("CLIENT", "LIST", "TYPE", "pubsub"):
                break
        cut_after = batch
        proxy.set_fault(Fault.NONE)
        events = await until(bus, is_subscribed)
        await through.close()

    assert cut_after < 199
    assert any(map(is_reconnecting, events))


async def test_forged_and_oversized_messages_are_counted_and_ignored(server: Server) -> None:
    """After any published garbage the loop continues with the next valid entry."""
    sound = "SR1 B 1 1 " + "0" * 40 + " 1 open me\n"
    garbage = [
        "garbage",
        "",
        "SR1 B 1 1 short 1 open me\n",
        sound[:-1],
        "SR1 B 99999999999999999 1 " + "0" * 40 + " 1 open me\n",
        "SR1 E 1 2 " + "0" * 40 + " " + "1" * 40 + " 1 10\n0123456789",
        "SR1 E 1 2 " + "0" * 40 + " " + "1" * 40 + " 1 999999\nshort",
        "SR1 P 1 2 " + "0" * 40 + " " + "1" * 40 + " 1 100\n" + "h" * 100,
        sound * 600,
        "x" * (MESSAGE_BYTES_MAX + 1),
    ]
    async with opened(server.url) as log:
        bus = log.bus()
        bus.start()
        await until(bus, is_subscribed)
        for message in garbage:
            server.call("PUBLISH", "sr:{default}:bus", message)
        await log.append([put("sound")])
        events = await until(bus, is_entry)

    assert [put("sound")] == [event.message.proposal for event in events]
    assert len(garbage) == bus.counts.malformed
    assert bus.counts.subscriptions == 1


async def test_slow_consumer_is_told_how_much_it_missed(valkey_server: Server) -> None:
    """The socket is read further; events that do not fit are dropped and counted."""
    async with opened(valkey_server.url) as log:
        bus = log.bus()
        bus.queue_events_max = 5
        bus.start()
        await until(bus, is_subscribed)
        for number in range(12):
            await log.append([put(f"r{number}")])
        while bus.counts.messages < 12:
            await asyncio.sleep(0.01)
        await log.append([put("after")])
        events = await until(bus, is_entry)

    assert [Missed(12)] == events[:-1]
    assert put("after") == events[-1].message.proposal
    assert bus.counts.dropped == 12


async def test_bus_closes_quickly_and_ends_its_iteration(server: Server) -> None:
    """``close`` works with a frozen server, and the iteration ends."""
    async with opened(server.url) as log:
        bus = log.bus()
        bus.start()
        await until(bus, is_subscribed)
        server.pause()
        consumer = asyncio.create_task(_drain(bus))
        async with asyncio.timeout(WAIT_SECONDS):
            await bus.close()
            left = await consumer
        server.resume()

    assert left == []


async def _drain(bus: Bus) -> list[BusEvent]:
    return [event async for event in bus.events()]

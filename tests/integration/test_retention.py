"""Goal: the log stays under its limit without a coordinator, and keeps what nodes still need.

Method: the real client and scripts on a real server; positions as simulated nodes report them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from redis_logs import Author, opened, put, report
from servers import Server
from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import Cause, Decision
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.appender import WriteLimits
from synaptoroute.sequencer.epochs import ClusterIdentity, RecoveryOutcome, Trimmed, TrimOutcome
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.log_reads import Coverage
from synaptoroute.sequencer.retention import RetentionLimits
from synaptoroute.sequencer.scripts import Head

pytestmark = pytest.mark.integration
VOTERS = ("a", "b", "c")
SMALL = RetentionLimits(log_bytes_max=40_000, retain_bytes=16_000, retain_entries=1_000)
IMPATIENT = WriteLimits(room_seconds=0.3)


async def head_of(log: RedisLog) -> Head:
    head = await log.head()
    assert isinstance(head, Head)
    return head


async def hold(log: RedisLog, nodes: Sequence[str], at: Position | None = None) -> None:
    """Let nodes report a position; the head if none is given."""
    for node in nodes:
        await log.presence.heartbeat(report(node, at or (await head_of(log)).position))


async def write(log: RedisLog, count: int, name: str, *holders: str) -> None:
    """Write entries of about 450 bytes; the author and some nodes hold each at once."""
    author = Author(log)
    await author.join()
    for number in range(count):
        await log.append([put(f"{name}{number}", text="x" * 400)])
        await author.join()
        await hold(log, holders)


async def change_epoch(log: RedisLog, number: int) -> None:
    """Open the next epoch upon the kept stream, as after a restart of the server."""
    head = await head_of(log)
    ballot = await log.epochs.begin(
        Cause.FORCED,
        above=head.epoch,
        seen=head.epoch_id,
        node_id="a",
        identity=ClusterIdentity("", "", 0, 1, VOTERS),
    )
    assert isinstance(ballot, Ballot)
    decision = Decision(head.position, True, VOTERS, VOTERS, (), True, 0)
    lease = log.lease("recovery", f"a{number}")
    held = await lease.acquire()
    assert isinstance(held, Held)
    opened_head = await head_of(log)
    acted = await log.epochs.reopen(
        held,
        opened_head,
        decision,
        encoder=(head.fingerprint, head.dim),
        floor=head.seq + 1,
        floor_chain=head.chain,
    )
    assert acted.outcome is RecoveryOutcome.OK
    await lease.release(held)


async def test_log_is_trimmed_across_epochs(server: Server) -> None:
    """Entries of former epochs are dropped, wherever the floor is."""
    async with opened(server.url) as log:
        places = []
        for epoch in range(4):
            await write(log, 5, f"e{epoch}-", *VOTERS)
            places.append((await head_of(log)).seq - 2)
            await change_epoch(log, epoch)
        await hold(log, VOTERS)
        every = (await log.read(Position(1, 0))).entries
        epoch = (await head_of(log)).epoch
        for floor in places:
            trimmed = await log.epochs.trim(None, epoch, floor)
            head = await head_of(log)
            left = await log.read(Position(every[floor - 2].epoch, floor - 1))

            assert isinstance(trimmed, Trimmed)
            assert trimmed.outcome is TrimOutcome.TRIMMED
            assert (head.floor, head.floor_chain) == (floor, every[floor - 2].chain)
            assert head.kept_bytes == sum(len(entry.frame) for entry in every[floor - 1 :])
            assert every[floor - 1 :] == left.entries


async def test_log_is_trimmed_to_bytes(server: Server) -> None:
    """As few entries go as are needed for the rest to fit."""
    async with opened(server.url) as log:
        await write(log, 10, "a", *VOTERS)
        await change_epoch(log, 1)
        await write(log, 10, "b", *VOTERS)
        every = (await log.read(Position(1, 0))).entries
        head = await head_of(log)
        await log.epochs.trim(None, head.epoch, head.seq, keep_bytes=3_000)
        kept = await head_of(log)

    sizes = [len(entry.frame) for entry in every[kept.floor - 1 :]]
    assert kept.kept_bytes == sum(sizes) <= 3_000
    assert sum(sizes) + len(every[kept.floor - 2].frame) > 3_000


async def test_writes_are_not_refused_while_nodes_are_live(server: Server) -> None:
    """The writer drops what the nodes hold when the log is full; nothing else trims."""
    async with opened(server.url, retention=SMALL) as log:
        await write(log, 300, "r", *VOTERS)
        head = await head_of(log)

    assert head.kept_bytes <= SMALL.log_bytes_max
    assert head.floor > 100


async def test_write_larger_than_the_rest_waits_for_room(server: Server) -> None:
    """A write waits until a majority reports that it holds the oldest entries."""
    async with opened(server.url, retention=SMALL) as log:
        author = Author(log)
        await author.join()
        while (await head_of(log)).kept_bytes < SMALL.log_bytes_max - 2_000:
            await log.append([put(f"r{author.at.seq}", text="x" * 400)])
            await author.join()
        waiting = asyncio.create_task(log.append([put("large", text="y" * 3_000)]))
        await asyncio.sleep(0.3)
        is_waiting = not waiting.done()
        await hold(log, VOTERS)
        placed = await waiting

    assert is_waiting
    assert placed.at is not None


async def test_log_without_a_majority_becomes_full(server: Server) -> None:
    """What only one of three voters holds is not dropped; the refusal names the cause."""
    async with opened(server.url, retention=SMALL, limits=IMPATIENT) as log:
        with pytest.raises(SequencerUnavailable) as refused:
            await write(log, 300, "r", "a")
        head = await head_of(log)
        is_full = log.is_full(head.kept_bytes)
        everything = await log.read(Position())
        await hold(log, VOTERS)
        await log.append([put("after", text="x" * 400)])
        is_full_after = log.is_full((await head_of(log)).kept_bytes)

    assert refused.value.fields["reason"] is Reason.FULL
    assert refused.value.fields["outcome"] == "not_taken"
    assert is_full
    assert not is_full_after
    assert (head.floor, everything.coverage) == (1, Coverage.WHOLE)


async def test_node_trims_without_a_coordinator(server: Server) -> None:
    """Above its retention the log is trimmed behind all live nodes, by bytes and by count."""
    by_count = RetentionLimits(retain_entries=40)
    async with opened(server.url, retention=SMALL) as log:
        await write(log, 60, "r", *VOTERS)
        dropped = await log.retention.keep(await head_of(log))
        kept = await head_of(log)
        again = await log.retention.keep(kept)
    async with opened(server.url, retention=by_count) as log:
        await write(log, 60, "s", *VOTERS)
        await log.retention.keep(await head_of(log))
        counted = await head_of(log)

    assert dropped > 0
    assert again == 0
    assert kept.kept_bytes <= SMALL.target_bytes
    assert counted.seq - counted.floor + 1 == 40


async def test_live_node_that_is_behind_delays_a_trim_until_the_log_is_pressed(
    server: Server,
) -> None:
    """A node that is behind reads the log while there is room, and no longer."""
    async with opened(server.url, retention=SMALL) as log:
        await write(log, 10, "r", *VOTERS)
        await hold(log, ["slow"])
        slow = (await head_of(log)).seq
        await write(log, 40, "s", *VOTERS)
        above = await head_of(log)
        await log.retention.keep(above)
        waiting = await head_of(log)
        await write(log, 30, "t", *VOTERS)
        await log.retention.keep(await head_of(log))
        pressed = await head_of(log)

    assert SMALL.bytes_max < above.kept_bytes < SMALL.pressed_bytes
    assert waiting.floor <= slow + 1
    assert pressed.floor > slow + 1


async def test_false_positions_drop_nothing_that_this_node_lacks(server: Server) -> None:
    """Positions in Redis are claims; the node's own disk bounds what it drops."""
    async with opened(server.url, retention=SMALL, limits=IMPATIENT) as log:
        author = Author(log)
        own = await author.join()
        for number in range(60):
            await log.append([put(f"r{number}", text="x" * 400)])
        head = await head_of(log)
        for voter in VOTERS:
            await log.presence.report_position(voter, head.position)
        dropped = await log.retention.keep(head)
        for voter in VOTERS:
            server.call("ZADD", "sr:{default}:pos:1", "inf", voter)
        claimed = await log.epochs.trim(None, 1, head.seq)

    assert own.seq == 1
    assert dropped <= own.seq
    assert isinstance(claimed, Trimmed)
    assert claimed.outcome is TrimOutcome.NO_QUORUM


async def test_server_without_memory_is_trimmed_by_a_write(server: Server) -> None:
    """A trim is allowed over maxmemory; the write that made it is not refused."""
    limits = RetentionLimits(retain_bytes=1_000_000)
    async with opened(server.url, retention=limits) as log:
        author = Author(log)
        await author.join()
        for number in range(60):
            await log.append([put(f"r{number}-{n}", text="x" * 8_000) for n in range(100)])
            await author.join()
        await hold(log, VOTERS)
        used = next(
            int(line.split(":")[1])
            for line in server.call("INFO", "memory").splitlines()
            if line.startswith("used_memory:")
        )
        server.call("CONFIG", "SET", "maxmemory", str(used - 200_000))
        placed = await log.append([put("after")])

    assert placed.at is not None


def test_retention_is_below_the_limit() -> None:
    """A retention above the limit would only trim a log that is full already."""
    limits = RetentionLimits(log_bytes_max=1_000, retain_bytes=5_000)

    assert limits.target_bytes < limits.bytes_max < limits.pressed_bytes < limits.log_bytes_max

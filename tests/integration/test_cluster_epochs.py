"""Goal: a log is founded once, and trimmed only if a majority holds it.

Method: two founders, forged reports, expired leases.
"""

from __future__ import annotations

import asyncio

import pytest

from redis_logs import DIM, FINGERPRINT, opened, put, report
from servers import Server
from synaptoroute.core.mutation import CHAIN_START, Position
from synaptoroute.errors import ConfigError
from synaptoroute.sequencer.append_errors import NotPlaced, Reason
from synaptoroute.sequencer.epochs import (
    FoundingOutcome,
    TrimOutcome,
)
from synaptoroute.sequencer.lease import Held, Taken
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.log_reads import Coverage
from synaptoroute.sequencer.scripts import Head

pytestmark = pytest.mark.integration

META = "sr:{default}:meta"
LOG = "sr:{default}:log:1"


async def found(log: RedisLog, epoch_id: str) -> FoundingOutcome:
    """Try to found the log under a ballot."""
    founding = await log.epochs.found(
        fingerprint=FINGERPRINT, dim=DIM, voters=["a"], epoch_id=epoch_id
    )
    return founding.outcome


async def positions_of(log: RedisLog) -> list[Position]:
    """Position after each entry of the log."""
    return [entry.position for entry in (await log.read(Position())).entries]


async def test_one_of_many_founders_wins(server: Server) -> None:
    """Concurrent founders found one log."""
    log = RedisLog(server.url)
    outcomes = await asyncio.gather(*(found(log, f"ballot-{n}") for n in range(8)))
    entries = (await log.read(Position())).entries
    await log.close()

    assert 1 == outcomes.count(FoundingOutcome.FOUNDED)
    assert 7 == outcomes.count(FoundingOutcome.EXISTS)
    assert 1 == len(entries)


async def test_founding_can_be_repeated_after_a_lost_answer(server: Server) -> None:
    """The same ballot founds the same log."""
    log = RedisLog(server.url)
    outcomes = [await found(log, "ballot"), await found(log, "ballot"), await found(log, "other")]
    await log.close()

    assert [FoundingOutcome.FOUNDED, FoundingOutcome.FOUNDED, FoundingOutcome.EXISTS] == outcomes


async def test_log_that_lost_its_header_is_not_founded_again(server: Server) -> None:
    """Entries without a header mean a loss, which needs a recovery."""
    async with opened(server.url) as log:
        await log.append([put("kept")])
        server.call("DEL", META)
        outcome = await found(log, "new")

    assert outcome is FoundingOutcome.REMNANTS


async def test_founding_is_refused_if_a_node_holds_data(server: Server) -> None:
    """A wiped server and a node with entries need a recovery, not a new cluster."""
    log = RedisLog(server.url)
    await log.presence.heartbeat(report("a", Position(1, 5, "a" * 40)))
    outcome = await found(log, "new")
    await log.close()

    assert outcome is FoundingOutcome.REMNANTS


async def test_founding_needs_voters(valkey_server: Server) -> None:
    """A log without voters could never be trimmed or recovered."""
    log = RedisLog(valkey_server.url)
    with pytest.raises(ConfigError):
        await log.epochs.found(fingerprint=FINGERPRINT, dim=DIM, voters=[])
    await log.close()


async def test_trim_drops_what_a_majority_holds_and_no_more(server: Server) -> None:
    """The floor follows the voters; readers below it get the floor."""
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(9)])
        at = await positions_of(log)
        lease = await log.lease("trim", "me").acquire()
        assert isinstance(lease, Held)
        await log.presence.report_position("a", at[9])
        unheld = await log.epochs.trim(lease, 1, 6)
        await log.presence.report_position("b", at[4])
        trimmed = await log.epochs.trim(lease, 1, 6)
        again = await log.epochs.trim(lease, 1, 6)
        beyond = await log.epochs.trim(lease, 1, 11)
        behind = await log.read(at[3])
        level = await log.read(at[4])
        head = await log.head()
        await log.append([put("after")])

    assert isinstance(unheld, type(trimmed))
    assert unheld.outcome is TrimOutcome.NO_QUORUM
    assert (trimmed.outcome, trimmed.entries) == (TrimOutcome.TRIMMED, 5)
    assert again.entries == 0
    assert beyond.outcome is TrimOutcome.BEYOND
    assert (behind.coverage, behind.floor, behind.entries) == (Coverage.TRIMMED, 6, ())
    assert [6, 7, 8, 9, 10] == [entry.seq for entry in level.entries]
    assert isinstance(head, Head)
    assert (head.floor, head.floor_chain) == (6, at[4].chain)
    assert head.kept_bytes == sum(len(entry.frame) for entry in level.entries)


async def test_trim_works_where_memory_is_used_up(server: Server) -> None:
    """A trim is allowed over maxmemory, because it frees memory."""
    async with opened(server.url, voters=("a",)) as log:
        await log.append([put(f"r{n}") for n in range(9)])
        at = await positions_of(log)
        lease = await log.lease("trim", "me").acquire()
        assert isinstance(lease, Held)
        server.call("CONFIG", "SET", "maxmemory", "1")
        await log.presence.heartbeat(report("a", at[9]))
        trimmed = await log.epochs.trim(lease, 1, 10)

    assert not isinstance(trimmed, NotPlaced)
    assert trimmed.entries == 9


async def test_expired_lease_trims_nothing(server: Server) -> None:
    """The token of an old holder is refused."""
    async with opened(server.url, voters=("a",)) as log:
        await log.append([put(f"r{n}") for n in range(5)])
        at = await positions_of(log)
        await log.presence.report_position("a", at[5])
        old = await log.lease("trim", "old").acquire()
        server.call("DEL", "sr:{default}:lease:trim")
        new = await log.lease("trim", "new").acquire()
        assert isinstance(old, Held)
        fenced = await log.epochs.trim(old, 1, 4)

    assert isinstance(new, Held)
    assert new.token > old.token
    assert fenced.outcome is TrimOutcome.FENCED


async def test_closed_log_is_not_trimmed(server: Server) -> None:
    """During a recovery nothing is dropped."""
    async with opened(server.url, voters=("a",)) as log:
        await log.append([put("r")])
        lease = await log.lease("trim", "me").acquire()
        server.call("HSET", META, "state", "recovering")
        assert isinstance(lease, Held)
        refused = await log.epochs.trim(lease, 1, 2)

    assert NotPlaced(Reason.CLOSED, "recovering") == refused


async def test_lease_is_acquired_renewed_and_released(server: Server) -> None:
    """One owner at a time; tokens grow, also when the counter was lost."""
    log = RedisLog(server.url)
    mine, other = log.lease("work", "mine"), log.lease("work", "other")
    held = await mine.acquire()
    taken = await other.acquire()
    assert isinstance(held, Held)
    kept = await mine.renew(held)
    await mine.release(held)
    lost = await mine.renew(held)
    server.call("FLUSHALL")
    after = await other.acquire()
    await log.close()

    assert isinstance(taken, Taken)
    assert taken.owner == "mine"
    assert 0 < taken.left_ms <= 5_000
    assert kept == held
    assert Taken("", 0) == lost
    assert isinstance(after, Held)
    assert after.token > held.token
    assert after.token > CHAIN_START.count("0")

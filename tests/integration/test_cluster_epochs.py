"""Goal: a log is founded once, reopened only whole, trimmed only where it is held.

Method: two founders, restarts with and without loss, forged reports, expired leases.
"""

from __future__ import annotations

import asyncio

import pytest

from cluster_room import DIM, FINGERPRINT, join, opened, put, report, restart
from servers import Server
from synaptoroute.cluster.epochs import (
    RETRY,
    FoundingOutcome,
    Reopening,
    ReopeningOutcome,
    TrimOutcome,
)
from synaptoroute.cluster.lease import Held, Taken
from synaptoroute.cluster.reader import Coverage
from synaptoroute.cluster.redis_log import RedisLog
from synaptoroute.cluster.refusals import Reason
from synaptoroute.cluster.scripts import Head, NotPlaced
from synaptoroute.core.mutation import CHAIN_START, Position, Revision
from synaptoroute.errors import ConfigError, SequencerUnavailable

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


async def reopen(log: RedisLog, ballot: str | Reopening) -> Reopening:
    """Try to reopen epoch 1 under a ballot."""
    assert isinstance(ballot, str)
    return await log.epochs.reopen(1, ballot)


async def restarted(start_server, kind: str) -> Server:
    """A server whose data survived a kill: a log of five entries, closed by the fence."""
    server = start_server(kind, appendonly="yes", appendfsync="always")
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(4)])
    await restart(server)
    return server


@pytest.fixture(params=["redis", "valkey"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server."""
    return str(request.param)


async def test_one_of_many_founders_wins(server: Server) -> None:
    """Founders that come together found one log."""
    log = RedisLog(server.url)
    outcomes = await asyncio.gather(*(found(log, f"ballot-{n}") for n in range(8)))
    entries = (await log.read(Position())).entries
    await log.close()

    assert 1 == outcomes.count(FoundingOutcome.FOUNDED)
    assert 7 == outcomes.count(FoundingOutcome.EXISTS)
    assert 1 == len(entries)


async def test_founder_whose_answer_was_lost_may_ask_again(server: Server) -> None:
    """The same ballot founds the same log."""
    log = RedisLog(server.url)
    outcomes = [await found(log, "ballot"), await found(log, "ballot"), await found(log, "other")]
    await log.close()

    assert [FoundingOutcome.FOUNDED, FoundingOutcome.FOUNDED, FoundingOutcome.EXISTS] == outcomes


async def test_log_that_lost_its_header_is_not_founded_again(server: Server) -> None:
    """Entries without a header are a loss to recover from."""
    async with opened(server.url) as log:
        await log.append([put("kept")])
        server.call("DEL", META)
        outcome = await found(log, "new")

    assert outcome is FoundingOutcome.REMNANTS


async def test_nodes_with_data_forbid_a_founding(server: Server) -> None:
    """A wiped server and a node that holds entries are a recovery, not a new cluster."""
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


async def test_open_log_needs_no_recovery(server: Server) -> None:
    """Without a restart there is nothing to prove."""
    async with opened(server.url) as log:
        reopening = await log.epochs.recover()

    assert Reopening(ReopeningOutcome.OPEN) == reopening


async def test_restart_with_data_intact_reopens(start_server, kind: str) -> None:
    """When every live node and a majority have reported a prefix, writes go on."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = await positions_of(log)
        ballot = await log.epochs.recover()
        again = await log.epochs.recover()
        await log.presence.heartbeat(report("a", at[4]))
        first = await reopen(log, ballot)
        await log.presence.heartbeat(report("b", at[2]))
        await log.presence.heartbeat(report("observer", at[0], role="observer"))
        second = await reopen(log, ballot)
        head = await log.head()
        await join(log)
        placed = await log.append([put("after")])

    assert again == ballot
    assert first.outcome is ReopeningOutcome.WAITING
    assert first.outcome in RETRY
    assert second.outcome is ReopeningOutcome.OPEN
    assert isinstance(head, Head)
    assert head.is_open
    assert not head.rec_id
    assert placed.at == Revision(1, 6)


async def test_live_node_that_has_not_reported_is_waited_for(start_server, kind: str) -> None:
    """A majority is not enough while a live node may hold more."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = await positions_of(log)
        await log.presence.heartbeat(report("slow", at[4], role="observer"))
        ballot = await log.epochs.recover()
        for voter in ("a", "b", "c"):
            await log.presence.heartbeat(report(voter, at[4]))
        waiting = await reopen(log, ballot)
        await log.presence.heartbeat(report("slow", at[4], role="observer"))
        reopened = await reopen(log, ballot)

    assert Reopening(ReopeningOutcome.WAITING, ("slow",)) == waiting
    assert reopened.outcome is ReopeningOutcome.OPEN


async def test_node_that_holds_more_keeps_the_log_closed(start_server, kind: str) -> None:
    """A position after the head proves that the server lost entries."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = await positions_of(log)
        ballot = await log.epochs.recover()
        for voter in ("a", "b"):
            await log.presence.heartbeat(report(voter, at[4]))
        await log.presence.heartbeat(report("c", Position(1, 9, "c" * 40)))
        reopening = await reopen(log, ballot)
        head = await log.head()

    assert Reopening(ReopeningOutcome.BEHIND, ("c",), Revision(1, 9)) == reopening
    assert reopening.outcome not in RETRY
    assert isinstance(head, Head)
    assert head.state == "recovering"


@pytest.mark.parametrize("seq", [5, 3], ids=["at the head", "before it"])
async def test_node_with_other_entries_keeps_the_log_closed(
    start_server, kind: str, seq: int
) -> None:
    """A chain that differs at any kept place is a fork."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = await positions_of(log)
        ballot = await log.epochs.recover()
        for voter in ("a", "b"):
            await log.presence.heartbeat(report(voter, at[4]))
        await log.presence.heartbeat(report("c", Position(1, seq, "c" * 40)))
        reopening = await reopen(log, ballot)

    assert Reopening(ReopeningOutcome.FORKED, ("c",), Revision(1, seq)) == reopening


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("XDEL", LOG, "1-3"), "missing"),
        (("DEL", LOG), "missing"),
        (("HSET", META, "chain", "9" * 40), "last entry"),
        (("HSET", META, "floor_chain", "9" * 40), "first entry"),
    ],
)
async def test_torn_log_stays_closed(
    start_server, kind: str, damage: tuple[str, ...], words: str
) -> None:
    """A stream that is not what its header says is not opened."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = await positions_of(log)
        ballot = await log.epochs.recover()
        for voter in ("a", "b"):
            await log.presence.heartbeat(report(voter, at[4]))
        server.call(*damage)
        reopening = await reopen(log, ballot)

    assert reopening.outcome is ReopeningOutcome.TORN
    assert words in reopening.detail


async def test_second_restart_voids_the_ballot(start_server, kind: str) -> None:
    """A ballot belongs to one life of the server; reports to it count there only."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = await positions_of(log)
        old = await log.epochs.recover()
        await log.presence.heartbeat(report("a", at[4]))
        await log.presence.heartbeat(report("b", at[4]))
        await restart(server)
        void = await reopen(log, old)
        new = await log.epochs.recover()
        unreported = await reopen(log, new)
        superseded = await reopen(log, old)

    assert void.outcome is ReopeningOutcome.RESTARTED
    assert new != old
    assert unreported.outcome is ReopeningOutcome.WAITING
    assert superseded.outcome is ReopeningOutcome.SUPERSEDED


async def test_trim_drops_what_a_majority_holds_and_no_more(server: Server) -> None:
    """The floor follows the voters; beyond it readers are told where it is."""
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(9)])
        at = await positions_of(log)
        lease = await log.lease("trim", "me").acquire()
        assert isinstance(lease, Held)
        await log.presence.report_position("a", at[9])
        unheld = await log.epochs.trim(lease, 1, Revision(1, 6))
        await log.presence.report_position("b", at[4])
        trimmed = await log.epochs.trim(lease, 1, Revision(1, 6))
        again = await log.epochs.trim(lease, 1, Revision(1, 6))
        beyond = await log.epochs.trim(lease, 1, Revision(1, 11))
        behind = await log.read(at[3])
        level = await log.read(at[4])
        head = await log.head()
        await log.append([put("after")])

    assert isinstance(unheld, type(trimmed))
    assert unheld.outcome is TrimOutcome.UNHELD
    assert (trimmed.outcome, trimmed.entries) == (TrimOutcome.TRIMMED, 5)
    assert again.entries == 0
    assert beyond.outcome is TrimOutcome.BEYOND
    assert (behind.coverage, behind.floor, behind.entries) == (Coverage.TRIMMED, 6, ())
    assert [6, 7, 8, 9, 10] == [entry.seq for entry in level.entries]
    assert isinstance(head, Head)
    assert (head.floor, head.floor_chain) == (6, at[4].chain)
    assert head.kept_bytes == sum(len(entry.frame) for entry in level.entries)


async def test_trimmed_log_reopens_after_a_restart(start_server, kind: str) -> None:
    """A floor is part of a whole log."""
    server = start_server(kind, appendonly="yes", appendfsync="always")
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(4)])
        at = await positions_of(log)
        lease = await log.lease("trim", "me").acquire()
        assert isinstance(lease, Held)
        for voter in ("a", "b"):
            await log.presence.report_position(voter, at[4])
        await log.epochs.trim(lease, 1, Revision(1, 4))
        await restart(server)
        ballot = await log.epochs.recover()
        await log.presence.heartbeat(report("a", at[4]))
        await log.presence.heartbeat(report("b", at[2]))
        await log.presence.heartbeat(report("late", at[0], role="observer"))
        reopening = await reopen(log, ballot)

    assert reopening.outcome is ReopeningOutcome.OPEN


async def test_trim_works_where_memory_is_used_up(server: Server) -> None:
    """What frees memory is allowed over the limit."""
    async with opened(server.url, voters=("a",)) as log:
        await log.append([put(f"r{n}") for n in range(9)])
        at = await positions_of(log)
        lease = await log.lease("trim", "me").acquire()
        assert isinstance(lease, Held)
        server.call("CONFIG", "SET", "maxmemory", "1")
        await log.presence.heartbeat(report("a", at[9]))
        trimmed = await log.epochs.trim(lease, 1, Revision(1, 10))

    assert not isinstance(trimmed, NotPlaced)
    assert trimmed.entries == 9


async def test_lease_that_ran_out_trims_nothing(server: Server) -> None:
    """An old holder is fenced off by its token."""
    async with opened(server.url, voters=("a",)) as log:
        await log.append([put(f"r{n}") for n in range(5)])
        at = await positions_of(log)
        await log.presence.report_position("a", at[5])
        old = await log.lease("trim", "old").acquire()
        server.call("DEL", "sr:{default}:lease:trim")
        new = await log.lease("trim", "new").acquire()
        assert isinstance(old, Held)
        fenced = await log.epochs.trim(old, 1, Revision(1, 4))

    assert isinstance(new, Held)
    assert new.token > old.token
    assert fenced.outcome is TrimOutcome.FENCED


async def test_closed_log_is_not_trimmed(server: Server) -> None:
    """While a recovery goes on nothing is dropped."""
    async with opened(server.url, voters=("a",)) as log:
        await log.append([put("r")])
        lease = await log.lease("trim", "me").acquire()
        server.call("HSET", META, "state", "recovering")
        assert isinstance(lease, Held)
        refused = await log.epochs.trim(lease, 1, Revision(1, 2))

    assert NotPlaced(Reason.CLOSED, "recovering") == refused


async def test_lease_is_held_kept_and_given_back(server: Server) -> None:
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


async def test_frozen_log_stays_frozen(server: Server) -> None:
    """What an operator closed, no node opens."""
    async with opened(server.url) as log:
        server.call("HSET", META, "state", "frozen")
        reopening = await log.epochs.recover()
        with pytest.raises(SequencerUnavailable) as caught:
            await log.append([put("no")])

    assert Reopening(ReopeningOutcome.FROZEN) == reopening
    assert caught.value.fields["detail"] == "frozen"

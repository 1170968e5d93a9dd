"""Goal: the scripts of an epoch change open a log once, completely, and on one server.

Method: a log of five entries on a server that was killed; reports as nodes would give them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from redis_logs import DIM, FINGERPRINT, join, opened, put, report, restart
from servers import Server
from synaptoroute.core.mutation import Ballot, Entry, OpenEpoch, Position, Revision
from synaptoroute.core.recovery import Cause, Decision, decide
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.sequencer.epochs import (
    ClusterIdentity,
    LogCheck,
    RecoveryOutcome,
    RecoveryResult,
    RefillEntry,
)
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.scripts import Head

pytestmark = pytest.mark.integration
StartServer = Callable[..., Server]
META = "sr:{default}:meta"
LOG = "sr:{default}:log:1"
VOTERS = ("a", "b", "c")
ENCODER = (FINGERPRINT, DIM)
IDENTITY = ClusterIdentity("1" * 32, *ENCODER, 1, VOTERS)


async def entries_of(log: RedisLog) -> list[Entry]:
    """Everything in the log."""
    return list((await log.read(Position())).entries)


async def begin(
    log: RedisLog,
    cause: Cause = Cause.RESTARTED,
    seen: str = "",
    identity: ClusterIdentity = IDENTITY,
) -> Ballot:
    """Close the log with a ballot."""
    ballot = await log.epochs.begin(cause, above=0, seen=seen, node_id="a", identity=identity)
    assert isinstance(ballot, Ballot), ballot
    return ballot


async def answer(log: RedisLog, ballot: Ballot, **at: Position) -> None:
    """Let nodes report to a ballot."""
    for node_id, position in at.items():
        await log.presence.heartbeat(report(node_id, position), promise=ballot, voters=VOTERS)


async def log_check(log: RedisLog, ballot: Ballot) -> LogCheck:
    """Read the reports."""
    head = await log.head()
    assert isinstance(head, Head)
    found = await log.epochs.check_log(head.epoch, ballot)
    assert isinstance(found, LogCheck), found
    return found


async def decision(log: RedisLog, ballot: Ballot) -> Decision:
    """Decide from the reports."""
    found = await log_check(log, ballot)
    decided = decide(ballot, found.reports, found.kept)
    assert isinstance(decided, Decision), decided
    return decided


async def reopen(
    log: RedisLog, decided: Decision, entries: list[Entry] | None = None
) -> RecoveryResult:
    """Open the next epoch, with a stream that is refilled where entries are given."""
    head = await log.head()
    assert isinstance(head, Head)
    assert head.ballot is not None
    lease = log.lease("recovery", "a")
    held = await lease.acquire()
    assert isinstance(held, Held)
    floor, floor_chain = decided.base.seq + 1, decided.base.chain
    if entries is not None:
        kept = [
            RefillEntry(e.epoch, e.seq, e.time_us, e.prev_chain, e.chain, e.frame) for e in entries
        ]
        filled = await log.epochs.refill(lease, held, head.ballot, kept)
        assert RecoveryResult(RecoveryOutcome.OK) == filled
        floor, floor_chain = entries[0].seq, entries[0].prev_chain
    acted = await log.epochs.reopen(
        held, head, decided, encoder=ENCODER, floor=floor, floor_chain=floor_chain
    )
    await lease.release(held)
    return acted


@pytest.fixture(params=["redis", "valkey"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server."""
    return str(request.param)


async def restarted(start_server: StartServer, kind: str) -> Server:
    """A server whose data survived a kill: a log of five entries, closed by the fence."""
    server = start_server(kind, appendonly="yes", appendfsync="always")
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(4)])
    await restart(server)
    return server


async def test_open_log_is_not_closed_without_proof(server: Server) -> None:
    """A false restart, or a proof against another epoch, does not close the log."""
    async with opened(server.url) as log:
        for cause, seen in ((Cause.RESTARTED, ""), (Cause.REGRESSED, "another epoch")):
            begun = await log.epochs.begin(
                cause, above=0, seen=seen, node_id="a", identity=IDENTITY
            )
            assert RecoveryResult(RecoveryOutcome.OPEN) == begun


async def test_frozen_log_stays_frozen(server: Server) -> None:
    """No ballot opens a log that an operator closed."""
    async with opened(server.url) as log:
        server.call("HSET", META, "state", "frozen")
        begun = await log.epochs.begin(
            Cause.FORCED, above=0, seen="", node_id="a", identity=IDENTITY
        )
        with pytest.raises(SequencerUnavailable) as caught:
            await log.append([put("no")])

    assert RecoveryResult(RecoveryOutcome.FROZEN) == begun
    assert caught.value.fields["detail"] == "frozen"


async def test_unfrozen_log_goes_on_where_it_was(server: Server) -> None:
    async with opened(server.url) as log:
        before = await log.head()
        unfrozen = await log.epochs.unfreeze("a")
        server.call("HSET", META, "state", "frozen")
        again = await log.epochs.unfreeze("a")
        placed = await log.append([put("yes")])
        after = await log.head()

    assert RecoveryResult(RecoveryOutcome.OPEN, "open") == unfrozen
    assert RecoveryResult(RecoveryOutcome.OK, "open") == again
    assert isinstance(before, Head)
    assert isinstance(after, Head)
    assert placed.at is not None
    assert (before.seq + 1, before.epoch_id) == (placed.at.seq, after.epoch_id)


async def test_frozen_recovery_goes_on(server: Server) -> None:
    async with opened(server.url) as log:
        head = await log.head()
        assert isinstance(head, Head)
        begun = await log.epochs.begin(
            Cause.FORCED, above=0, seen=head.epoch_id, node_id="a", identity=IDENTITY
        )
        server.call("HSET", META, "state", "frozen")
        unfrozen = await log.epochs.unfreeze("a")
        head = await log.head()

    assert RecoveryResult(RecoveryOutcome.OK, "recovering") == unfrozen
    assert isinstance(head, Head)
    assert begun == head.ballot


async def test_complete_log_continues_as_the_next_epoch(
    start_server: StartServer, kind: str
) -> None:
    """The stream is renamed, one entry opens the epoch, and writes follow it."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        before = await entries_of(log)
        at = [entry.position for entry in before]
        ballot = await begin(log)
        await answer(log, ballot, a=at[4], b=at[2])
        decided = await decision(log, ballot)
        acted = await reopen(log, decided)
        again = await reopen_open(log, decided)
        head = await log.head()
        await join(log)
        placed = await log.append([put("after")])
        after = await entries_of(log)

    assert (at[4], True) == (decided.base, decided.is_kept)
    assert acted.outcome is again.outcome is RecoveryOutcome.OK
    assert isinstance(head, Head)
    assert (True, None, ballot.epoch, ballot.id) == (
        head.is_open,
        head.ballot,
        head.epoch,
        head.epoch_id,
    )
    assert Revision(2, 7) == placed.at
    assert before == after[:5]
    opening = after[5].proposal.mutation
    assert isinstance(opening, OpenEpoch)
    assert (ballot.id, 5, VOTERS) == (opening.epoch_id, opening.base_seq, opening.voters)


async def reopen_open(log: RedisLog, decided: Decision) -> RecoveryResult:
    """Repeat an opening whose answer was lost."""
    head = await log.head()
    assert isinstance(head, Head)
    asked = Ballot(head.epoch, head.epoch_id)
    lease = await log.lease("recovery", "a").acquire()
    assert isinstance(lease, Held)
    closed = Head(**{**{f: getattr(head, f) for f in head.__slots__}, "ballot": asked})
    return await log.epochs.reopen(lease, closed, decided, encoder=ENCODER, floor=6, floor_chain="")


async def test_report_counts_for_its_own_ballot_only(start_server: StartServer, kind: str) -> None:
    """A heartbeat without the promise to this ballot is no report."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = [entry.position for entry in await entries_of(log)]
        ballot = await begin(log)
        await log.presence.heartbeat(report("a", at[4]))
        await answer(log, Ballot(ballot.epoch, "another"), b=at[4])
        none = await log_check(log, ballot)
        await answer(log, ballot, c=at[1])
        one = await log_check(log, ballot)

    assert () == none.reports
    assert {"a", "b"} == set(none.silent)
    assert [("c", at[1], VOTERS)] == [(r.node_id, r.position, r.voters) for r in one.reports]


@pytest.mark.parametrize("seq", [5, 3], ids=["at the head", "before it"])
async def test_stream_that_a_report_contradicts_is_not_kept(
    start_server: StartServer, kind: str, seq: int
) -> None:
    """A chain that differs at any kept place is a fork."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = [entry.position for entry in await entries_of(log)]
        ballot = await begin(log)
        await answer(log, ballot, a=at[4], c=Position(1, seq, "c" * 40))
        found = await log_check(log, ballot)

    assert found.kept is None
    assert "node c" in found.damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("XDEL", LOG, "1-3"), "missing"),
        (("DEL", LOG), "missing"),
        (("HSET", META, "chain", "9" * 40), "last entry"),
        (("HSET", META, "floor_chain", "9" * 40), "first entry"),
    ],
)
async def test_torn_stream_is_not_kept(
    start_server: StartServer, kind: str, damage: tuple[str, ...], words: str
) -> None:
    """A stream that does not match its header is refilled, never opened as it is."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        entries = await entries_of(log)
        at = [entry.position for entry in entries]
        ballot = await begin(log)
        await answer(log, ballot, a=at[4], b=at[3])
        server.call(*damage)
        found = await log_check(log, ballot)
        decided = await decision(log, ballot)
        acted = await reopen(log, decided, entries[2:])
        head = await log.head()
        after = (await log.read(at[1])).entries

    assert found.kept is None
    assert words in found.damage
    assert acted.outcome is RecoveryOutcome.OK
    assert isinstance(head, Head)
    assert (3, at[1].chain, 6) == (head.floor, head.floor_chain, head.seq)
    assert entries[2:] == list(after[:3])


async def test_unapplied_entries_must_link_to_the_chain(
    start_server: StartServer, kind: str
) -> None:
    """An unapplied entry that does not continue the chain makes the stream unusable."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = [entry.position for entry in await entries_of(log)]
        server.call("XADD", LOG, "1-6", "p", "8" * 40, "c", "7" * 40, "t", "0", "b", "1", "f", "x")
        server.call("HSET", META, "seq", "6", "chain", "7" * 40)
        ballot = await begin(log)
        await answer(log, ballot, a=at[4], b=at[4])
        found = await log_check(log, ballot)

    assert "does not continue" in found.damage


async def test_second_restart_voids_the_ballot(start_server: StartServer, kind: str) -> None:
    """A ballot is valid until the server restarts; reports count only until then."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        at = [entry.position for entry in await entries_of(log)]
        old = await begin(log)
        await answer(log, old, a=at[4], b=at[4])
        decided = await decision(log, old)
        await restart(server)
        void = await log.epochs.check_log(1, old)
        refused = await reopen(log, decided)
        new = await begin(log)
        unreported = await log_check(log, new)

    assert RecoveryResult(RecoveryOutcome.RESTARTED) == void
    assert refused.outcome is RecoveryOutcome.RESTARTED
    assert new.epoch > old.epoch
    assert () == unreported.reports


async def test_ballot_is_joined_or_outbid(start_server: StartServer, kind: str) -> None:
    """A second node joins; only a node that names the ballot replaces it by a higher one."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        first = await begin(log)
        joined = await begin(log)
        outbid = await begin(log, Cause.OUTBID, seen=str(first))
        late = await begin(log, Cause.OUTBID, seen=str(first))

    assert first == joined
    assert outbid.epoch == first.epoch + 1
    assert outbid == late


async def test_runner_without_the_lease_is_fenced(start_server: StartServer, kind: str) -> None:
    """With an expired lease nothing is refilled or opened."""
    server = await restarted(start_server, kind)
    async with opened(server.url) as log:
        entries = await entries_of(log)
        at = [entry.position for entry in entries]
        ballot = await begin(log)
        await answer(log, ballot, a=at[4], b=at[4])
        decided = await decision(log, ballot)
        head = await log.head()
        lease = log.lease("recovery", "old")
        held = await lease.acquire()
        assert isinstance(held, Held)
        assert isinstance(head, Head)
        server.call("DEL", "sr:{default}:lease:recovery")
        filled = await log.epochs.refill(lease, held, ballot, [])
        acted = await log.epochs.reopen(
            held, head, decided, encoder=ENCODER, floor=1, floor_chain="0" * 40
        )

    assert filled.outcome is acted.outcome is RecoveryOutcome.FENCED


async def test_lost_header_is_restored_from_a_node(server: Server) -> None:
    """On an emptied server the ballot brings a header; refilled, the log is what it was.

    Whoever begins the ballot may have missed a change of the encoder: the base tells.
    """
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(4)])
        entries = await entries_of(log)
        at = [entry.position for entry in entries]
        server.call("FLUSHALL")
        former = replace(IDENTITY, fingerprint="e" * 64, dim=2)
        ballot = await begin(log, Cause.LOST, identity=former)
        closed = await log.head()
        await answer(log, ballot, a=at[4], b=at[4])
        decided = await decision(log, ballot)
        acted = await reopen(log, decided, entries)
        head = await log.head()
        after = await entries_of(log)

    assert isinstance(closed, Head)
    assert (0, "recovering", IDENTITY.cluster_id) == (closed.epoch, closed.state, closed.cluster_id)
    assert ("e" * 64, 2) == (closed.fingerprint, closed.dim)
    assert acted.outcome is RecoveryOutcome.OK
    assert isinstance(head, Head)
    assert (IDENTITY.cluster_id, FINGERPRINT, DIM, VOTERS) == (
        head.cluster_id,
        head.fingerprint,
        head.dim,
        head.voters,
    )
    assert head.kept_bytes == sum(len(entry.frame) for entry in after)
    assert entries == after[:5]


async def test_trimmed_log_continues_after_a_restart(start_server: StartServer, kind: str) -> None:
    """A trimmed log is complete from its floor on."""
    server = start_server(kind, appendonly="yes", appendfsync="always")
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(4)])
        at = [entry.position for entry in await entries_of(log)]
        lease = await log.lease("trim", "me").acquire()
        assert isinstance(lease, Held)
        for voter in ("a", "b"):
            await log.presence.report_position(voter, at[4])
        await log.epochs.trim(lease, 1, 4)
        await restart(server)
        ballot = await begin(log)
        await answer(log, ballot, a=at[4], b=at[2])
        acted = await reopen(log, await decision(log, ballot))
        head = await log.head()

    assert acted.outcome is RecoveryOutcome.OK
    assert isinstance(head, Head)
    assert (4, 6) == (head.floor, head.seq)

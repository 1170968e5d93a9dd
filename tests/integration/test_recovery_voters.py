"""Goal: a majority of the voters decides a recovery, or an operator forces it.

Method: three real routers on a real server that is emptied while some of them are away.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from followers import (
    META,
    assert_held,
    leave_one,
    numbered,
    peers,
    route,
    until,
    voters_with_routes,
    write_again,
    write_quorum,
)
from servers import Server
from synaptoroute.cluster import RedisLog
from synaptoroute.core.mutation import DeleteRoute, Position, Proposal
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.replication import choice as choice_module
from synaptoroute.replication.catch_up import CatchUpResult
from synaptoroute.sequencer.scripts import Head

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


def promise_in(path: Path) -> str:
    """The ballot that a database holds as promised."""
    with closing(sqlite3.connect(path)) as raw:
        (promised,) = raw.execute("SELECT value FROM node WHERE key = 'promise'").fetchone()
    return str(promised)


async def test_recovery_waits_for_a_majority_or_for_force(
    tmp_path: Path, valkey_server: Server
) -> None:
    """One voter of three opens nothing alone and names the missing ones; forced, it opens."""
    async with voters_with_routes(tmp_path, valkey_server) as (found, written):
        lone = await leave_one(found, valkey_server)
        await until(lambda: "waiting for voters" in lone.follower.status().detail)
        with pytest.raises(SequencerUnavailable):
            await lone.router.aput_route(route("refused"))
        match = await lone.router.aquery("r3")
        await lone.follower.recovery.force()
        await write_again(lone)

        assert "r3" == match.route
        await assert_held(found, [*written, "again"], lone)
        assert (lone.follower.session.node_id,) == lone.engine.applier.replica.voters


async def test_all_restart_while_the_server_is_empty(tmp_path: Path, valkey_server: Server) -> None:
    """Nodes with data recover their log; they do not found another one."""
    async with voters_with_routes(tmp_path, valkey_server) as (found, written):
        for peer in found.all:
            await peer.router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        back = [await found.add(str(number), expect=3) for number in range(3)]
        for peer in back:
            await peer.router.wait_ready(30)
        await write_again(back[0])

        await assert_held(found, [*written, "again"], *back)


async def test_promise_survives_a_restart(tmp_path: Path, valkey_server: Server) -> None:
    """A promise binds a node after a restart; a higher ballot proceeds."""
    async with voters_with_routes(tmp_path, valkey_server) as (found, written):
        lone = await leave_one(found, valkey_server)
        await until(lambda: lone.engine.applier.replica.promised_epoch == 2)
        await lone.router.stop()
        promised = await asyncio.to_thread(promise_in, lone.path)
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        back = [await found.add(str(number), expect=3) for number in range(3)]
        await write_again(back[1])

        await assert_held(found, [*written, "again"], *back)
        assert promised.startswith("2.")
        assert {3} == {peer.position.epoch for peer in back}


async def test_log_of_another_cluster_is_not_read(tmp_path: Path, valkey_server: Server) -> None:
    """Nothing is applied from an epoch of the same number but another ballot."""
    async with peers(tmp_path, valkey_server.url, 1) as found:
        lone = found[0]
        await write_quorum(lone, numbered("r", 3))
        at, replica = lone.position, lone.engine.applier.replica
        stranger = RedisLog(valkey_server.url)
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        encoder = lone.engine.encoder
        await stranger.epochs.found(
            fingerprint=encoder.fingerprint, dim=encoder.dim, voters=("other",), epoch_id="theirs"
        )
        head = await stranger.head()
        position = head.position if isinstance(head, Head) else Position()
        stranger.attach(position=lambda: position, fingerprint=lambda: encoder.fingerprint)
        await stranger.append(
            [Proposal(bytes([number] * 16), DeleteRoute("x")) for number in range(9)]
        )
        progress = await lone.follower.catch_up.run()
        await until(lambda: lone.follower.session.log_state == "foreign")
        await stranger.close()

        assert CatchUpResult.BLOCKED is progress
        assert (at, None) == (replica.position, lone.follower.catch_up.diverged)
        assert 0 == lone.follower.session.counts.forks


async def test_voters_are_replaced_one_by_one(tmp_path: Path, valkey_server: Server) -> None:
    """A voter is added, another is removed, and the new majority recovers the log."""
    async with voters_with_routes(tmp_path, valkey_server, routes_count=4) as (found, written):
        fresh = await found.add("fresh", expect=3)
        await fresh.router.wait_ready(30)
        gone = found[0]
        added = await found[1].router.achange_voter(fresh.follower.session.node_id, is_adding=True)
        again = await found[1].router.achange_voter(fresh.follower.session.node_id, is_adding=True)
        removed = await found[1].router.achange_voter(
            gone.follower.session.node_id, is_adding=False
        )
        await found.settle()
        voters = found[1].engine.applier.replica.voters
        await gone.router.stop()
        await found[1].router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        await write_again(fresh)

        left = [found[2], fresh]
        await assert_held(found, [*written, "again"], *left)
        assert ("applied", "unchanged", "applied") == (added.status, again.status, removed.status)
        expected = sorted(each.follower.session.node_id for each in (found[1], *left))
        assert expected == list(voters)
        assert expected == list(fresh.engine.applier.replica.voters)


async def test_voters_do_not_change_twice_at_once(tmp_path: Path, valkey_server: Server) -> None:
    """Until a majority holds the last change, the next one is refused."""
    async with voters_with_routes(tmp_path, valkey_server, routes_count=2) as (found, _):
        await asyncio.to_thread(valkey_server.call, "HSET", META, "voters_seq", "1000")
        with pytest.raises(SequencerUnavailable) as refused:
            await found[0].router.achange_voter("newcomer", is_adding=True)

        assert "unheld" == refused.value.fields["reason"]


async def test_forced_recovery_is_previewed(tmp_path: Path, valkey_server: Server) -> None:
    """An operator sees what would be kept, who is missing, and what may be lost."""
    async with voters_with_routes(tmp_path, valkey_server, routes_count=4) as (found, _):
        at = await found.settle()
        sound = await found[0].router.arecovery()
        missing = sorted(peer.follower.session.node_id for peer in found.all[1:])
        lone = await leave_one(found, valkey_server)
        await until(lambda: "waiting for voters" in lone.follower.status().detail)
        outlook = await lone.router.aforce_recovery()
        await write_again(lone)

        assert (False, "", []) == (sound.is_needed, sound.risk, sound.missing)
        assert (True, str(at.revision)) == (outlook.is_needed, outlook.base)
        assert missing == sorted(outlook.missing)
        assert all(name in outlook.risk for name in missing)


async def test_available_recovery_proceeds_with_the_nodes_present(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``available``, ten seconds without a majority are enough; the voters remain."""
    monkeypatch.setattr(choice_module, "AVAILABLE_SECONDS", 1.0)
    available = voters_with_routes(tmp_path, valkey_server, routes_count=4, recovery="available")
    async with available as (found, written):
        lone = await leave_one(found, valkey_server)
        await until(lambda: lone.follower.session.log_state == "open" and lone.position.epoch == 2)
        await lone.router.aput_route(route("again"))

        await assert_held(found, [*written, "again"], lone)
        assert 3 == len(lone.engine.applier.replica.voters)

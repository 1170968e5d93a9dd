"""Goal: a member that lies cannot open an epoch without a majority of the voters.

Method: real routers with pinned voters on a real server.  The liar has the cluster secret, the
identity key of one voter, and owns Redis.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from followers import Peers, assert_held, route, until, write_again, write_quorum
from forger import Member
from secrets_of_clusters import Pins, signed
from servers import Server
from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import Ballot, OpenEpoch
from synaptoroute.trust.identity import NodeIdentity

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
WRITES_RETURN_SECONDS = 15.0
Open = Callable[[Member, NodeIdentity, str], str]


@asynccontextmanager
async def lied_to(folder: Path, url: str) -> AsyncIterator[tuple[Peers, Member]]:
    """Three pinned voters that hold one route, and a member that lies."""
    async with signed(folder, url) as found:
        assert found[0].engine.replica_status.level >= VOTES_LEVEL
        await write_quorum(found[0], ["kept"])
        await found.settle()
        member = Member(url, await asyncio.to_thread(Pins.secret_of, folder))
        try:
            yield found, member
        finally:
            member.close()


def _opening(member: Member, *votes: str, voters: tuple[str, ...] = ()) -> OpenEpoch:
    meta = member.meta()
    names = voters or tuple(meta["voters"].split(","))
    encoder = meta["fingerprint"], int(meta["dim"])
    return OpenEpoch(os.urandom(8).hex(), int(meta["seq"]), names, *encoder, votes=votes)


def _with_votes(
    member: Member, own: NodeIdentity, name: str, others: bool, voters: tuple[str, ...] = ()
) -> str:
    """Open with this voter's vote; with those of the others too, made with keys of its own."""
    meta = member.meta()
    opened = _opening(member, voters=voters)
    ballot = Ballot(int(meta["epoch"]) + 1, opened.epoch_id)
    names = meta["voters"].split(",") if others else [name]
    signers = [member.signer(each, own if each == name else None) for each in names]
    votes = [member.vote(signer, ballot) for signer in signers]
    mine = _opening(member, *votes, voters=voters)
    return member.open_epoch(OpenEpoch(opened.epoch_id, *_rest(mine)))


def _rest(opened: OpenEpoch) -> tuple[object, ...]:
    fields = (opened.base_seq, opened.voters, opened.fingerprint, opened.dim)
    return (*fields, opened.level, opened.voter_keys, opened.votes)


def without_votes(member: Member, own: NodeIdentity, name: str) -> str:
    """The entry of a release that knows no votes."""
    return member.open_epoch(_opening(member))


def with_its_own_vote(member: Member, own: NodeIdentity, name: str) -> str:
    """One vote of three."""
    return _with_votes(member, own, name, others=False)


def as_if_forced(member: Member, own: NodeIdentity, name: str) -> str:
    """One vote of three, and the others lose theirs."""
    return _with_votes(member, own, name, others=False, voters=(name,))


def with_invented_votes(member: Member, own: NodeIdentity, name: str) -> str:
    """The votes of all, two of them with keys that the secret admits."""
    return _with_votes(member, own, name, others=True)


@pytest.mark.parametrize(
    "lie", [without_votes, with_its_own_vote, as_if_forced, with_invented_votes]
)
async def test_epoch_of_a_lone_member_is_not_followed(
    tmp_path: Path, valkey_server: Server, lie: Open
) -> None:
    async with lied_to(tmp_path, valkey_server.url) as (found, member):
        own = await asyncio.to_thread(NodeIdentity.load, tmp_path / "0.key")
        epoch = found[0].position.epoch
        opened = await asyncio.to_thread(lie, member, own, found[0].engine.node_id)
        assert WRITES_RETURN_SECONDS > await write_again(found[1])
        await assert_held(found, ["kept", "again"])
        for peer in found.all:
            epochs = peer.engine.replica_status.epochs
            assert opened not in {each.opened.epoch_id for each in epochs}
            assert peer.position.epoch > epoch + 1


async def test_votes_for_one_ballot_open_no_other_epoch(
    tmp_path: Path, valkey_server: Server
) -> None:
    async with lied_to(tmp_path, valkey_server.url) as (found, member):
        await asyncio.to_thread(valkey_server.call, "HSET", member.keys.meta, "replid", "x" * 40)
        await until(lambda: found[0].position.epoch == 2)
        await write_again(found[0], "between")
        await found.settle()
        _, genuine = await asyncio.to_thread(member.newest)
        assert 2 <= len(genuine.votes) <= 3
        meta = await asyncio.to_thread(member.meta)
        again = OpenEpoch(
            genuine.epoch_id,
            int(meta["seq"]),
            *_rest(genuine)[1:],  # type: ignore[arg-type]
        )
        await asyncio.to_thread(member.open_epoch, again)
        assert WRITES_RETURN_SECONDS > await write_again(found[1])
        await assert_held(found, ["kept", "between", "again"])
        assert found[0].position.epoch > 3


async def test_newcomer_verifies_the_votes_of_every_epoch(
    tmp_path: Path, valkey_server: Server
) -> None:
    async with lied_to(tmp_path, valkey_server.url) as (found, member):
        for number in range(2):
            epoch = found[0].position.epoch
            junk = "x" * 39 + str(number)
            await asyncio.to_thread(valkey_server.call, "HSET", member.keys.meta, "replid", junk)
            await until(lambda: found[0].position.epoch > epoch)  # noqa: B023
            await write_again(found[0], f"in-{number}")
        newcomer = await found.add("late", door=True)
        await newcomer.router.wait_ready(30)
        await found.judge()
        assert 3 == len(newcomer.engine.replica_status.epochs)
        await found[0].router.aput_route(route("more"))

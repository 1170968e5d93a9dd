"""Goal: where voters are pinned, only a majority of them changes who they are.

Method: real voters with a genesis file on a real server; a member that lies has the cluster secret,
the identity key of one voter, and owns Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from followers import Peer, Peers, assert_held, route, until, write_again, write_quorum
from forger import Member
from secrets_of_clusters import Pins, signed
from servers import Server
from synaptoroute.cli.app import app
from synaptoroute.core.mutation import Proposal, VoterAdd, VoterRemove
from synaptoroute.errors import OperatorSignatureNeeded, SynaptoRouteError
from synaptoroute.router import WriteOptions
from synaptoroute.trust.genesis import dump_genesis
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.voters import VoterChange, hash_of_keys, sign_change, verify_chain

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
WRITES_RETURN_SECONDS = 15.0
NODES = "sr:{default}:nodes"


def _voters(peer: Peer) -> set[str]:
    return set(peer.engine.replica_status.voters)


async def _write_acknowledged(peer: Peer, name: str) -> None:
    """Write until a quorum has acknowledged it; what is pending behind a forgery is dropped."""
    options = WriteOptions(ack="quorum", ack_timeout_seconds=2)
    async with asyncio.timeout(WRITES_RETURN_SECONDS):
        while True:
            with contextlib.suppress(SynaptoRouteError):
                result = await peer.router.aput_route(route(name), options)
                if (result.status, result.ack) in (("applied", "quorum"), ("unchanged", "quorum")):
                    return
            await asyncio.sleep(0.1)


def _forge(
    member: Member, mutation: VoterAdd | VoterRemove, own: NodeIdentity | None, found: Peers
) -> None:
    """Append a change as no script would, with the vote of one voter if its key is given."""
    op_id = os.urandom(16)
    if own is not None:
        keys = found[0].engine.replica_status.voter_keys
        meta = member.meta()
        is_adding = isinstance(mutation, VoterAdd)
        key = mutation.public_key if isinstance(mutation, VoterAdd) else keys[mutation.node_id]
        before = hash_of_keys(keys.values())
        change = VoterChange(meta["lineage"], op_id.hex(), is_adding, mutation.node_id, key, before)
        signer = member.signer(found[0].engine.node_id, own)
        vote = sign_change(signer, change, found[0].position)
        name = mutation.node_id
        mutation = VoterAdd(name, key, (vote,)) if is_adding else VoterRemove(name, (vote,))
    member.append_sealed(Proposal(op_id, mutation))


@pytest.mark.parametrize("has_vote", [False, True], ids=["no vote", "one vote"])
@pytest.mark.parametrize("is_adding", [True, False], ids=["add", "remove"])
async def test_change_of_voters_by_a_lone_member_is_not_followed(
    tmp_path: Path, valkey_server: Server, has_vote: bool, is_adding: bool
) -> None:
    async with signed(tmp_path, valkey_server.url) as found:
        await write_quorum(found[0], ["kept"])
        await found.settle()
        before = _voters(found[0])
        member = Member(valkey_server.url, await asyncio.to_thread(Pins.secret_of, tmp_path))
        own = await asyncio.to_thread(NodeIdentity.load, tmp_path / "0.key") if has_vote else None
        victim = found[2].engine.node_id
        mutation: VoterAdd | VoterRemove = VoterRemove(victim)
        if is_adding:
            mutation = VoterAdd("liar", NodeIdentity.generate().public_key)
        await asyncio.to_thread(_forge, member, mutation, own, found)
        await _write_acknowledged(found[1], "again")
        await assert_held(found, ["kept", "again"])
        assert all(before == _voters(peer) for peer in found.all)
        member.close()


async def test_lost_voter_is_replaced_and_the_genesis_stays(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The two that are left agree; a newcomer that knows the genesis alone verifies the new set."""
    async with signed(tmp_path, valkey_server.url) as found:
        await write_quorum(found[0], ["kept"])
        lost = found[2]
        await lost.router.stop()
        fresh = await found.add("fresh", door=True)
        await fresh.router.wait_ready(30)
        new = fresh.engine.node_id
        await found[0].router.achange_voter(new, is_adding=True)
        await found[0].router.achange_voter(lost.engine.node_id, is_adding=False)
        await found[1].router.stop()
        # Of the three that vote now, one is not in the genesis and one is away.
        late = await found.add("late", door=True)
        await late.router.wait_ready(30)
        assert {found[0].engine.node_id, found[1].engine.node_id, new} == _voters(late)

        follower = late.follower
        document = json.loads(await follower._peers.read_voters(found[0].url))
        pinned = follower.certificates.pinned
        keys, count = verify_chain(document["links"], follower.session.log.verifier, pinned, "")
        assert (set(document["keys"].values()), 2) == (keys, count)
        assert fresh.follower.session.signer.public_key in keys - pinned


async def test_voters_agree_to_nothing_but_replacements(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Rows that are deleted from Redis do not make a voter look lost."""
    async with signed(tmp_path, valkey_server.url) as found:
        fresh = await found.add("fresh", door=True)
        await fresh.router.wait_ready(30)
        victim, before = found[2].engine.node_id, _voters(found[0])

        async def hide() -> None:
            while True:
                await asyncio.to_thread(valkey_server.call, "HDEL", NODES, victim)
                await asyncio.sleep(0.02)

        hiding = asyncio.create_task(hide())
        with pytest.raises(OperatorSignatureNeeded, match="lives"):
            await found[0].router.achange_voter(victim, is_adding=False)
        with pytest.raises(OperatorSignatureNeeded, match="replaces no lost voter"):
            await found[0].router.achange_voter(fresh.engine.node_id, is_adding=True)
        hiding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hiding
        assert before == _voters(found[0])


async def test_operator_changes_the_voters_at_will(tmp_path: Path, valkey_server: Server) -> None:
    operator, key_file = NodeIdentity.generate(), tmp_path / "operator.key"
    await asyncio.to_thread(operator.save, key_file)
    async with signed(tmp_path, valkey_server.url, operator=operator.public_key) as found:
        fresh = await found.add("fresh", door=True)
        await fresh.router.wait_ready(30)
        new, url = fresh.engine.node_id, found[1].url
        command = ["cluster", "voter", new, "--url", url]
        refused = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert 0 != refused.exit_code
        assert "operator" in refused.output
        signed_command = [*command, "--operator-key", str(key_file)]
        done = await asyncio.to_thread(CliRunner().invoke, app, signed_command)
        assert 0 == done.exit_code, done.output
        await until(lambda: all(new in _voters(peer) for peer in found.all))
        assert (
            fresh.engine.replica_status.voter_keys[new] == fresh.follower.session.signer.public_key
        )
        done = await asyncio.to_thread(CliRunner().invoke, app, [*signed_command, "--remove"])
        assert 0 == done.exit_code, done.output
        await until(lambda: all(new not in _voters(peer) for peer in found.all))


async def test_voters_that_are_not_pinned_change_with_their_keys(
    tmp_path: Path, valkey_server: Server
) -> None:
    async with signed(tmp_path, valkey_server.url, is_pinned=False) as found:
        fresh = await found.add("fresh", door=True)
        await fresh.router.wait_ready(30)
        new = fresh.engine.node_id
        await found[0].router.achange_voter(new, is_adding=True)
        key = found[0].engine.replica_status.voter_keys[new]
        assert key == fresh.follower.session.signer.public_key
        await found[0].router.achange_voter(found[2].engine.node_id, is_adding=False)
        await until(lambda: found[2].engine.node_id not in _voters(fresh))
        await write_again(fresh)


async def test_newcomer_reads_changes_from_before_the_voters_were_pinned(
    tmp_path: Path, valkey_server: Server
) -> None:
    """Its state is certified as a whole, so the entries need not prove themselves to it."""
    async with signed(tmp_path, valkey_server.url, is_pinned=False) as found:
        fresh = await found.add("fresh", door=True)
        await fresh.router.wait_ready(30)
        await found[0].router.achange_voter(fresh.engine.node_id, is_adding=True)
        await write_quorum(found[0], ["kept"])
        keys = found[0].engine.replica_status.voter_keys
        genesis_file = tmp_path / "later.json"
        await asyncio.to_thread(genesis_file.write_text, dump_genesis("default", keys))
        late = await found.add("late", door=True, genesis_file=genesis_file)
        await late.router.wait_ready(30)
        await found.judge()
